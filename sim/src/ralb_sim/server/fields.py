"""Typed reads of fields of a JSON body from outside; each wrong one is the 400 a real server gives.

Every reader takes the object, the field's name and the path of the object (for the message), and returns the default when the
field is absent or null.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ralb_sim.server.errors import invalid_field, refused_parameter

Body = Mapping[str, Any]


def parse_object(raw: bytes) -> Body:
    """Parse a request body into an object.

    Raises:
        ApiError: 400 when it is not JSON or not an object.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid_field("json_invalid", str(error.pos), f"JSON decode error: {error.msg}", {}) from None
    if not isinstance(value, dict):
        raise invalid_field(
            "model_attributes_type", "", "Input should be a valid dictionary or object to extract fields from", value
        )
    return value


def at(path: str, name: str | int) -> str:
    """Join a path and a field name or index."""
    return f"{path}.{name}" if path else str(name)


def text(body: Body, name: str, default: str = "", path: str = "") -> str:
    """Read a string."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise invalid_field("string_type", at(path, name), "Input should be a valid string", value)
    return value


def required(body: Body, name: str, path: str = "") -> Any:
    """Read a field that must be there (null counts as absent)."""
    value = body.get(name)
    if value is None:
        raise invalid_field("missing", at(path, name), "Field required", dict(body))
    return value


def flag(body: Body, name: str, default: bool = False) -> bool:
    """Read a boolean."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid_field("bool_type", name, "Input should be a valid boolean", value)
    return value


def whole(body: Body, name: str, default: int | None = None, *, least: int, most: int = 1 << 31) -> int | None:
    """Read an integer within bounds."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid_field("int_type", name, "Input should be a valid integer", value)
    if value < least:
        raise refused_parameter(name, f"{name} must be at least {least}, got {value}.", value)
    if value > most:
        raise refused_parameter(name, f"{name} must be at most {most}, got {value}.", value)
    return value


def real(body: Body, name: str, low: float, high: float) -> float | None:
    """Read a number within bounds."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise invalid_field("float_type", name, "Input should be a valid number", value)
    if not low <= value <= high:
        raise refused_parameter(name, f"{name} must be in [{low:g}, {high:g}], got {value}.", value)
    return float(value)


def mapping(body: Body, name: str, path: str = "") -> Body:
    """Read an object; an empty one when absent."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid_field("dict_type", at(path, name), "Input should be a valid dictionary", value)
    return value


def items(body: Body, name: str, path: str = "") -> Sequence[Any]:
    """Read a list; an empty one when absent."""
    value = body.get(name)
    if value is None:
        return ()
    return as_list(value, at(path, name))


def as_list(value: Any, where: str) -> Sequence[Any]:
    """Check that a value is a list."""
    if not isinstance(value, list):
        raise invalid_field("list_type", where, "Input should be a valid list", value)
    return value


def as_object(value: Any, where: str) -> Body:
    """Check that a value is an object."""
    if not isinstance(value, dict):
        raise invalid_field("dict_type", where, "Input should be a valid dictionary", value)
    return value


def strings(body: Body, name: str, most: int = 64) -> tuple[str, ...]:
    """Read a string or a list of strings."""
    value = body.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    found = as_list(value, name)
    if len(found) > most:
        raise refused_parameter(name, f"{name} may have at most {most} entries, got {len(found)}.", len(found))
    for index, one in enumerate(found):
        if not isinstance(one, str):
            raise invalid_field("string_type", at(name, index), "Input should be a valid string", one)
    return tuple(found)
