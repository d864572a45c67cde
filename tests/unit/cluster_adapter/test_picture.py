"""Views of the store: complete, and nothing is made twice."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ralb_api.problems import ObjectKey
from ralb_operator.cluster import kinds
from ralb_operator.cluster.kinds import Kind
from ralb_operator.cluster.picture import MAX_PROBLEMS, Picture
from ralb_operator.cluster.store import Entry, Store
from ralb_operator.view import Gateway, View

GATEWAY = Gateway(port=1234)
EXAMPLES = Path(__file__).parents[3] / "examples"


def pod(number: int, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": f"p{number}", "namespace": "ns", "resourceVersion": "1", **metadata},
        "status": {"podIP": f"10.0.0.{number}", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def put(store: Store, kind: Kind, data: dict[str, Any]) -> None:
    store.put(kind.entry(data))


def test_the_same_until_something_changes() -> None:
    store = Store()
    picture = Picture(store, GATEWAY)
    put(store, kinds.POD, pod(1))
    first, second = picture.view({}), picture.view({})
    assert first == second
    assert all(getattr(first, name) is getattr(second, name) for name in ("pods", "pools", "services", "secrets"))
    put(store, kinds.POD, pod(2))
    third = picture.view({})
    assert [each.name for each in third.pods] == ["p1", "p2"]
    assert third.pools is first.pools
    assert first.pods != third.pods


def test_everything_the_operator_reads_is_in_a_view() -> None:
    samples = {
        kinds.SERVICE: {"spec": {"ports": [{"port": 80}]}},
        kinds.SLICE: {
            "metadata": {"labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4",
            "endpoints": [],
            "ports": [{"port": 80}],
        },
        kinds.INFERENCE_POOL: {"spec": {"selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 80}]}},
        kinds.GRANT: {
            "spec": {
                "from": [{"group": "ralb.dev", "kind": "ModelPool", "namespace": "x"}],
                "to": [{"group": "", "kind": "Secret"}],
            }
        },
        kinds.SECRET: {"data": {}},
    }
    store = Store()
    for kind, content in samples.items():
        metadata = {"name": "x", "namespace": "ns", **content.get("metadata", {})}
        put(store, kind, {**content, "metadata": metadata})
    put(store, kinds.POD, pod(1))
    view = Picture(store, GATEWAY).view({("ns", "y"): "no"})
    assert view.problems == ()
    filled = ("pods", "services", "slices", "inference_pools", "grants", "secrets", "unreadable_secrets")
    assert [name for name in filled if not getattr(view, name)] == []
    assert view.gateway is GATEWAY
    known = {*filled, "pools", "tiers", "policies", "others", "problems", "sources", "gateway"}
    assert {each.name for each in fields(View)} == known


def test_each_of_our_kinds_has_its_place() -> None:
    store = Store()
    for file in sorted(EXAMPLES.rglob("*.yaml")):
        for data in yaml.safe_load_all(file.read_text()):
            for kind in kinds.OURS:
                if isinstance(data, dict) and data.get("kind") == kind.name:
                    put(store, kind, {**data, "metadata": {"namespace": "ns", **data["metadata"]}})
    later = ObjectKey("Tenant", "ns", "t")
    store.put(Entry(later, object()))
    view = Picture(store, GATEWAY).view({})
    assert {key.kind for key in view.pools} == {"ModelPool"}
    assert {key.kind for key in view.tiers} == {"ModelTier"}
    assert {key.kind for key in view.policies} == {"RoutingPolicy"}
    assert later in view.others
    found = len(view.pools) + len(view.tiers) + len(view.policies) + len(view.others)
    assert found == sum(store.size(kind.name) for kind in kinds.OURS)


def test_pods_without_an_address_are_no_problem() -> None:
    store = Store()
    put(store, kinds.POD, {"metadata": {"name": "x", "namespace": "ns"}, "status": {"phase": "Pending"}})
    assert Picture(store, GATEWAY).view({}).problems == ()


def test_problems_of_others_are_bounded() -> None:
    store = Store()
    for number in range(MAX_PROBLEMS + 50):
        put(store, kinds.POD, pod(number % 200, name=f"p{number}", annotations={"ralb.dev/port": "none"}))
    problems = Picture(store, GATEWAY).view({}).problems
    assert len(problems) == MAX_PROBLEMS + 1
    assert "50 more" in problems[-1].message


def test_odd_objects_do_not_raise() -> None:
    store = Store()
    for kind in (*kinds.OURS, *kinds.OTHERS, kinds.SECRET):
        for data in ({}, {"metadata": 3}, {"metadata": {"name": 3, "labels": []}, "spec": [], "status": 1, "data": 2}):
            put(store, kind, data)
    Picture(store, GATEWAY).view({})
