"""Validation errors in words a user can act on: which field, what is wrong, what to write instead.

Table-driven by pydantic's error type; bounds, enums, patterns and descriptions come from the models themselves.
Trap: values come from outside and end in terminals and logs, so they are shown only through ``shown``.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from ralb_api.objects.common import FORMS
from ralb_api.schema import Schema, at, structural

Path = tuple[str | int, ...]

_PLAIN = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]*(\[\])?$")
_SHOWN_CHARACTERS = 60
_LISTED_NAMES = 24
_TYPE_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping of names to values",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One error: dotted field path in wire names, what is wrong, what to do."""

    field: str
    message: str
    hint: str


def shown(value: object) -> str:
    """A value as it may be printed: JSON-like, one line, no control characters, at most 60 characters."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list"
    if isinstance(value, str):
        text = json.dumps(value[: _SHOWN_CHARACTERS + 1])
    elif value is None or isinstance(value, bool):
        text = {None: "empty", True: "true", False: "false"}[value]
    elif isinstance(value, int) and abs(value) > 10**18:
        text = "a huge number"
    else:
        text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def dotted(path: Path) -> str:
    """``("spec", "rules", 2, "use")`` -> ``spec.rules[2].use``; keys that are no plain words go into brackets."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif _PLAIN.match(part):
            out += f".{part}" if out else part
        else:
            out += f"[{shown(part)[1:-1]}]"
    return out


def close_to(word: str, names: Sequence[str]) -> str:
    """The name the author most likely meant; "" when none is near."""
    plain = {re.sub(r"[-_]", "", name).lower(): name for name in names}
    found = difflib.get_close_matches(re.sub(r"[-_]", "", word[:100]).lower(), list(plain), n=1, cutoff=0.7)
    return plain[found[0]] if found else ""


def listed(names: Sequence[str]) -> str:
    """Names as a list for people, cut when it is long."""
    more = len(names) - _LISTED_NAMES
    return ", ".join(names[:_LISTED_NAMES]) + (f" and {more} more" if more > 0 else "")


def explain(model: type[BaseModel], errors: Sequence[ErrorDetails]) -> list[Finding]:
    """Findings: pydantic's errors of ``model`` (JSON mode, by alias) in their order, each place and text once."""
    schema = structural(model)
    findings = [_explain_one(schema, error) for error in errors if not _miscounted(schema, error)]
    return list(dict.fromkeys(findings))


def _miscounted(schema: Schema, error: ErrorDetails) -> bool:
    """Whether a list is called too short only because items of it are wrong, which is told apart."""
    value = error["input"]
    if error["type"] != "too_short" or not isinstance(value, Sequence):
        return False
    low: int = (at(schema, error["loc"]) or {}).get("minItems", 0)
    return len(value) >= low


def _explain_one(schema: Schema, error: ErrorDetails) -> Finding:
    path: Path = error["loc"]
    if path and path[-1] == "[key]":
        path = path[:-1]
        key = path[-1] if path else ""
        form = FORMS.get(error.get("ctx", {}).get("pattern", ""), "a label key such as app or app.kubernetes.io/name")
        return Finding(dotted(path), f"{shown(key)} cannot be a key here", f"write {form}")
    blamed = error.get("ctx", {}).get("field")
    path = (*path, *blamed.split(".")) if blamed else path
    explainer = _EXPLAINERS.get(error["type"], _fallback)
    message, hint = explainer(_Context(schema, path, error))
    return Finding(dotted(path), message, hint)


@dataclass(frozen=True, slots=True)
class _Context:
    schema: Schema
    path: Path
    error: ErrorDetails

    @property
    def here(self) -> Schema:
        return at(self.schema, self.path) or {}

    @property
    def parent(self) -> Schema:
        return at(self.schema, self.path[:-1]) or {}

    @property
    def ctx(self) -> Mapping[str, Any]:
        return self.error.get("ctx", {})

    @property
    def value(self) -> object:
        return self.error["input"]

    @property
    def about(self) -> str:
        """What the field is for; of an item or a key's value, what the whole is for."""
        text = self.here.get("description", "")
        if not text and "properties" not in self.parent:
            text = self.parent.get("description", "")
        return str(text)


def _unknown(c: _Context) -> tuple[str, str]:
    name = str(c.path[-1])
    allowed = list(c.parent.get("properties", {}))
    hint = f"allowed here: {listed(allowed)}"
    if near := close_to(name, allowed):
        return "unknown field", f"did you mean {near}? {hint}"
    places = [dotted(place) for place in _places(c.schema, name)]
    if 1 <= len(places) <= 3:
        return "unknown field", f"{name} belongs into {' or '.join(places)}; {hint}"
    return "unknown field", hint


