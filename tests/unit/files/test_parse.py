"""Plain data to objects and pods, as files and clusters give it."""

from typing import Any

import pytest

from ralb_api.objects import ModelPool, RoutingPolicy
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.explain_errors import Finding
from ralb_operator.parse import concerns_us, key_of, to_object, to_pod
from ralb_operator.view import Pod

KIND_NAMES = "ModelPool, ModelTier, RoutingPolicy, Tenant, SemanticRoute, ToolBackend"
VERSION_HINT = "write apiVersion: ralb.dev/v1alpha1"
SPEC_HINT = "spec is the pool as wanted: the model, where its replicas are, what it costs."
NO_MAPPING = "must be a mapping of names to values, not"
PORT_FIELD = "metadata.annotations[ralb.dev/port]"
SPEC: dict[str, Any] = {"model": {"name": "m"}, "backend": {"service": {"host": "h", "port": 80}}}


def with_annotation(name: str, value: object) -> dict[str, Any]:
    return {"metadata": {"name": "p", "annotations": {name: value}}}


def pool(**more: Any) -> dict[str, Any]:
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "ModelPool", "metadata": {"name": "p"}, "spec": SPEC, **more}


def policy(rules: list[dict[str, Any]]) -> dict[str, Any]:
    spec = {"rules": rules, "default": {"use": {"tier": "t"}}}
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "RoutingPolicy", "metadata": {"name": "p"}, "spec": spec}


