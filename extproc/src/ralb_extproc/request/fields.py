"""Checks on single JSON fields, each with an error that names the field and says what was wanted.

``param`` is the path of the object that holds the field ("messages[2].", "" at the top); it is put together only when
something is wrong, because the good path runs for every message of every request.
"""

from collections.abc import Mapping
from typing import Any

from ralb_api.errors import ClientError, Code

MAX_INT = 2**31 - 1
_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def kind(value: object) -> str:
    """What a decoded JSON value is, in words."""
    return _KINDS.get(type(value), "an unknown value")


def invalid(param: str, message: str) -> ClientError:
    """A 400 about one field; the message should read on from the field's path."""
    return ClientError(400, Code.INVALID_REQUEST, f"{param} {message}", param)


def required_text(body: Mapping[str, Any], name: str, at: str, longest: int) -> str:
    """A string that must be there, not blank, of at most ``longest`` characters."""
    value = body.get(name)
    if value is None:
        raise invalid(f"{at}{name}", "is required and must be a string")
    if type(value) is not str:
        raise invalid(f"{at}{name}", f"must be a string, not {kind(value)}")
    if not value or value.isspace():
        raise invalid(f"{at}{name}", "must not be empty")
    if len(value) > longest:
        raise invalid(f"{at}{name}", f"is {len(value)} characters long; at most {longest} are allowed")
    return value


def optional_text(body: Mapping[str, Any], name: str, at: str = "") -> str:
    """A string, or "" when absent or null."""
    value = body.get(name)
    if value is None:
        return ""
    if type(value) is not str:
        raise invalid(f"{at}{name}", f"must be a string, not {kind(value)}")
    return value


def flag(body: Mapping[str, Any], name: str) -> bool:
    """A boolean; absent and null are false."""
    value = body.get(name)
    if value is None or value is False:
        return False
    if value is True:
        return True
    raise invalid(name, f"must be true or false, not {kind(value)}")


def whole(body: Mapping[str, Any], name: str, low: int, high: int = MAX_INT, at: str = "") -> int | None:
    """An integer in ``low`` to ``high``; None when absent or null. Booleans are not integers."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise invalid(f"{at}{name}", f"must be an integer, not {kind(value)}")
    if not low <= value <= high:
        raise invalid(f"{at}{name}", f"must be from {low} to {high}, not {value}")
    return value


def optional_object(body: Mapping[str, Any], name: str, at: str = "") -> Mapping[str, Any] | None:
    """An object, or None when absent or null."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not dict:
        raise invalid(f"{at}{name}", f"must be an object, not {kind(value)}")
    return value


def optional_list(body: Mapping[str, Any], name: str, at: str = "") -> list[Any]:
    """A list; absent and null are empty."""
    value = body.get(name)
    if value is None:
        return []
    if type(value) is not list:
        raise invalid(f"{at}{name}", f"must be a list, not {kind(value)}")
    return value


def objects(body: Mapping[str, Any], name: str, at: str = "", *, required: bool = False) -> list[dict[str, Any]]:
    """A list of objects; with ``required`` it must be there and hold at least one."""
    value = body.get(name)
    if value is None:
        if required:
            raise invalid(f"{at}{name}", "is required and must be a list of objects")
        return []
    if type(value) is not list:
        raise invalid(f"{at}{name}", f"must be a list of objects, not {kind(value)}")
    if required and not value:
        raise invalid(f"{at}{name}", "must not be empty")
    for index, item in enumerate(value):
        if type(item) is not dict:
            raise invalid(f"{at}{name}[{index}]", f"must be an object, not {kind(item)}")
    return value
