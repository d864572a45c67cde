"""Services and their EndpointSlices as far as routing cares."""

from collections.abc import Mapping
from typing import Any

from ralb_operator.explain_errors import shown
from ralb_operator.parse.common import Fields, Parsed, ip_address, problems_of
from ralb_operator.view import EndpointSlice, Service, SliceEndpoint

SERVICE_LABEL = "kubernetes.io/service-name"
# What the API server accepts.
_MAX_PORTS = 100
_MAX_ENDPOINTS = 1000
_MAX_ADDRESSES = 100
_EXTERNAL_NAME = "ExternalName"


def to_service(data: Mapping[str, Any], file: str = "") -> Parsed[Service]:
    """A ``v1`` Service. Ports that are not TCP are left out."""
    fields = Fields.of(data)
    namespace, name = fields.identity("service")
    spec = fields.mapping(data, "spec")
    external = ""
    if fields.text(spec, "type", "spec.type", default="ClusterIP") == _EXTERNAL_NAME:
        external = fields.text(spec, "externalName", "spec.externalName").rstrip(".")
    ports = [
        (fields.text(port, "name", f"{path}.name", default=""), fields.number(port, "port", f"{path}.port"))
        for path, port in fields.items(spec, "ports", "spec.", _MAX_PORTS)
        if port.get("protocol", "TCP") == "TCP"
    ]
    if fields.findings:
        return Parsed(None, fields.problems(file))
    return Parsed(Service(namespace, name, tuple(ports), external))


def to_slice(data: Mapping[str, Any], file: str = "") -> Parsed[EndpointSlice]:
    """A ``discovery.k8s.io/v1`` EndpointSlice.

    Returns:
        No value and no error for a slice that is no Service's or has no IP addresses. A missing ``ready`` means ready.
        Of an endpoint's several addresses, which are interchangeable, the first counts.
    """
    fields = Fields.of(data)
    namespace, name = fields.identity("slice")
    metadata = data.get("metadata")
    labels = fields.texts(metadata if isinstance(metadata, Mapping) else {}, "labels", "metadata.")
    kind = fields.text(data, "addressType", "addressType", default="IPv4")
    ports = [
        (fields.text(port, "name", f"{path}.name", default=""), fields.number(port, "port", f"{path}.port"))
        for path, port in fields.items(data, "ports", "", _MAX_PORTS)
        if port.get("protocol", "TCP") == "TCP" and port.get("port") is not None
    ]
    endpoints = []
    if kind != "FQDN":
        endpoints = [
            _endpoint(fields, path, endpoint) for path, endpoint in fields.items(data, "endpoints", "", _MAX_ENDPOINTS)
        ]
    if fields.findings:
        return Parsed(None, fields.problems(file))
    service = labels.get(SERVICE_LABEL, "")
    if not service or kind == "FQDN":
        text = "is no Service's; it is left out" if not service else "has names for addresses; it is left out"
        fields.wrong("" if not service else "addressType", text, f"set the label {SERVICE_LABEL} and use IP addresses")
        return Parsed(None, problems_of(data, fields.findings, file, warn=True))
    return Parsed(EndpointSlice(namespace, name, service, tuple(ports), tuple(endpoints)))


def _endpoint(fields: Fields, path: str, endpoint: Mapping[str, Any]) -> SliceEndpoint:
    addresses = endpoint.get("addresses")
    first = addresses[0] if isinstance(addresses, list) and 0 < len(addresses) <= _MAX_ADDRESSES else None
    ip = ip_address(first)
    if not ip:
        fields.wrong(
            f"{path}.addresses", f"{shown(first)} is no address a pod can have", "write an IPv4 or IPv6 address"
        )
    conditions = fields.mapping(endpoint, "conditions", f"{path}.")
    target = fields.mapping(endpoint, "targetRef", f"{path}.")
    pod = fields.text(target, "name", f"{path}.targetRef.name", default="") if target.get("kind") == "Pod" else ""
    return SliceEndpoint(ip, conditions.get("ready") in (None, True), pod, conditions.get("terminating") is True)
