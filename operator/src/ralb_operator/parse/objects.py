"""Objects of RALB's own kinds: judged by their models, explained in words."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from ralb_api import API_VERSION, GROUP
from ralb_api.objects import KINDS, Object
from ralb_api.problems import Problem, Severity
from ralb_api.schema import Schema, structural
from ralb_operator.doubts import doubts
from ralb_operator.explain_errors import Finding, Path, close_to, dotted, explain, listed, shown
from ralb_operator.parse.common import Parsed, key_of, printable, problems_of

IGNORED = "Ignored"
DOUBTFUL = "Doubtful"
_MAX_TOLD = 16
# Below these fields nothing unknown is left out: a condition that is not understood must not be taken for one that holds.
_CONDITIONS = {"match", "when", "identification", "selector", "compliance"}
# Kinds of others that are read, by (kind, API group).
FOREIGN_KINDS = {
    ("Pod", ""): ("v1",),
    ("Service", ""): ("v1",),
    ("Secret", ""): ("v1",),
    ("EndpointSlice", "discovery.k8s.io"): ("v1",),
    ("InferencePool", "inference.networking.k8s.io"): ("v1",),
    ("ReferenceGrant", "gateway.networking.k8s.io"): ("v1", "v1beta1"),
}


def to_object(
    data: Mapping[str, Any], file: str = "", flaws: Iterable[Finding] = (), *, stored: bool = False
) -> Parsed[Object]:
    """An object of one of RALB's kinds.

    Args:
        data: the whole object as plain data with text keys; ``status`` is not looked at.
        file: where it came from, for problems.
        flaws: what was already found wrong with it; they are errors too.
        stored: the object comes from an API server, which keeps no field its definition does not have. One unknown here is
            of a newer definition (and may be there in every object, as a default): it is left out with a warning, unless
            it is part of a condition.
    """
    findings = list(flaws)
    kind, version = data.get("kind"), data.get("apiVersion")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        findings.append(_unknown_kind(kind))
        return Parsed(None, problems_of(data, findings, file))
    if version != API_VERSION:
        findings.append(_wrong_version(version))
    wire = {name: value for name, value in data.items() if name != "status"}
    wire["apiVersion"] = API_VERSION
    if isinstance(metadata := data.get("metadata"), Mapping):
        # Kubernetes' own tools print empty ones, as in `creationTimestamp: null`.
        wire["metadata"] = {name: value for name, value in metadata.items() if value is not None}
    reading = _Reading(stored)
    wire["spec"] = reading.clean(wire.get("spec"), ("spec",), structural(model)["properties"]["spec"])
    if wire["spec"] is None:
        del wire["spec"]
    findings += [
        Finding(dotted(path), "is empty", "give it a value, or remove it to get its default")
        for path in reading.empty[:_MAX_TOLD]
    ]
    value: Object | None = None
    try:
        value = model.model_validate_json(json.dumps(wire), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        gone = {finding.field for finding in findings}
        explained = explain(model, error.errors(include_url=False))
        findings += [finding for finding in explained if finding.field not in gone]
    if findings or value is None:
        return Parsed(None, problems_of(data, findings, file))
    newer = [
        Finding(
            dotted(path), "unknown field; it is left out", "upgrade the operator: the definitions are newer than it"
        )
        for path in reading.unknown[:_MAX_TOLD]
    ]
    return Parsed(value, problems_of(data, [*newer, *doubts(value)], file, reason=DOUBTFUL, warn=True))


def ignored(data: Mapping[str, Any], file: str = "") -> Problem:
    """The warning about an object of a kind that is not ours."""
    message = f"{printable(str(data.get('apiVersion')))} is not for RALB; the object is ignored"
    hint = f"kinds that are read: {listed([*KINDS, *(kind for kind, _ in FOREIGN_KINDS)])}"
    return Problem(key_of(data), "", IGNORED, message, hint, file, Severity.WARNING)


def concerns_us(data: Mapping[str, Any]) -> bool:
    """Whether an object is meant for RALB, be it by kind or by API group."""
    version, kind = data.get("apiVersion"), data.get("kind")
    return kind in KINDS or (isinstance(version, str) and version.partition("/")[0] == GROUP)


def foreign_kind(data: Mapping[str, Any]) -> str:
    """The kind of an object that is another project's but read all the same; "" when it is not read."""
    version, kind = data.get("apiVersion"), data.get("kind")
    if not isinstance(kind, str) or not isinstance(version, str):
        return ""
    group, _, number = version.rpartition("/")
    return kind if number in FOREIGN_KINDS.get((kind, group), ()) else ""


def _unknown_kind(kind: object) -> Finding:
    allowed = listed(list(KINDS))
    if not isinstance(kind, str) or not kind:
        return Finding("kind", "required field is missing", f"one of {allowed}")
    near = close_to(kind, list(KINDS))
    hint = f"did you mean {near}? allowed: {allowed}" if near else f"allowed: {allowed}"
    return Finding("kind", f"{shown(kind)} is not a kind of {GROUP}", hint)


def _wrong_version(version: object) -> Finding:
    hint = f"write apiVersion: {API_VERSION}"
    if version is None:
        return Finding("apiVersion", "required field is missing", hint)
    return Finding("apiVersion", f"{shown(version)} is not a version RALB reads", hint)


class _Reading:
    """Plain data as Kubernetes understands it, with what is noticed on the way.

    Attributes:
        empty: places of nulls, which are dropped; whoever wrote half a condition must be told, not get none.
        unknown: places of fields that were left out because they are not in the schema.
    """

    def __init__(self, stored: bool) -> None:
        self._stored = stored
        self.empty: list[Path] = []
        self.unknown: list[Path] = []

    def clean(self, value: Any, path: Path, schema: Schema) -> Any:
        """A copy of the value without nulls, and with whole numbers as such (5.0 is one to Kubernetes)."""
        if isinstance(value, Mapping):
            return self._mapping(value, path, schema)
        if isinstance(value, list):
            items = schema.get("items", {})
            self.empty += [(*path, index) for index, item in enumerate(value) if item is None]
            return [self.clean(item, (*path, index), items) for index, item in enumerate(value)]
        if isinstance(value, float) and schema.get("type") == "integer" and value.is_integer():
            return int(value)
        return value

    def _mapping(self, value: Mapping[str, Any], path: Path, schema: Schema) -> dict[str, Any]:
        fields: Schema = schema.get("properties", {})
        anything: Schema = schema.get("additionalProperties", {})
        out = {}
        for name, item in value.items():
            if self._stored and fields and name not in fields and not _CONDITIONS & set(path):
                self.unknown.append((*path, name))
            elif item is None:
                self.empty.append((*path, name))
            else:
                out[name] = self.clean(item, (*path, name), fields.get(name, anything))
        return out