def pod(**more: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x"}},
        "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    return {**data, **more}


def only(problems: tuple[Problem, ...]) -> Problem:
    (problem,) = problems
    return problem


def test_an_object_as_a_cluster_stores_it() -> None:
    metadata = {
        "name": "p",
        "namespace": "ml",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 3,
        "creationTimestamp": None,
        "managedFields": [{"manager": "kubectl"}],
    }
    parsed = to_object(pool(metadata=metadata, status={"anything": [1]}))
    assert parsed.problems == ()
    assert isinstance(parsed.value, ModelPool)
    assert parsed.value.metadata.generation == 3
    assert parsed.value.key == ObjectKey("ModelPool", "ml", "p")


@pytest.mark.parametrize(
    ("change", "field", "message", "hint"),
    [
        ({"kind": "ModelPol"}, "kind", '"ModelPol" is not a kind of ralb.dev', f"did you mean ModelPool? allowed: {KIND_NAMES}"),
        ({"kind": "Gateway"}, "kind", '"Gateway" is not a kind of ralb.dev', f"allowed: {KIND_NAMES}"),
        ({"kind": None}, "kind", "required field is missing", f"one of {KIND_NAMES}"),
        ({"kind": ["ModelPool"]}, "kind", "required field is missing", f"one of {KIND_NAMES}"),
        ({"apiVersion": "ralb.dev/v1"}, "apiVersion", '"ralb.dev/v1" is not a version RALB reads', VERSION_HINT),
        ({"apiVersion": 1}, "apiVersion", "1 is not a version RALB reads", VERSION_HINT),
        ({"apiVersion": None}, "apiVersion", "required field is missing", VERSION_HINT),
        ({"metadata": {}}, "metadata.name", "required field is missing", "add name"),
        ({"metadata": {"generateName": "x-"}}, "metadata.name", "required field is missing", "add name"),
        ({"metadata": "p"}, "metadata", f'{NO_MAPPING} "p"', ""),
        (with_annotation("a", 3), "metadata.annotations.a", "must be text, not 3", "put it in quotes"),
        ({"spec": None}, "spec", "required field is missing", SPEC_HINT),
        ({"spec": 5}, "spec", f"{NO_MAPPING} 5", SPEC_HINT),
        ({"extra": 1}, "extra", "unknown field", "allowed here: apiVersion, metadata, kind, spec"),
        ({"spec": {**SPEC, "cost": None}}, "spec.cost", "is empty", "give it a value, or remove it to get its default"),
    ],
)  # fmt: skip
def test_broken_objects(change: dict[str, Any], field: str, message: str, hint: str) -> None:
    parsed = to_object(pool(**change), "f.yaml:3")
    problem = only(parsed.problems)
    assert parsed.value is None
    assert (problem.field, problem.message, problem.hint) == (field, message, hint)
    assert (problem.reason, problem.severity, problem.file) == ("Invalid", Severity.ERROR, "f.yaml:3")


def test_half_a_condition_does_not_become_none() -> None:
    rules = [{"name": "r", "use": {"tier": "t"}, "when": {"complexity": None, "intents": ["code", None]}}]
    parsed = to_object(policy(rules))
    assert parsed.value is None
    assert [problem.field for problem in parsed.problems] == [
        "spec.rules[0].when.complexity",
        "spec.rules[0].when.intents[1]",
    ]


def test_fields_of_a_newer_definition_are_left_out_of_stored_objects() -> None:
    balancing = {"slowStart": "1m", "mood": "Brave"}
    data = pool(spec={**SPEC, "balancing": balancing, "locality": {"region": "eu"}})
    parsed = to_object(data, stored=True)
    assert isinstance(parsed.value, ModelPool)
    assert parsed.value.spec.balancing.slow_start == "1m"
    assert [(problem.field, problem.severity) for problem in parsed.problems] == [
        ("spec.balancing.mood", Severity.WARNING),
        ("spec.locality", Severity.WARNING),
    ]
    assert "upgrade the operator" in parsed.problems[0].hint
    in_a_file = to_object(data)
    assert in_a_file.value is None
    assert {problem.severity for problem in in_a_file.problems} == {Severity.ERROR}


@pytest.mark.parametrize("when", [{"semanticRoutes": ["refunds"]}, {"tools": {"offered": True, "count": 3}}])
def test_a_condition_that_is_not_understood_is_not_left_out(when: dict[str, Any]) -> None:
    parsed = to_object(policy([{"name": "r", "when": when, "use": {"tier": "t"}}]), stored=True)
    assert parsed.value is None
    assert only(parsed.problems).message == "unknown field"


def test_whole_numbers_may_be_written_with_a_point() -> None:
    service = {"host": "1.0", "port": 80.0}
    parsed = to_object(pool(spec={**SPEC, "backend": {"service": service}}))
    assert isinstance(parsed.value, ModelPool)
    assert parsed.value.spec.backend.service is not None
    assert parsed.value.spec.backend.service.port == 80
    parsed = to_object(pool(spec={**SPEC, "backend": {"service": {**service, "port": 80.5}}}))
    assert only(parsed.problems).message == "must be a whole number, not 80.5"
    parsed = to_object(pool(spec={**SPEC, "model": {"name": 1.0}}))
    assert only(parsed.problems).message == "must be text, not 1.0"


def test_flaws_found_before_are_errors_too() -> None:
    parsed = to_object(pool(), flaws=[Finding("spec.cost", "is there twice", "keep one of them")])
    assert parsed.value is None
    assert only(parsed.problems).message == "is there twice"


def test_problems_of_one_object_are_bounded() -> None:
    spec = {**SPEC, **{f"field{i}": 1 for i in range(500)}}
    problems = to_object(pool(spec=spec)).problems
    assert len(problems) == 51
    assert problems[-1].message == "and 450 more errors"


def test_unknown_intents_are_warned_of() -> None:
    rules = [{"name": "r", "use": {"tier": "t"}, "when": {"intents": ["code", "math", "zzz"]}}]
    parsed = to_object(policy(rules), "f.yaml:1")
    assert isinstance(parsed.value, RoutingPolicy)
    first, second = parsed.problems
    assert first.field == "spec.rules[0].when.intents[1]"
    assert first.message == '"math" is not an intent the processor tells apart; it never matches'
    assert first.hint.startswith("did you mean maths? known: intent-classification, ")
    assert (first.reason, first.severity) == ("Doubtful", Severity.WARNING)
    assert second.hint.startswith("known: ")


def test_rules_that_are_never_reached_are_warned_of() -> None:
    use = {"tier": "t"}
    rules = [{"name": "all", "use": use}, {"name": "b", "use": use, "when": {"intents": ["code"]}}]
    problem = only(to_object(policy(rules)).problems)
    assert problem.field == "spec.rules[0].when"
    assert problem.message == "rule all always holds, so the 1 after it are never reached"
    assert to_object(policy(rules[::-1])).problems == ()


def test_keys_of_broken_objects_can_be_printed() -> None:
    key = key_of({"kind": "Model\x1bPool", "metadata": {"name": "n" * 999, "namespace": 5}})
    assert key.kind == "Model?Pool"
    assert key.namespace == "default"
    assert len(key.name) == 256
    assert key_of({}) == ObjectKey("Object", "default", "<unnamed>")


@pytest.mark.parametrize(
    ("data", "ours"),
    [
        ({"apiVersion": "ralb.dev/v9", "kind": "X"}, True),
        ({"apiVersion": "x/v1", "kind": "ModelTier"}, True),
        ({"apiVersion": "apps/v1", "kind": "Deployment"}, False),
        ({"apiVersion": 5, "kind": 5}, False),
    ],
)
def test_concerns_us(data: dict[str, Any], ours: bool) -> None:
    assert concerns_us(data) is ours


def test_a_ready_pod() -> None:
    assert to_pod(pod()).value == Pod("ns", "p", {"app": "x"}, "10.0.0.7", True, 0)


def test_ipv6_is_normalised() -> None:
    value = to_pod(pod(status={"podIP": "FD00:0::7"}), assume_ready=True).value
    assert value is not None
    assert value.ip == "fd00::7"


@pytest.mark.parametrize(
    ("status", "metadata", "assume", "ready"),
    [
        ({"conditions": [{"type": "Ready", "status": "False"}]}, {}, True, False),
        ({"conditions": [{"type": "Other", "status": "True"}]}, {}, True, False),
        ({"conditions": [5, {"type": "Ready", "status": "True"}]}, {}, False, True),
        ({}, {}, False, False),
        ({}, {}, True, True),
        ({}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}, True, False),
    ],
)
def test_readiness(status: dict[str, Any], metadata: dict[str, Any], assume: bool, ready: bool) -> None:
    data = pod(status={"podIP": "10.0.0.7", **status}, metadata={"name": "p", **metadata})
    value = to_pod(data, assume_ready=assume).value
    assert value is not None
    assert value.ready is ready


