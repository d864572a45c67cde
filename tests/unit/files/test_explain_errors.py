"""Every kind of validation error, word for word."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from ralb_api.objects import KINDS, ModelPool
from ralb_operator.explain_errors import _EXPLAINERS, Finding, explain

POOL_FIELDS = "model, backend, cost, balancing, role, disaggregation, speculative, labels"
ENGINES = "vLLM, SGLang, TensorRTLLM, Generic"
POOL_LABELS = (
    "labels describe the pool, such as its region or what data it may see, for a Tenant's compliance.poolLabels to choose by. "
    "Empty, the default, means none."
)
PORT = "port is where the pods serve the model's API. Defaults to 8000."


def findings(kind: str, spec: object) -> list[Finding]:
    data = {"apiVersion": "ralb.dev/v1alpha1", "kind": kind, "metadata": {"name": "o"}, "spec": spec}
    with pytest.raises(ValidationError) as caught:
        KINDS[kind].model_validate_json(json.dumps(data), strict=True, by_alias=True, by_name=False)
    return explain(KINDS[kind], caught.value.errors(include_url=False))


def pods(**more: object) -> dict[str, object]:
    return {
        "model": {"name": "m"},
        "backend": {"pods": {"selector": {"matchLabels": {"app": "x"}}, **more}},
    }


def pool(**more: object) -> dict[str, object]:
    return {**pods(), **more}


CASES: list[tuple[str, str, object, Finding]] = [
    (
        "extra_forbidden, near",
        "ModelPool",
        pods(prot=1),
        Finding(
            "spec.backend.pods.prot",
            "unknown field",
            "did you mean port? allowed here: selector, port, engine, metricsPath, kvEvents",
        ),
    ),
    (
        "extra_forbidden, snake case",
        "ModelPool",
        pods(metrics_path="/m"),
        Finding(
            "spec.backend.pods.metrics_path",
            "unknown field",
            "did you mean metricsPath? allowed here: selector, port, engine, metricsPath, kvEvents",
        ),
    ),
    (
        "extra_forbidden, wrong place",
        "ModelPool",
        pool(slowStart="3s"),
        Finding(
            "spec.slowStart",
            "unknown field",
            f"slowStart belongs into spec.balancing; allowed here: {POOL_FIELDS}",
        ),
    ),
    (
        "extra_forbidden, wrong place below a list",
        "RoutingPolicy",
        {"default": {"use": {"tier": "t"}}, "complexity": {}},
        Finding(
            "spec.complexity",
            "unknown field",
            "complexity belongs into spec.rules[].when; allowed here: match, rules, default, streamUsage",
        ),
    ),
    (
        "extra_forbidden, nothing near",
        "ModelPool",
        pool(xyzzy=1),
        Finding(
            "spec.xyzzy",
            "unknown field",
            f"allowed here: {POOL_FIELDS}",
        ),
    ),
    (
        "missing",
        "ModelTier",
        {"pools": [{"name": "p"}]},
        Finding(
            "spec.level",
            "required field is missing",
            "level ranks the tiers of a namespace by ability: 1 for trivial work, higher for harder.",
        ),
    ),
    (
        "string_type",
        "ModelPool",
        pool(labels={"a": 1}),
        Finding(
            "spec.labels.a",
            "must be text, not 1",
            f"put it in quotes; {POOL_LABELS}",
        ),
    ),
    (
        "int_type",
        "ModelPool",
        pods(port="8000"),
        Finding("spec.backend.pods.port", 'must be a whole number, not "8000"', f"write it without quotes; {PORT}"),
    ),
    (
        "int_type, fraction",
        "ModelPool",
        pods(port=8.5),
        Finding("spec.backend.pods.port", "must be a whole number, not 8.5", PORT),
    ),
    (
        "float_type",
        "ModelPool",
        pool(cost={"inputPerMillion": "cheap"}),
        Finding(
            "spec.cost.inputPerMillion",
            'must be a number, not "cheap"',
            "write it without quotes; inputPerMillion is dollars per million prompt tokens. Defaults to 0.",
        ),
    ),
    (
        "bool_type",
        "RoutingPolicy",
        {
            "default": {"use": {"tier": "t"}},
            "rules": [{"name": "a", "use": {"tier": "t"}, "when": {"tools": {"offered": 1}}}],
        },
        Finding(
            "spec.rules[0].when.tools.offered",
            "must be true or false, not 1",
            "offered is whether the request must offer tools (true) or must not. Defaults to true.",
        ),
    ),
    (
        "tuple_type",
        "ModelPool",
        pool(model={"name": "m", "aliases": "fast"}),
        Finding(
            "spec.model.aliases",
            'must be a list, not "fast"',
            "write [fast] for a list of one; aliases are further names by which clients may ask for this model. "
            "Empty, the default, means none.",
        ),
    ),
    (
        "dict_type",
        "ModelPool",
        pool(labels=["a"]),
        Finding(
            "spec.labels",
            "must be a mapping of names to values, not a list",
            POOL_LABELS,
        ),
    ),
    (
        "model_type",
        "ModelPool",
        pool(cost=3),
        Finding(
            "spec.cost",
            "must be a mapping of names to values, not 3",
            "cost is what the model costs in US dollars; it is reported, and compared. Absent means that it costs nothing.",
        ),
    ),
    (
        "a wrong item does not make the list too short",
        "ModelTier",
        {"level": 1, "pools": [{"name": "p", "weight": 0.5}]},
        Finding(
            "spec.pools[0].weight",
            "must be a whole number, not 0.5",
            "weight is the pool's share among the pools of the same priority, as it is or times what the pool can do: see "
            "weights. 0 keeps it for failover only. Defaults to 1.",
        ),
    ),
    (
        "less_than_equal",
        "ModelPool",
        pods(port=70000),
        Finding("spec.backend.pods.port", "must be between 1 and 65535, not 70000", PORT),
    ),
    (
        "greater_than_equal",
        "ModelPool",
        pods(port=0),
        Finding("spec.backend.pods.port", "must be between 1 and 65535, not 0", PORT),
    ),
    (
        "huge integer",
        "ModelPool",
        pods(port=10**40),
        Finding("spec.backend.pods.port", "must be between 1 and 65535, not a huge number", PORT),
    ),
    (
        "string_too_short",
        "ModelPool",
        pool(model={"name": ""}),
        Finding(
            "spec.model.name",
            "must not be empty",
            "name is the model's name as its servers know it (vLLM's --served-model-name). Requests sent to this pool carry "
            "it, whatever the client called the model.",
        ),
    ),
    (
        "string_too_long",
        "ModelPool",
        pods(metricsPath="/" + "m" * 600),
        Finding(
            "spec.backend.pods.metricsPath",
            "must have 1 to 512 characters, has 601",
            "metricsPath is where on the serving port the metrics are; trtllm-serve has them at /prometheus/metrics. "
            "Defaults to /metrics.",
        ),
    ),
    (
        "too_short",
        "ModelTier",
        {"level": 1, "pools": []},
        Finding("spec.pools", "must not be empty", "pools provide the tier, each named once."),
    ),
    (
        "too_long",
        "ModelTier",
        {"level": 1, "pools": [{"name": f"p{i}"} for i in range(40)]},
        Finding("spec.pools", "must have 1 to 32 entries, has 40", "pools provide the tier, each named once."),
    ),
    (
        "too_long, mapping",
        "ModelPool",
        pool(labels={f"k{i}": "v" for i in range(33)}),
        Finding(
            "spec.labels",
            "must have 0 to 32 entries, has 33",
            POOL_LABELS,
        ),
    ),
    (
        "string_pattern_mismatch, duration",
        "ModelPool",
        pool(balancing={"slowStart": "30 seconds"}),
        Finding(
            "spec.balancing.slowStart",
            '"30 seconds" is not valid',
            "write whole numbers with units ms, s, m or h, such as 250ms, 30s or 1m30s",
        ),
    ),
    (
        "string_pattern_mismatch, name",
        "RoutingPolicy",
        {"default": {"use": {"tier": "Big Tier"}}},
        Finding(
            "spec.default.use.tier",
            '"Big Tier" is not valid',
            "write lower-case letters, digits, - and ., starting and ending with a letter or digit, such as chat-small",
        ),
    ),
    (
        "key",
        "ModelPool",
        pool(labels={"no spaces": "x"}),
        Finding(
            "spec.labels[no spaces]",
            '"no spaces" cannot be a key here',
            "write a label key such as app or app.kubernetes.io/name",
        ),
    ),
    (
        "value of a key",
        "ModelPool",
        pool(labels={"app.kubernetes.io/name": "?"}),
        Finding(
            "spec.labels[app.kubernetes.io/name]",
            '"?" is not valid',
            "write letters, digits and - _ ., starting and ending with a letter or digit",
        ),
    ),
    (
        "enum",
        "ModelPool",
        pods(engine="vllm"),
        Finding("spec.backend.pods.engine", '"vllm" is not a known value', f"did you mean vLLM? allowed: {ENGINES}"),
    ),
    (
        "enum, nothing near",
        "ModelPool",
        pods(engine="tgi"),
        Finding("spec.backend.pods.engine", '"tgi" is not a known value', f"allowed: {ENGINES}"),
    ),
    (
        "enum, wrong type",
        "ModelPool",
        pods(engine=3),
        Finding(
            "spec.backend.pods.engine",
            f"must be one of {ENGINES}, not 3",
            "engine says which metrics the replicas publish: vLLM, SGLang, TensorRTLLM (trtllm-serve, or Triton with that "
            "backend), or Generic for none (placement then goes by what the gateway itself has in flight). Defaults to vLLM.",
        ),
    ),
    (
        "constraint",
        "RoutingPolicy",
        {
            "default": {"use": {"tier": "t"}},
            "rules": [{"name": "a", "use": {"tier": "t"}, "when": {"complexity": {"min": 0.9, "max": 0.2}}}],
        },
        Finding(
            "spec.rules[0].when.complexity.min",
            "min must be less than max: 0.9 is not less than 0.2",
            "both ends are between 0 and 1; leave min or max out for an open end",
        ),
    ),
    (
        "constraint on the object",
        "ModelPool",
        pool(backend={}),
        Finding(
            "spec.backend",
            "exactly one of pods, service, inferencePool and external must be set: none is",
            "set one of them, and remove the others",
        ),
    ),
    (
        "listed twice",
        "RoutingPolicy",
        {"default": {"use": {"tier": "t"}}, "match": {"models": ["a", "a"]}},
        Finding("spec.match.models", "a listed more than once", "list each value once"),
    ),
]


@pytest.mark.parametrize(("kind", "spec", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_finding(kind: str, spec: object, expected: Finding) -> None:
    assert findings(kind, spec) == [expected]


def test_errors_of_one_object_come_together() -> None:
    found = findings("ModelPool", {"model": {"nam": "x"}, "cost": {"inputPerMillion": -1}})
    assert {finding.field for finding in found} == {
        "spec.model.name",
        "spec.model.nam",
        "spec.backend",
        "spec.cost.inputPerMillion",
    }


class Sampled(BaseModel):
    ratio: float = Field(allow_inf_nan=False, description="ratio is a part.")


def explained(model: type[BaseModel], text: str) -> Finding:
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(text, strict=True)
    (finding,) = explain(model, caught.value.errors(include_url=False))
    return finding


def test_not_finite() -> None:
    found = explained(Sampled, '{"ratio": NaN}')
    assert found == Finding("ratio", "must be an ordinary number, not infinite or NaN", "ratio is a part.")


def test_an_error_nobody_foresaw_keeps_pydantics_words() -> None:
    found = explained(ModelPool, "{")
    assert found.field == ""
    assert found.message.startswith("Invalid JSON")


def test_the_table_has_only_real_error_types() -> None:
    from typing import get_args

    from pydantic_core.core_schema import ErrorType

    known: set[Any] = set(get_args(ErrorType)) | {"constraint"}
    assert set(_EXPLAINERS) <= known
