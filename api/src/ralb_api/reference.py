"""The field reference in ``docs/objects.md``: tables written from the models between markers, prose left alone."""

import re

from ralb_api.objects import KINDS
from ralb_api.schema import Schema, structural

_BLOCK = re.compile(r"(<!-- fields of (\w+): generated -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """The document with every marked block written anew.

    Raises:
        ValueError: a kind has no block, or a block no kind.
    """
    marked = [match.group(2) for match in _BLOCK.finditer(text)]
    if sorted(marked) != sorted(KINDS):
        raise ValueError(f"blocks {marked} should be one for each of {sorted(KINDS)}")
    return _BLOCK.sub(lambda match: f"{match[1]}{table(match[2])}{match[3]}", text)


def table(kind: str) -> str:
    """A Markdown table of all fields of a kind's spec."""
    spec = structural(KINDS[kind])["properties"]["spec"]
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *_rows(spec, "spec")]) + "\n"


def _rows(schema: Schema, path: str) -> list[str]:
    rows = []
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        if name in schema.get("required", ()):
            default = "*required*"
        elif field.get("default") in (None, {}):
            default = ""
        else:
            default = f"`{_value(field['default'])}`"
        rows.append(f"| `{here}` | {_type(field)} | {default} | {field['description']} |")
        rows += _rows(field, here)
        if field["type"] == "array":
            rows += _rows(field["items"], f"{here}[]")
    return rows


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type(schema: Schema) -> str:
    match schema["type"]:
        case "array":
            low, high = schema.get("minItems", 0), schema["maxItems"]
            return f"list of {_type(schema['items']) if schema['items']['type'] != 'object' else 'objects'}, {low} to {high}"
        case "object" if "additionalProperties" in schema:
            return f"map of text, {schema.get('minProperties', 0)} to {schema['maxProperties']}"
        case "object":
            return "object"
        case "integer" | "number" as kind:
            word = "integer" if kind == "integer" else "number"
            return f"{word}, {_value(schema['minimum'])} to {_value(schema['maximum'])}"
        case "boolean":
            return "true or false"
        case _ if "enum" in schema:
            return ", ".join(schema["enum"])
        case _:
            return f"text, at most {schema['maxLength']}"