def _places(schema: Schema, name: str, path: Path = ()) -> list[Path]:
    """Objects anywhere in the schema that have a field called ``name``."""
    found: list[Path] = []
    properties = schema.get("properties", {})
    if name in properties:
        found.append(path)
    for key, value in properties.items():
        found += _places(value, name, (*path, key))
    if "items" in schema:
        found += _places(schema["items"], name, (*path[:-1], f"{path[-1]}[]"))
    return found


def _missing(c: _Context) -> tuple[str, str]:
    return "required field is missing", c.about or f"add {c.path[-1]}"


def _wrong_type(c: _Context) -> tuple[str, str]:
    wanted = c.here.get("type", "")
    words = _TYPE_WORDS.get(wanted, "something else")
    hint = c.about
    value = c.value
    if wanted == "string" and (isinstance(value, bool | int | float)):
        hint = f"put it in quotes; {hint}" if hint else "put it in quotes"
    elif wanted in ("integer", "number", "boolean") and isinstance(value, str):
        hint = f"write it without quotes; {hint}" if hint else "write it without quotes"
    elif wanted == "array" and isinstance(value, str):
        hint = f"write [{shown(value)[1:-1]}] for a list of one; {hint}"
    return f"must be {words}, not {shown(value)}", hint


def _bounds(c: _Context) -> tuple[str, str]:
    low, high = c.here.get("minimum"), c.here.get("maximum")
    if low is not None and high is not None:
        wanted = f"between {low} and {high}"
    else:
        wanted = f"at least {low}" if low is not None else f"at most {high}"
    return f"must be {wanted}, not {shown(c.value)}", c.about


def _length(c: _Context) -> tuple[str, str]:
    low, high = c.here.get("minLength", 0), c.here.get("maxLength")
    if not c.value:
        return "must not be empty", c.about
    return f"must have {low} to {high} characters, has {len(str(c.value))}", c.about


def _count(c: _Context) -> tuple[str, str]:
    low = c.here.get("minItems", c.here.get("minProperties", 0))
    high = c.here.get("maxItems", c.here.get("maxProperties"))
    # pydantic stops counting one beyond the limit.
    has = len(c.value) if isinstance(c.value, Sequence | Mapping) else c.ctx.get("actual_length")
    if not has:
        return "must not be empty", c.about
    return f"must have {low} to {high} entries, has {has}", c.about


def _pattern(c: _Context) -> tuple[str, str]:
    form = FORMS.get(c.ctx.get("pattern", ""))
    if form is None:
        return f"{shown(c.value)} does not match {c.ctx.get('pattern')}", c.about
    return f"{shown(c.value)} is not valid", f"write {form}"


def _choice(c: _Context) -> tuple[str, str]:
    allowed = [str(value) for value in c.here.get("enum", ())]
    if not isinstance(c.value, str):
        return f"must be one of {listed(allowed)}, not {shown(c.value)}", c.about
    near = close_to(c.value, allowed)
    hint = f"did you mean {near}? " if near else ""
    return f"{shown(c.value)} is not a known value", f"{hint}allowed: {listed(allowed)}"


def _constraint(c: _Context) -> tuple[str, str]:
    return str(c.ctx.get("message", "")), str(c.ctx.get("hint", ""))


def _not_finite(c: _Context) -> tuple[str, str]:
    return "must be an ordinary number, not infinite or NaN", c.about


def _fallback(c: _Context) -> tuple[str, str]:
    return c.error["msg"], c.about


_Explainer = Callable[[_Context], tuple[str, str]]
_EXPLAINERS: dict[str, _Explainer] = {
    "extra_forbidden": _unknown,
    "missing": _missing,
    "constraint": _constraint,
    "string_pattern_mismatch": _pattern,
    "enum": _choice,
    "literal_error": _choice,
    "finite_number": _not_finite,
    **dict.fromkeys(("string_too_short", "string_too_long"), _length),
    **dict.fromkeys(("too_short", "too_long"), _count),
    **dict.fromkeys(("greater_than", "greater_than_equal", "less_than", "less_than_equal"), _bounds),
    **dict.fromkeys(
        (
            "string_type",
            "int_type",
            "int_from_float",
            "int_parsing",
            "int_parsing_size",
            "float_type",
            "float_parsing",
            "bool_type",
            "bool_parsing",
            "list_type",
            "tuple_type",
            "dict_type",
            "model_type",
            "model_attributes_type",
        ),
        _wrong_type,
    ),
}
