"""Pods as far as routing cares."""

from collections.abc import Mapping
from typing import Any

from ralb_operator.explain_errors import Finding, dotted, shown
from ralb_operator.parse.common import Fields, Parsed, ip_address, problems_of
from ralb_operator.view import Pod

PORT_ANNOTATION = "ralb.dev/port"


def to_pod(data: Mapping[str, Any], file: str = "", *, assume_ready: bool = False) -> Parsed[Pod]:
    """A ``v1`` Pod.

    Args:
        data: the Pod as plain data.
        file: where it came from, for problems.
        assume_ready: a pod without any ``status.conditions`` counts as ready; for manifests of pods that no kubelet
            reports on.

    Returns:
        No value and no error for a pod that has no address yet; a warning then says so.
    """
    fields = Fields.of(data)
    namespace, name = fields.identity("pod")
    # A broken metadata has been noted by now.
    metadata = data.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    status = fields.mapping(data, "status")
    labels = fields.texts(metadata, "labels", "metadata.")
    port = _port(fields, fields.texts(metadata, "annotations", "metadata."))
    ip = _address(fields, status.get("podIP"))
    if fields.findings:
        return Parsed(None, fields.problems(file))
    if not ip:
        text = "has no address yet; it is left out"
        found = [Finding("status.podIP", text, "set status.podIP to the pod's address")]
        return Parsed(None, problems_of(data, found, file, warn=True))
    leaving = bool(metadata.get("deletionTimestamp"))
    ready = _ready(status, assume_ready) and not leaving
    return Parsed(Pod(namespace, name, labels, ip, ready, port, leaving))


def _port(fields: Fields, annotations: Mapping[str, str]) -> int:
    text = annotations.get(PORT_ANNOTATION)
    if text is None:
        return 0
    if text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    path = dotted(("metadata", "annotations", PORT_ANNOTATION))
    fields.wrong(path, f"must be a port number, not {shown(text)}", 'between 1 and 65535, such as "8000"')
    return 0


def _address(fields: Fields, value: object) -> str:
    if value is None or value == "":
        return ""
    address = ip_address(value)
    if not address:
        hint = "write an IPv4 or IPv6 address of the pod, such as 10.0.0.7"
        fields.wrong("status.podIP", f"{shown(value)} is no address a pod can have", hint)
    return address


def _ready(status: Mapping[str, Any], assume_ready: bool) -> bool:
    conditions = status.get("conditions")
    if not isinstance(conditions, list) or not conditions:
        return assume_ready
    return any(
        isinstance(item, Mapping) and item.get("type") == "Ready" and item.get("status") == "True"
        for item in conditions
    )
