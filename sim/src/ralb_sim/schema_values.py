"""A value that satisfies a JSON schema, for structured answers and tool arguments.

Covers what response formats and tool parameters use: types, properties, items, enum, const, anyOf/oneOf/allOf, local `$ref`,
length and number bounds. Schemas come from clients: depth and size are bounded, and anything not understood becomes a string.
"""

import random
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 12
"""Nesting after which only scalars are produced."""

MAX_NODES = 500
"""Values produced in all; later ones are null or empty."""

_WORDS = ("alpha", "beta", "gamma", "delta", "north", "south", "first", "second")


def value_for(schema: Mapping[str, Any], rng: random.Random) -> Any:
    """Return a JSON value for `schema`; never raises, whatever the schema holds."""
    return _Maker(schema, rng).make(schema, 0)


class _Maker:
    def __init__(self, root: Mapping[str, Any], rng: random.Random) -> None:
        self._root = root
        self._rng = rng
        self._left = MAX_NODES

    def make(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or not isinstance(schema, Mapping):
            return None
        if isinstance(schema.get("$ref"), str):
            return self.make(self._resolve(schema["$ref"]), depth + 1) if depth < MAX_DEPTH else None
        if "const" in schema:
            return schema["const"]
        enum = schema.get("enum")
        if isinstance(enum, list) and enum:
            return self._rng.choice(enum)
        for word in ("anyOf", "oneOf", "allOf"):
            options = schema.get(word)
            if isinstance(options, list) and options and depth < MAX_DEPTH:
                return self.make(options[0], depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        if kind is None:
            kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case "integer":
                return int(self._number(schema, whole=True))
            case "number":
                return self._number(schema, whole=False)
            case _:
                return self._string(schema)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if depth >= MAX_DEPTH or not isinstance(properties, Mapping):
            return {}
        required = schema.get("required")
        wanted = [name for name in required if name in properties] if isinstance(required, list) else list(properties)
        return {name: self.make(properties[name], depth + 1) for name in wanted if self._left > 0}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        if depth >= MAX_DEPTH:
            return []
        number = max(1, min(_whole(schema.get("minItems"), 1), 20))
        return [self.make(schema.get("items", {}), depth + 1) for _ in range(number) if self._left > 0]

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low = _real(schema.get("minimum"), _real(schema.get("exclusiveMinimum"), 0.0) + (1 if whole else 0.5))
        high = _real(
            schema.get("maximum"), max(low, _real(schema.get("exclusiveMaximum"), low + 10) - (1 if whole else 0.5))
        )
        if whole:
            return self._rng.randint(int(low), max(int(low), int(high)))
        return round(self._rng.uniform(low, max(low, high)), 3)

    def _string(self, schema: Mapping[str, Any]) -> str:
        formats = {
            "date": "2026-01-31",
            "date-time": "2026-01-31T12:00:00Z",
            "email": "a@example.com",
            "uri": "https://example.com/",
        }
        known = schema.get("format")
        text = formats.get(known, self._rng.choice(_WORDS)) if isinstance(known, str) else self._rng.choice(_WORDS)
        low = min(_whole(schema.get("minLength"), 0), 1000)
        high = _whole(schema.get("maxLength"), 1000)
        return (text + "x" * max(0, low - len(text)))[: max(high, low)]

    def _resolve(self, reference: str) -> Any:
        node: Any = self._root
        for part in reference.removeprefix("#").strip("/").split("/")[:MAX_DEPTH]:
            if part:
                node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
        return node


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _real(value: Any, default: float) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return float(value)
    return default
