"""xDS resources as plain data for people: messages decoded, whatever they are packed in."""

import dataclasses
import enum
from datetime import timedelta
from typing import Any

import xxhash
from google.protobuf.json_format import MessageToDict

from ralb.v1 import envoy_overlay_pb2
from ralb_operator.compile.envoy import pack  # with it, all messages we use are in the pool
from ralb_operator.xds.resources import Resource

_OVERLAYS = {
    "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier": (
        envoy_overlay_pb2.PriorityGroupClusterSpecifier
    ),
}


def decode_resource(resource: Resource) -> dict[str, Any]:
    return decode(resource.type_url, resource.body)


def decode(type_url: str, body: bytes) -> dict[str, Any]:
    """The message with its ``@type``; fields at their defaults left out.

    Raises:
        KeyError: nobody knows the type.
        ValueError: the message has bytes that its type does not explain.
    """
    name = type_url.rpartition("/")[2]
    if name in _OVERLAYS:
        fields = MessageToDict(_OVERLAYS[name].FromString(body), preserving_proto_field_name=True)
    else:
        fields = _plain(pack.default_message_pool.url_to_type[type_url].parse(body))
    return {"@type": name, **fields}


def _plain(value: Any) -> Any:
    if isinstance(value, pack.Any):
        return decode(value.type_url, value.value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        unknown = getattr(value, "_unknown_fields", b"")
        if unknown:
            raise ValueError(f"{type(value).__name__} has unknown fields: {unknown[:80]!r}")
        fields = {field.name: (field, getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {name: _plain(item) for name, (field, item) in fields.items() if _is_set(field, item)}
    return value


def _is_set(field: dataclasses.Field[Any], value: Any) -> bool:
    meta = field.metadata["betterproto"]
    # Messages, wrapped values and oneofs that are present count even when empty; other defaults do not.
    if meta.optional or meta.group:
        return value is not None
    return bool(value.value if isinstance(value, enum.Enum) else value)


def _bytes(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and text:
        return text
    return f"<{len(value)} bytes, xxh3 {xxhash.xxh3_64_hexdigest(value)}>"
