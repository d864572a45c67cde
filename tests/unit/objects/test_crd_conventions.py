"""What every CRD must be, checked on every field of every kind; and that ``crds/`` is what the models say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from ralb_api import crd
from ralb_api.objects import KINDS
from ralb_api.schema import Schema, at, structural

REPOSITORY = Path(__file__).parents[3]
DEFINITIONS = {kind: crd.definition(kind, model) for kind, model in KINDS.items()}
ROOTS: dict[str, Schema] = {
    kind: definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind, definition in DEFINITIONS.items()
}
SCALARS = {"string", "integer", "number", "boolean"}
FORBIDDEN = {"$ref", "$defs", "const", "anyOf", "oneOf", "allOf", "not", "title", "patternProperties", "uniqueItems"}


def walk(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


def everything() -> list[tuple[str, Schema]]:
    return [
        found
        for kind, root in ROOTS.items()
        for part in ("spec", "status")
        for found in walk(root["properties"][part], f"{kind}.{part}")
    ]


ALL = everything()


def valid(value: Any, schema: Schema) -> bool:
    """A value against the parts of a schema that defaults use."""
    match schema["type"]:
        case "object":
            properties = schema.get("properties", {})
            missing = set(schema.get("required", ())) - value.keys()
            return not missing and all(valid(item, properties[name]) for name, item in value.items())
        case "array":
            return len(value) <= schema["maxItems"] and all(valid(item, schema["items"]) for item in value)
        case "string":
            return isinstance(value, str) and value in schema.get("enum", [value])
        case "boolean":
            return isinstance(value, bool)
        case _:
            return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


def test_there_is_something_to_walk() -> None:
    paths = {path for path, _ in ALL}
    assert "RoutingPolicy.spec.rules[].when.complexity.min" in paths
    assert "ModelPool.spec.backend.pods.selector.matchLabels{}" in paths
    assert len(ALL) > 120


@pytest.mark.parametrize(("path", "schema"), ALL, ids=[path for path, _ in ALL])
def test_structural_and_bounded(path: str, schema: Schema) -> None:
    assert not FORBIDDEN & schema.keys()
    assert not {"properties", "additionalProperties"} <= schema.keys()
    match schema["type"]:
        case "string":
            assert "enum" in schema or schema.get("format") == "date-time" or "maxLength" in schema
        case "integer" | "number":
            assert "minimum" in schema
            assert "maximum" in schema or path.startswith(tuple(f"{kind}.status" for kind in KINDS))
            assert isinstance(schema.get("exclusiveMinimum", True), bool)
        case "array":
            assert "maxItems" in schema
            assert schema["x-kubernetes-list-type"] in ("atomic", "set", "map")
            if schema["items"]["type"] in SCALARS:
                assert schema["x-kubernetes-list-type"] == "set"
            if schema["x-kubernetes-list-type"] == "map":
                keys = schema["x-kubernetes-list-map-keys"]
                assert set(keys) <= set(schema["items"]["required"])
        case "object":
            assert "properties" in schema or "maxProperties" in schema
            assert set(schema.get("required", ())) <= set(schema.get("properties", {}))
        case "boolean":
            pass
        case other:
            pytest.fail(f"unexpected type {other}")
    for rule in schema.get("x-kubernetes-validations", ()):
        assert rule["rule"]
        assert rule["message"]
        assert rule.get("fieldPath", ".")[1:] in ("", *schema.get("properties", {}))


@pytest.mark.parametrize(
    ("path", "schema"), [(p, s) for p, s in ALL if "default" in s], ids=[p for p, s in ALL if "default" in s]
)
def test_defaults_are_valid_and_optional(path: str, schema: Schema) -> None:
    assert valid(schema["default"], schema)
    kind, _, rest = path.partition(".")
    parts = tuple(rest.replace("[]", "").split("."))
    parent = ROOTS[kind]["properties"][parts[0]]
    for part in parts[1:-1]:
        parent = parent["properties"][part]
        parent = parent.get("items", parent)
    assert parts[-1] not in parent.get("required", ())


@pytest.mark.parametrize("kind", KINDS)
def test_envelope(kind: str) -> None:
    definition = DEFINITIONS[kind]
    names = definition["spec"]["names"]
    assert definition["metadata"]["name"] == f"{names['plural']}.ralb.dev"
    assert names["singular"] == kind.lower()
    assert names["listKind"] == f"{kind}List"
    assert names["categories"] == ["ralb"]
    assert len(names["shortNames"]) == 1
    (version,) = definition["spec"]["versions"]
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"] == {"status": {}}
    assert ROOTS[kind]["required"] == ["spec"]


@pytest.mark.parametrize("kind", KINDS)
def test_printer_columns_point_at_fields(kind: str) -> None:
    columns = DEFINITIONS[kind]["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown[-1] == "Age"
    assert 4 <= len(shown) <= 7
    assert {"Accepted", "Programmed"} <= set(shown)
    assert ("ResolvedRefs" in shown) == (kind in ("ModelPool", "ModelTier", "RoutingPolicy"))
    for column in columns:
        path = column["jsonPath"].replace(".*.", ".inferencePool.").removeprefix(".").partition("[?")[0].split(".")
        if path[0] == "metadata":
            continue
        found = at(ROOTS[kind], tuple(path))
        assert found is not None, column
        if "[?" not in column["jsonPath"] and found["type"] != "array":
            assert found["type"] == column["type"]


@pytest.mark.parametrize("kind", KINDS)
def test_status(kind: str) -> None:
    status = ROOTS[kind]["properties"]["status"]["properties"]
    assert status["conditions"]["maxItems"] == 8
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    condition = status["conditions"]["items"]
    assert set(condition["required"]) == {"type", "status", "reason", "message", "lastTransitionTime"}
    assert set(condition["properties"]) == {*condition["required"], "observedGeneration"}
    assert "snapshot" in status
    assert ("endpoints" in status) == (kind == "ModelPool")


def test_constraints_reach_the_crd() -> None:
    rules = {
        rule["message"].partition(";")[0] for _, schema in ALL for rule in schema.get("x-kubernetes-validations", ())
    }
    assert rules >= {
        "exactly one of pods, service, inferencePool and external must be set",
        "exactly one of tier and reject must be set",
        "min must be less than max",
        "min must not be greater than max",
        "names can only be set when offered is true",
        "value must be set for Exact and Prefix, and left out for Present",
        "rule names must be unique",
        "each pool may be in a tier once",
        "name, aliases and adapters must all differ",
    }
    (whole,) = ROOTS["ModelTier"]["x-kubernetes-validations"]
    assert whole["message"].startswith("a tier can not spill over to itself;")


def test_absent_parents_still_bring_their_defaults() -> None:
    spec = ROOTS["ModelPool"]["properties"]["spec"]["properties"]
    assert spec["balancing"]["default"] == {}
    assert spec["balancing"]["properties"]["circuitBreaker"]["default"] == {}
    assert "default" not in spec["labels"]
    rule = ROOTS["RoutingPolicy"]["properties"]["spec"]["properties"]["rules"]["items"]["properties"]
    assert "default" not in rule["when"], "an empty when in every rule would be noise"
    assert "default" not in rule["when"]["properties"]["complexity"], "absent means any, not 0 to 1"


def test_committed_files_are_what_the_models_say() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "crds").glob("*.yaml")}
    assert committed == crd.render()
    for text in committed.values():
        assert text.startswith("# Generated")
        assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"


class Bounded(BaseModel):
    share: float = Field(gt=0, lt=1, description="share is a part.")
    words: dict[str, str] = Field(default_factory=dict, max_length=3)


class Either(BaseModel):
    port: int | str


class Oddly(BaseModel):
    step: int = Field(multiple_of=5)


def test_exclusive_bounds_become_booleans() -> None:
    share = structural(Bounded)["properties"]["share"]
    assert share == {
        "description": "share is a part.",
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": True,
    }


@pytest.mark.parametrize(("model", "words"), [(Either, "union"), (Oddly, "multipleOf")])
def test_what_a_structural_schema_cannot_say_is_refused(model: type[BaseModel], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        structural(model)


def test_at_finds_nested_schemas() -> None:
    schema = structural(KINDS["RoutingPolicy"])
    found = at(schema, ("spec", "rules", 3, "when", "complexity", "min"))
    assert found is not None
    assert found["maximum"] == 1
    assert at(schema, ("spec", "nowhere", "else")) is None
