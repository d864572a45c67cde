"""Plain data to objects, whether it came from a file or from a cluster: the model, or problems that say what to fix.

May not enter: reading anything, and rules across objects (``compile`` has those).
"""

import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from ralb_api import API_VERSION, GROUP
from ralb_api.objects import KINDS, Object
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.doubts import doubts
from ralb_operator.explain_errors import Finding, Path, close_to, dotted, explain, listed, shown
from ralb_operator.view import Pod

INVALID = "Invalid"
UNKNOWN_KIND = "UnknownKind"
IGNORED = "Ignored"
DOUBTFUL = "Doubtful"

PORT_ANNOTATION = "ralb.dev/port"
UNNAMED = "<unnamed>"

_MAX_FINDINGS = 50


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """What came of it: the value, unless one of the problems is an error."""

    value: T | None
    problems: tuple[Problem, ...] = ()


def key_of(data: Mapping[str, Any]) -> ObjectKey:
    """The identity an object claims, however broken it is; fit to be printed."""
    metadata = data.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}

    def text(value: object, default: str) -> str:
        return _printable(value) if isinstance(value, str) and value else default

    return ObjectKey(
        text(data.get("kind"), "Object"),
        text(metadata.get("namespace"), "default"),
        text(metadata.get("name"), UNNAMED),
    )


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
        return Parsed(None, _problems(data, findings, file))
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
        return Parsed(None, _problems(data, findings, file))
    return Parsed(value, _problems(data, doubts(value), file, reason=DOUBTFUL, warn=True))


def to_pod(data: Mapping[str, Any], file: str = "", *, assume_ready: bool = False) -> Parsed[Pod]:
    """A ``v1`` Pod as far as routing cares.

    Args:
        data: the Pod as plain data.
        file: where it came from, for problems.
        assume_ready: a pod without any ``status.conditions`` counts as ready; for manifests of pods that no kubelet
            reports on.

    Returns:
        No value and no error for a pod that has no address yet; a warning then says so.
    """
    findings: list[Finding] = []
    metadata = _mapping(data, "metadata", "", findings)
    status = _mapping(data, "status", "", findings)
    labels = _texts(metadata, "labels", findings)
    annotations = _texts(metadata, "annotations", findings)
    name, namespace = metadata.get("name"), metadata.get("namespace") or "default"
    if not isinstance(name, str) or not name:
        findings.append(Finding("metadata.name", "required field is missing", "name the pod"))
    if not isinstance(namespace, str):
        findings.append(Finding("metadata.namespace", f"must be text, not {shown(namespace)}", "put it in quotes"))
    port = _port(annotations, findings)
    ip = _address(status.get("podIP"), findings)
    if findings:
        return Parsed(None, _problems(data, findings, file))
    if not ip:
        text = "has no address yet; it is left out"
        return Parsed(
            None,
            _problems(data, [Finding("status.podIP", text, "set status.podIP to the pod's address")], file, warn=True),
        )
    ready = _ready(status, assume_ready) and not metadata.get("deletionTimestamp")
    return Parsed(Pod(str(namespace), str(name), labels, ip, ready, port))


def ignored(data: Mapping[str, Any], file: str = "") -> Problem:
    """The warning about an object of a kind that is not ours."""
    message = f"{_printable(str(data.get('apiVersion')))} is not for RALB; the object is ignored"
    hint = f"kinds that are read: {listed([*KINDS, 'Pod'])}"
    return Problem(key_of(data), "", IGNORED, message, hint, file, Severity.WARNING)


def concerns_us(data: Mapping[str, Any]) -> bool:
    """Whether an object is meant for RALB, be it by kind or by API group."""
    version, kind = data.get("apiVersion"), data.get("kind")
    return kind in KINDS or (isinstance(version, str) and version.partition("/")[0] == GROUP)


def _problems(
    data: Mapping[str, Any],
    findings: list[Finding],
    file: str,
    *,
    reason: str = INVALID,
    warn: bool = False,
) -> tuple[Problem, ...]:
    severity = Severity.WARNING if warn else Severity.ERROR
    key = key_of(data)
    rest = len(findings) - _MAX_FINDINGS
    if rest > 0:
        findings = [
            *findings[:_MAX_FINDINGS],
            Finding("", f"and {rest} more errors", "fix the first ones and run again"),
        ]
    return tuple(Problem(key, f.field, reason, f.message, f.hint, file, severity) for f in findings)


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


def _mapping(data: Mapping[str, Any], name: str, prefix: str, findings: list[Finding]) -> Mapping[str, Any]:
    value = data.get(name)
    if value is None or isinstance(value, Mapping):
        return value or {}
    findings.append(Finding(f"{prefix}{name}", f"must be a mapping of names to values, not {shown(value)}", ""))
    return {}


def _texts(metadata: Mapping[str, Any], name: str, findings: list[Finding]) -> dict[str, str]:
    out: dict[str, str] = {}
    for key, value in _mapping(metadata, name, "metadata.", findings).items():
        if isinstance(value, str):
            out[key] = value
        else:
            path = dotted(("metadata", name, key))
            findings.append(Finding(path, f"must be text, not {shown(value)}", "put it in quotes"))
    return out


def _port(annotations: Mapping[str, str], findings: list[Finding]) -> int:
    text = annotations.get(PORT_ANNOTATION)
    if text is None:
        return 0
    if text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    path = dotted(("metadata", "annotations", PORT_ANNOTATION))
    findings.append(Finding(path, f"must be a port number, not {shown(text)}", 'between 1 and 65535, such as "8000"'))
    return 0


def _address(value: object, findings: list[Finding]) -> str:
    if value is None or value == "":
        return ""
    hint = "write an IPv4 or IPv6 address of the pod, such as 10.0.0.7"
    if isinstance(value, str) and len(value) <= 45 and "%" not in value:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            pass
        else:
            if not (address.is_unspecified or address.is_multicast):
                return str(address)
    findings.append(Finding("status.podIP", f"{shown(value)} is no address a pod can have", hint))
    return ""


def _ready(status: Mapping[str, Any], assume_ready: bool) -> bool:
    conditions = status.get("conditions")
    if not isinstance(conditions, list) or not conditions:
        return assume_ready
    return any(
        isinstance(item, Mapping) and item.get("type") == "Ready" and item.get("status") == "True"
        for item in conditions
    )


def _printable(text: str) -> str:
    clean = "".join(ch if ch.isprintable() else "?" for ch in text[:254])
    return clean if len(text) <= 253 else f"{clean[:253]}..."
