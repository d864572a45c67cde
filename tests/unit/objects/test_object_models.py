"""Defaults, bounds and rules of the models, checked through JSON as objects arrive."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ralb_api.objects import KINDS, HeaderMatchType, ModelPool, ModelTier, RoutingPolicy
from ralb_api.objects.common import FORMS, Object, duplicates, seconds

POOL: dict[str, Any] = {
    "model": {"name": "m"},
    "backend": {"pods": {"selector": {"matchLabels": {"app": "x"}}}},
}
TIER: dict[str, Any] = {"level": 1, "pools": [{"name": "p"}]}
POLICY: dict[str, Any] = {"default": {"use": {"tier": "t"}}}


def read(kind: str, spec: dict[str, Any]) -> Object:
    data = {"apiVersion": "ralb.dev/v1alpha1", "kind": kind, "metadata": {"name": "o"}, "spec": spec}
    return KINDS[kind].model_validate_json(json.dumps(data), strict=True, by_alias=True, by_name=False)


def with_when(when: dict[str, Any]) -> dict[str, Any]:
    return {**POLICY, "rules": [{"name": "r", "when": when, "use": {"tier": "t"}}]}


def test_pool_defaults() -> None:
    pool = read("ModelPool", POOL)
    assert isinstance(pool, ModelPool)
    assert pool.spec.backend.pods is not None
    assert (pool.spec.backend.pods.port, pool.spec.backend.pods.engine) == (8000, "vLLM")
    assert pool.spec.backend.pods.metrics_path == "/metrics"
    assert pool.spec.balancing.slow_start == "30s"
    assert pool.spec.balancing.concurrency_per_replica == 0
    assert pool.spec.balancing.circuit_breaker.max_requests == 100_000
    assert (pool.spec.cost.input_per_million, pool.spec.cost.cached_input_per_million) == (0.0, None)
    assert pool.spec.model.context_window == 0
    assert pool.metadata.namespace == "default"
    assert str(pool.key) == "ModelPool default/o"


def test_tier_defaults() -> None:
    tier = read("ModelTier", TIER)
    assert isinstance(tier, ModelTier)
    assert (tier.spec.pools[0].weight, tier.spec.pools[0].priority) == (1, 0)
    assert (tier.spec.fallback_tier, tier.spec.output_cap, tier.spec.reasoning_effort) == (None, None, None)


def test_policy_defaults() -> None:
    policy = read("RoutingPolicy", with_when({"tools": {}, "complexity": {}, "inputTokens": {}}))
    assert isinstance(policy, RoutingPolicy)
    assert policy.spec.match.models == ("auto",)
    assert policy.spec.stream_usage == "AsRequested"
    when = policy.spec.rules[0].when
    assert when.complexity is not None
    assert when.tools is not None
    assert when.input_tokens is not None
    assert (when.complexity.min, when.complexity.max) == (0.0, 1.0)
    assert when.tools.offered
    assert (when.input_tokens.min, when.input_tokens.max) == (0, None)


def test_header_names_and_hosts_are_lower_cased() -> None:
    spec = {**POLICY, "match": {"hostnames": ["LLM.Example.com"], "headers": [{"name": "X-Team", "value": "A"}]}}
    policy = read("RoutingPolicy", spec)
    assert isinstance(policy, RoutingPolicy)
    assert policy.spec.match.hostnames == ("llm.example.com",)
    header = policy.spec.match.headers[0]
    assert (header.name, header.value, header.type) == ("x-team", "A", HeaderMatchType.EXACT)


@pytest.mark.parametrize(
    ("text", "expected"), [("250ms", 0.25), ("30s", 30.0), ("1m30s", 90.0), ("2h", 7200.0), ("1h1m1s1ms", 3661.001)]
)
def test_seconds(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "30", "s", "1.5s", "-1s", "1 s", "1d", "1s1s1s1s1s", "30s\n", "123456789s"])
def test_durations_that_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        read("ModelPool", {**POOL, "balancing": {"slowStart": text}})


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        (
            "ModelPool",
            {**POOL, "backend": {}},
            "exactly one of pods, service, inferencePool and external must be set: none is",
        ),
        (
            "ModelPool",
            {**POOL, "backend": {**POOL["backend"], "service": {"host": "h", "port": 1}}},
            "exactly one of pods, service, inferencePool and external must be set: pods and service are",
        ),
        (
            "ModelPool",
            {**POOL, "model": {"name": "m", "aliases": ["m"]}},
            "name, aliases and adapters must all differ: m is used twice",
        ),
        (
            "ModelPool",
            {**POOL, "model": {"name": "m", "aliases": ["a"], "adapters": ["b", "a"]}},
            "name, aliases and adapters must all differ: a is used twice",
        ),
        (
            "ModelTier",
            {"level": 1, "pools": [{"name": "p"}, {"name": "q"}, {"name": "p"}]},
            "each pool may be in a tier once: p is there more than once",
        ),
        ("RoutingPolicy", {"default": {"use": {}}}, "exactly one of tier and reject must be set: neither is"),
        (
            "RoutingPolicy",
            {"default": {"use": {"tier": "t", "reject": {}}}},
            "exactly one of tier and reject must be set: both are",
        ),
        (
            "RoutingPolicy",
            {**POLICY, "rules": [{"name": n, "use": {"tier": "t"}} for n in ("a", "b", "a")]},
            "rule names must be unique: a is the name of rules[0] and rules[2]",
        ),
        (
            "RoutingPolicy",
            with_when({"complexity": {"min": 0.5, "max": 0.5}}),
            "min must be less than max: 0.5 is not less than 0.5",
        ),
        (
            "RoutingPolicy",
            with_when({"inputTokens": {"min": 5, "max": 4}}),
            "min must not be greater than max: 5 is greater than 4",
        ),
        (
            "RoutingPolicy",
            with_when({"tools": {"offered": False, "names": ["a"]}}),
            "names can only be set when offered is true",
        ),
        (
            "RoutingPolicy",
            with_when({"headers": [{"name": "h"}]}),
            "value must be set for Exact and Prefix, and left out for Present",
        ),
        (
            "RoutingPolicy",
            with_when({"headers": [{"name": "h", "type": "Present", "value": "v"}]}),
            "value must be set for Exact and Prefix, and left out for Present",
        ),
        ("RoutingPolicy", with_when({"intents": ["code", "chat", "code"]}), "code listed more than once"),
        (
            "RoutingPolicy",
            {**POLICY, "match": {"hostnames": ["a.b", "A.b"]}},
            "a.b listed more than once",
        ),
    ],
)
def test_rules_across_fields(kind: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(kind, spec)
    assert [error["msg"] for error in caught.value.errors()] == [message]
    assert caught.value.errors()[0]["ctx"]["hint"]


@pytest.mark.parametrize(
    "when",
    [
        {"complexity": {"min": 0, "max": 1}},
        {"inputTokens": {"min": 4, "max": 4}},
        {"tools": {"offered": False}},
        {"headers": [{"name": "h", "type": "Present"}]},
    ],
)
def test_edges_that_are_allowed(when: dict[str, Any]) -> None:
    read("RoutingPolicy", with_when(when))


def test_python_names_are_not_accepted_on_the_wire() -> None:
    with pytest.raises(ValidationError, match="context_window"):
        read("ModelPool", {**POOL, "model": {"name": "m", "context_window": 5}})


def test_objects_are_immutable() -> None:
    pool = read("ModelPool", POOL)
    with pytest.raises(ValidationError, match="frozen"):
        pool.metadata.name = "other"


def test_duplicates_keep_their_order() -> None:
    assert duplicates("abcab") == ["a", "b"]


def test_every_form_is_worded() -> None:
    assert all(pattern.startswith("^") and pattern.endswith("$") and words for pattern, words in FORMS.items())
