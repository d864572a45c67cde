"""The conventions of Kubernetes APIs, as a linter over the files in ``crds/``: what a user sees in ``kubectl explain`` and
what the API server needs to stay fast. Many are those of sigs.k8s.io/kube-api-linter."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

CRDS = {
    path.name: yaml.safe_load(path.read_text()) for path in sorted((Path(__file__).parents[3] / "crds").glob("*.yaml"))
}
WORDS = {"vLLM"}  # a proper name
SWITCHES = {
    "RoutingPolicy.spec.rules[].when.tools.offered"
}  # either a request offers tools or not; nothing can be added
PRESENCE = {"ModelPool.spec.backend.pods.kvEvents"}  # that they are there at all says something; {} is all defaults
FREE_NUMBERS = {
    "cost",
    "budgets[]",
    "complexity",
    "abstain",
    "spec",
    "when",
}  # parents of fields that are fractions by nature
ABSENT = re.compile(r"\b(Unset|Empty|[Aa]bsent|Defaults to|the default)\b")


class Field(NamedTuple):
    path: str
    schema: dict[str, Any]
    required: bool

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def words(self) -> str:
        return str(self.schema.get("description", ""))


def fields(schema: dict[str, Any], path: str) -> Iterator[Field]:
    for name, child in schema.get("properties", {}).items():
        yield Field(f"{path}.{name}", child, name in schema.get("required", ()))
        yield from fields(child, f"{path}.{name}")
        if child["type"] == "array":
            yield from fields(child["items"], f"{path}.{name}[]")


def of(part: str) -> list[Field]:
    found = []
    for crd in CRDS.values():
        kind, (version,) = crd["spec"]["names"]["kind"], crd["spec"]["versions"]
        root = version["schema"]["openAPIV3Schema"]["properties"][part]
        found += [Field(f"{kind}.{part}", root, part == "spec"), *fields(root, f"{kind}.{part}")]
    return found


SPEC, STATUS = of("spec"), of("status")
OBJECTS = {field.path: field.schema for field in (*SPEC, *STATUS)}
each_spec = pytest.mark.parametrize("field", SPEC, ids=[field.path for field in SPEC])
each = pytest.mark.parametrize("field", [*SPEC, *STATUS], ids=[field.path for field in (*SPEC, *STATUS)])


def test_all_kinds_are_linted() -> None:
    assert {crd["spec"]["names"]["kind"] for crd in CRDS.values()} == {
        "ModelPool", "ModelTier", "RoutingPolicy", "Tenant", "SemanticRoute", "ToolBackend"
    }  # fmt: skip
    assert len(SPEC) > 150


@each
def test_names_are_camel_case(field: Field) -> None:
    assert re.fullmatch(r"[a-z][a-zA-Z0-9]*", field.name)
    assert not re.search(r"(?i)phase|timestamp$", field.name)


@each
def test_descriptions_are_sentences_that_begin_with_the_name(field: Field) -> None:
    assert field.words.startswith(f"{field.name} ")
    assert field.words.endswith(".")
    assert ".." not in field.words
    assert "  " not in field.words
    assert len(field.words) <= 600


@each_spec
def test_descriptions_say_what_happens_when_absent(field: Field) -> None:
    if not field.required:
        assert ABSENT.search(field.words), field.words


@each_spec
def test_descriptions_say_the_default(field: Field) -> None:
    default = field.schema.get("default")
    if default is None or default == {}:
        return
    text = str(default[0]) if isinstance(default, list) else str(default).lower() if default is True else str(default)
    if isinstance(default, float):
        text = f"{default:g}"
    if " " not in text:  # a sentence is told of, not repeated
        assert re.search(rf"Defaults to {re.escape(text)}\.|\b{re.escape(text)}, the default\b", field.words), (
            field.words
        )


@each_spec
def test_descriptions_say_the_limits(field: Field) -> None:
    schema = field.schema
    for key in ("minimum", "maximum", "maxItems", "maxProperties"):
        if key in schema:
            assert str(schema[key]) in field.words, key
    if schema["type"] == "string" and "enum" not in schema:
        duration = schema.get("pattern", "").endswith("(ms|s|m|h)){1,4}$")
        assert str(schema["maxLength"]) in field.words or (
            duration and re.search(r"\d+(ms|s) to |at most \d", field.words)
        )


@each_spec
def test_descriptions_name_the_values_of_an_enum(field: Field) -> None:
    for value in field.schema.get("enum", ()):
        assert re.search(rf"\b{value}\b", field.words)
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", value) or value in WORDS


@each
def test_types(field: Field) -> None:
    schema = field.schema
    match schema["type"]:
        case "integer":
            assert schema["format"] in ("int32", "int64")
            assert (schema.get("maximum", 0) > 2**31 - 1) <= (schema["format"] == "int64")
        case "number":
            assert "format" not in schema
            assert field.path.rpartition(".")[0].rpartition(".")[2] in FREE_NUMBERS, "whole numbers are exact"
        case "boolean":
            assert field.path in SWITCHES, "an enum can grow"
        case "array":
            assert schema["items"]["type"] != "array"
            kind = schema["x-kubernetes-list-type"]
            assert kind == "set" if schema["items"]["type"] == "string" else kind in ("map", "atomic")
        case "object" if "additionalProperties" in schema:
            assert field.name.lower().endswith("labels"), "lists of named objects merge better than maps"


@each_spec
def test_a_default_is_not_required_and_no_object_hides_defaults(field: Field) -> None:
    schema = field.schema
    assert not (field.required and "default" in schema)
    if not field.required and schema["type"] == "object" and not schema.get("required") and "[]" not in field.path:
        inner = any("default" in child for child in schema.get("properties", {}).values())
        union = any("exactly one" in rule["message"] for rule in OBJECTS[field.path.rpartition(".")[0]].get(
            "x-kubernetes-validations", ()))  # fmt: skip
        assert ("default" in schema) == inner or union or field.path in PRESENCE, (
            "absent, its fields' defaults would be missing"
        )


@each
def test_rules_can_be_acted_on(field: Field) -> None:
    for rule in field.schema.get("x-kubernetes-validations", ()):
        assert re.fullmatch(r"[a-zA-Z0-9., ]+; .+", rule["message"]), "what must hold; what to do"
        assert len(rule["message"]) <= 200
        assert "\n" not in rule["rule"]
        if "fieldPath" in rule:
            assert rule["fieldPath"].removeprefix(".") in field.schema["properties"]


@pytest.mark.parametrize("name", CRDS)
def test_definition(name: str) -> None:
    crd = CRDS[name]
    spec, (version,) = crd["spec"], crd["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    assert name == f"ralb.dev_{spec['names']['plural']}.yaml"
    assert "all" not in spec["names"]["categories"]
    assert not {"conversion", "preserveUnknownFields"} & spec.keys()
    assert root["properties"]["metadata"] == {"type": "object"}
    assert next(iter(root["properties"]["status"]["properties"])) == "conditions"
    assert "required" not in root["properties"]["status"]
    assert len(version.get("selectableFields", ())) <= 8
    for selectable in version.get("selectableFields", ()):
        field = OBJECTS[f"{spec['names']['kind']}{selectable['jsonPath']}"]
        assert field["type"] in ("string", "integer", "boolean")
    assert len(yaml.safe_dump(crd)) < 100_000


def test_short_names_and_plurals_are_nobody_elses() -> None:
    names = [
        name for crd in CRDS.values() for name in (crd["spec"]["names"]["plural"], *crd["spec"]["names"]["shortNames"])
    ]
    assert len(set(names)) == len(names)
    # https://kubernetes.io/docs/reference/kubectl/#resource-types
    builtin = {
        "po",
        "svc",
        "cm",
        "ns",
        "no",
        "ds",
        "rs",
        "rc",
        "sa",
        "pv",
        "pvc",
        "ep",
        "ev",
        "deploy",
        "sts",
        "hpa",
        "cj",
        "ing",
        "netpol",
        "pdb",
        "sc",
        "pc",
        "crd",
        "csr",
        "quota",
        "limits",
        "cs",
    }
    assert not builtin & set(names)


def test_conditions_are_those_of_kubernetes() -> None:
    for kind in {field.path.partition(".")[0] for field in STATUS}:
        conditions = OBJECTS[f"{kind}.status.conditions"]
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]
        assert conditions["maxItems"] == 8
        item = conditions["items"]
        assert sorted(item["required"]) == ["lastTransitionTime", "message", "reason", "status", "type"]
        assert item["properties"]["reason"]["minLength"] == 1
        assert item["properties"]["message"]["maxLength"] == 32768
        assert item["properties"]["status"]["enum"] == ["True", "False", "Unknown"]
        assert item["properties"]["lastTransitionTime"]["format"] == "date-time"
