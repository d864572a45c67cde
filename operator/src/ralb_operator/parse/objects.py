"""Objects of RALB's own kinds: judged by their models, explained in words."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from ralb_api import API_VERSION, GROUP
from ralb_api.objects import KINDS, Object
from ralb_api.problems import Problem, Severity
from ralb_operator.doubts import doubts
from ralb_operator.explain_errors import Finding, Path, close_to, dotted, explain, listed, shown
from ralb_operator.parse.common import Parsed, key_of, printable, problems_of

IGNORED = "Ignored"
DOUBTFUL = "Doubtful"
# Kinds of others that are read, by (kind, API group).
FOREIGN_KINDS = {
    ("Pod", ""): ("v1",),
    ("Service", ""): ("v1",),
    ("Secret", ""): ("v1",),
    ("EndpointSlice", "discovery.k8s.io"): ("v1",),
    ("InferencePool", "inference.networking.k8s.io"): ("v1",),
    ("ReferenceGrant", "gateway.networking.k8s.io"): ("v1", "v1beta1"),
}


def to_object(data: Mapping[str, Any], file: str = "", flaws: Iterable[Finding] = ()) -> Parsed[Object]:
    """An object of one of RALB's kinds.

    Args:
        data: the whole object as plain data with text keys; ``status`` is not looked at.
        file: where it came from, for problems.
        flaws: what was already found wrong with it; they are errors too.
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
    empty: list[Path] = []
    wire["spec"] = _without_empty(wire["spec"], ("spec",), empty) if "spec" in wire else None
    if wire["spec"] is None:
        del wire["spec"]
    findings += [
        Finding(dotted(path), "is empty", "give it a value, or remove it to get its default") for path in empty[:16]
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
    return Parsed(value, problems_of(data, doubts(value), file, reason=DOUBTFUL, warn=True))


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


def _without_empty(value: Any, path: Path, empty: list[Path]) -> Any:
    """The value without nulls, whose places go into ``empty``: half a condition must not become no condition."""
    if isinstance(value, Mapping):
        out = {}
        for name, item in value.items():
            if item is None:
                empty.append((*path, name))
            else:
                out[name] = _without_empty(item, (*path, name), empty)
        return out
    if isinstance(value, list):
        for index, item in enumerate(value):
            if item is None:
                empty.append((*path, index))
        return [_without_empty(item, (*path, index), empty) for index, item in enumerate(value)]
    return value