def test_port_annotation() -> None:
    value = to_pod(pod(metadata={"name": "p", "annotations": {"ralb.dev/port": "8001"}})).value
    assert value is not None
    assert value.port == 8001


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (with_annotation("ralb.dev/port", "0"), PORT_FIELD, 'must be a port number, not "0"'),
        (with_annotation("ralb.dev/port", "8e3"), PORT_FIELD, 'must be a port number, not "8e3"'),
        (with_annotation("ralb.dev/port", 80), PORT_FIELD, "must be text, not 80"),
        ({"metadata": {}}, "metadata.name", "required field is missing"),
        ({"metadata": {"name": "p", "namespace": 5}}, "metadata.namespace", "must be text, not 5"),
        ({"metadata": {"name": "p", "labels": ["a"]}}, "metadata.labels", f"{NO_MAPPING} a list"),
        ({"status": []}, "status", f"{NO_MAPPING} a list"),
        ({"status": {"podIP": "host"}}, "status.podIP", '"host" is no address a pod can have'),
        ({"status": {"podIP": "0.0.0.0"}}, "status.podIP", '"0.0.0.0" is no address a pod can have'),
        ({"status": {"podIP": "fe80::1%eth0"}}, "status.podIP", '"fe80::1%eth0" is no address a pod can have'),
        ({"status": {"podIP": "224.0.0.1"}}, "status.podIP", '"224.0.0.1" is no address a pod can have'),
        ({"status": {"podIP": 167772167}}, "status.podIP", "167772167 is no address a pod can have"),
    ],
)  # fmt: skip
def test_broken_pods(change: dict[str, Any], field: str, message: str) -> None:
    parsed = to_pod(pod(**change), "f.yaml:1")
    assert parsed.value is None
    assert [(problem.field, problem.message) for problem in parsed.problems] == [(field, message)]
    assert parsed.problems[0].severity is Severity.ERROR


def test_a_pod_without_an_address_is_only_left_out() -> None:
    parsed = to_pod(pod(status={}))
    assert parsed.value is None
    assert only(parsed.problems).severity is Severity.WARNING
    assert only(parsed.problems).field == "status.podIP"
