"""Putting messages of three origins into ``Any``: envoy-data-plane's, xds-protos' and our overlay's.

Trap: envoy-data-plane is betterproto2, whose bytes are deterministic only because its fields are written in order and our
maps have one entry or are built sorted. Content hashes rest on that; a property test watches it.
"""

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.google.protobuf import Any
from envoy_data_plane.message_pool import default_message_pool
from google.protobuf.message import Message

_PREFIX = "type.googleapis.com/"


def typed(message: betterproto2.Message) -> Any:
    """An envoy-data-plane message as Any."""
    return Any.pack(message, message_pool=default_message_pool)


def overlay(full_name: str, message: Message) -> Any:
    """A message of ``ralb.v1.envoy_overlay`` as the Envoy message ``full_name`` whose fields it mirrors."""
    return Any(type_url=_PREFIX + full_name, value=message.SerializeToString(deterministic=True))


def extension(name: str, config: Any) -> TypedExtensionConfig:
    """A named extension."""
    return TypedExtensionConfig(name=name, typed_config=config)
