"""Secrets. Trap: nothing of their data may get into a message, not even what is wrong with it."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from ralb_operator.explain_errors import dotted
from ralb_operator.parse.common import Fields, Parsed
from ralb_operator.view import Secret

# What the API server accepts, in bytes of data.
_MAX_BYTES = 1024 * 1024


def to_secret(data: Mapping[str, Any], file: str = "") -> Parsed[Secret]:
    """A ``v1`` Secret, its data decoded. ``stringData``, which only manifests have, wins over ``data``."""
    fields = Fields.of(data)
    namespace, name = fields.identity("secret")
    found: dict[str, bytes] = {}
    for field in ("data", "stringData"):
        value = data.get(field)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            fields.wrong(field, "must be a mapping of names to values")
            continue
        for key, text in value.items():
            decoded = _decoded(text) if field == "data" else _encoded(text)
            if decoded is None:
                what = "is not base64" if field == "data" else "is not text"
                hint = "write it in plain text under stringData" if field == "data" else "put it in quotes"
                fields.wrong(dotted((field, str(key))), what, hint)
            else:
                found[str(key)] = decoded
    if sum(map(len, found.values())) > _MAX_BYTES:
        fields.wrong("data", f"is larger than {_MAX_BYTES} bytes", "make it smaller")
    if fields.findings:
        return Parsed(None, fields.problems(file))
    return Parsed(Secret(namespace, name, found))


def _decoded(text: object) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        # YAML may have folded it over several lines.
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _encoded(text: object) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None
