"""Defaults are the same on both sides: what the API server writes into an object is what the model fills in.

The trap is a default inside an object that is absent: Kubernetes gives it only where the object itself has a default.
"""

from typing import Any

import pytest
from support_cluster import ControlPlane
from support_crd import Case, create, load_cases

from ralb_api.objects.common import Object
from ralb_operator.parse import to_object

VALID = [case for case in load_cases() if case.valid]
pytestmark = pytest.mark.usefixtures("crds")

BALANCING = {
    "strategy": "ReasoningAware",
    "hash": {"boundedLoadPercent": 125, "maxKeySharePercent": 25},
    "affinity": {"ttl": "10m"},
    "concurrencyPerReplica": 0,
    "slowStart": "30s",
    "drain": "60s",
    "health": {"degradedErrorPercent": 2, "failedErrorPercent": 5, "slowPercent": 200, "maxEjectedPercent": 50},
    "circuitBreaker": {"maxRequests": 100000, "retryBudgetPercent": 50, "minRetries": 64},
}


def read(data: dict[str, Any]) -> Object:
    parsed = to_object(data)
    assert parsed.value is not None, parsed.problems
    return parsed.value


def told(value: Any) -> Any:
    """Without what says nothing: absent, null, empty text, empty lists and maps are one to the model."""
    if isinstance(value, dict):
        parts = {name: told(item) for name, item in value.items()}
        return {name: item for name, item in parts.items() if item not in (None, "", [], {})}
    return [told(item) for item in value] if isinstance(value, list) else value


def spelled(value: Any, name: str = "") -> Any:
    """Without upper case, where the model has none: names of headers."""
    if isinstance(value, dict):
        return {key: spelled(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [spelled(item) for item in value]
    return value.lower() if name == "name" else value


@pytest.mark.parametrize("case", VALID, ids=[case.id for case in VALID])
def test_defaults(control_plane: ControlPlane, case: Case) -> None:
    kept = create(control_plane, "default", case.data, dry_run=True)
    before, after = read(case.data), read(kept)
    assert after.model_dump(exclude={"metadata"}) == before.model_dump(exclude={"metadata"})
    dumped = before.model_dump(mode="json", by_alias=True)["spec"]
    assert spelled(told(kept["spec"])) == spelled(told(dumped))


def test_what_minimal_objects_become(control_plane: ControlPlane, namespace: str) -> None:
    minimal = next(case for case in VALID if case.id == "modelpool/valid-minimal")
    assert create(control_plane, namespace, minimal.data)["spec"] == {
        "model": {"name": "llama", "contextWindow": 0},
        "backend": {
            "pods": {
                "selector": {"matchLabels": {"app": "vllm"}},
                "port": 8000,
                "engine": "vLLM",
                "metricsPath": "/metrics",
            }
        },
        "cost": {"inputPerMillion": 0, "outputPerMillion": 0},
        "balancing": BALANCING,
        "role": "Unified",
    }
    minimal = next(case for case in VALID if case.id == "semanticroute/valid-minimal")
    assert create(control_plane, namespace, minimal.data)["spec"] == {
        "utterances": ["I want my money back"],
        "threshold": 0.75,
        "abstain": {"band": 0.05, "margin": 0.05},
        "embedder": {"type": "BuiltIn"},
    }


def test_an_object_half_given_gets_the_other_half(control_plane: ControlPlane, namespace: str) -> None:
    minimal = next(case for case in VALID if case.id == "modelpool/valid-minimal")
    data = {**minimal.data, "spec": {**minimal.data["spec"], "balancing": {"circuitBreaker": {"minRetries": 1}}}}
    assert create(control_plane, namespace, data)["spec"]["balancing"] == {
        **BALANCING,
        "circuitBreaker": {"maxRequests": 100000, "retryBudgetPercent": 50, "minRetries": 1},
    }


def test_null_is_the_default(control_plane: ControlPlane, namespace: str) -> None:
    minimal = next(case for case in VALID if case.id == "modelpool/valid-minimal")
    data = {**minimal.data, "spec": {**minimal.data["spec"], "balancing": None, "cost": {"inputPerMillion": None}}}
    kept = create(control_plane, namespace, data)["spec"]
    assert kept["balancing"]["slowStart"] == "30s"
    assert kept["cost"] == {"inputPerMillion": 0, "outputPerMillion": 0}
