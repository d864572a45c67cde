"""pydantic models as structural schemas: the JSON Schema subset Kubernetes accepts in a CRD.

Also what error messages are explained with: bounds, enums and descriptions come from here, so that they are said once.
Rules of a structural schema: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
(no ``$ref``, ``const``, ``additionalProperties: false``; exclusive bounds are booleans; a type everywhere).
"""

from functools import cache
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = (
    "description",
    "type",
    "format",
    "default",
    "enum",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)
# Understood and rewritten, or without meaning in a CRD.
_REWRITTEN = {"$ref", "$defs", "anyOf", "allOf", "const", "title", "patternProperties", "propertyNames"}
_INT32_MAX = 2**31 - 1


@cache
def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, with its references inlined.

    Raises:
        ValueError: the model uses something a structural schema cannot say.
    """
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _rewrite(raw, raw.get("$defs", {}), model.__name__)


def _rewrite(raw: Schema, definitions: dict[str, Schema], where: str) -> Schema:
    raw = _inlined(raw, definitions, where)
    unknown = raw.keys() - _REWRITTEN - set(_KEPT)
    if unknown:
        raise ValueError(f"{where}: {', '.join(sorted(unknown))} has no counterpart in a structural schema")
    if "const" in raw:
        raw["enum"] = [raw["const"]]
    if "type" not in raw:
        raise ValueError(f"{where}: has no single type")
    _exclusive_bounds(raw)
    match raw["type"]:
        case "object":
            _object(raw, definitions, where)
        case "array":
            raw["items"] = _rewrite(raw["items"], definitions, f"{where}[]")
            scalars = raw["items"]["type"] not in ("object", "array")
            raw.setdefault("x-kubernetes-list-type", "set" if scalars else "atomic")
        case "integer":
            big = max(abs(raw.get("minimum", 0)), abs(raw.get("maximum", 0))) > _INT32_MAX
            raw["format"] = "int64" if big else "int32"
    if raw.get("default") in (None, "", [], {}):
        raw.pop("default", None)
    return {key: raw[key] for key in _KEPT if key in raw}


def _inlined(raw: Schema, definitions: dict[str, Schema], where: str) -> Schema:
    """Resolves references and ``X | None``; what is said at the place of use wins over the definition."""
    out = dict(raw)
    for _ in range(16):
        if "$ref" in out:
            definition = dict(definitions[out.pop("$ref").rpartition("/")[2]])
            definition.pop("description", None)  # the class's; a field says its own
            out = {**definition, **out}
        elif "anyOf" in out:
            options = [option for option in out.pop("anyOf") if option != {"type": "null"}]
            if len(options) != 1:
                raise ValueError(f"{where}: a union has no counterpart in a structural schema")
            out = {**options[0], **out}
        else:
            return out
    raise ValueError(f"{where}: references nest too deeply")


def _exclusive_bounds(raw: Schema) -> None:
    for bound in ("Minimum", "Maximum"):
        value = raw.pop(f"exclusive{bound}", None)
        if value is not None:
            raw[bound.lower()] = value
            raw[f"exclusive{bound}"] = True


def _object(raw: Schema, definitions: dict[str, Schema], where: str) -> None:
    values = raw.pop("additionalProperties", False)
    keys = raw.get("propertyNames", {})
    for pattern, schema in raw.get("patternProperties", {}).items():
        keys, values = {**keys, "pattern": pattern}, schema
    if isinstance(values, dict):
        raw["additionalProperties"] = _rewrite(values, definitions, f"{where}{{}}")
        if rules := _key_rules(keys):
            raw["x-kubernetes-validations"] = [*raw.get("x-kubernetes-validations", []), *rules]
    if "properties" not in raw:
        return
    properties = {name: _rewrite(schema, definitions, f"{where}.{name}") for name, schema in raw["properties"].items()}
    required = raw.get("required", [])
    for name, schema in properties.items():
        # Kubernetes applies defaults only inside objects that are there.
        if name not in required and "default" not in schema and _fills_in(schema) and not _optional(raw, name):
            schema["default"] = {}
    raw["properties"] = properties


def _key_rules(keys: Schema) -> list[dict[str, str]]:
    """Keys have no schema of their own in Kubernetes; the pattern must bound their length."""
    if "pattern" not in keys:
        return []
    pattern = keys["pattern"].replace("\\", "\\\\").replace("'", "\\'")
    message = "every key must be a label key; write one such as app or app.kubernetes.io/name"
    return [{"rule": f"self.all(k, k.matches('{pattern}'))", "message": message}]


def _optional(raw: Schema, name: str) -> bool:
    return {"type": "null"} in raw["properties"][name].get("anyOf", ())


def _fills_in(schema: Schema) -> bool:
    """Whether defaulting an absent object to ``{}`` would bring in defaults, and be valid."""
    properties = schema.get("properties", {})
    return not schema.get("required") and any("default" in value for value in properties.values())


def at(schema: Schema, path: tuple[str | int, ...]) -> Schema | None:
    """The schema of the value at ``path`` (names and list indexes); None where the schema ends."""
    here: Schema | None = schema
    for part in path:
        if here is None:
            return None
        if isinstance(part, int):
            here = here.get("items")
        else:
            here = here.get("properties", {}).get(part) or here.get("additionalProperties")
    return here
