"""Server-side apply: lists of named things merge item by item, fields have owners, and status is apart from spec."""

from typing import Any

import pytest
from support_cluster import ControlPlane
from support_cluster_api import ApiProblem
from support_crd import create, path_of

pytestmark = pytest.mark.usefixtures("crds")

APPLY = "application/apply-patch+yaml"


def tier(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "ModelTier", "metadata": {"name": "t"}, "spec": spec}


def tenant(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": "t"}, "spec": spec}


def condition(type_: str, status: str = "True", **more: Any) -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": "Tested",
        "message": "",
        "lastTransitionTime": "2026-11-20T10:00:00Z",
        "observedGeneration": 1,
        **more,
    }


def test_two_owners_of_one_list(control_plane: ControlPlane, namespace: str) -> None:
    path = path_of("ModelTier", namespace, "t")
    api = control_plane.api
    api.apply(path, tier(level=1, pools=[{"name": "a"}, {"name": "b", "weight": 3}]), manager="one")
    merged = api.apply(path, tier(level=1, pools=[{"name": "c", "priority": 1}]), manager="two")
    assert {pool["name"]: (pool["weight"], pool["priority"]) for pool in merged["spec"]["pools"]} == {
        "a": (1, 0),
        "b": (3, 0),
        "c": (1, 1),
    }
    # What an owner leaves out goes, and nothing else.
    left = api.apply(path, tier(level=1, pools=[{"name": "a"}]), manager="one")
    assert {pool["name"] for pool in left["spec"]["pools"]} == {"a", "c"}


def test_one_field_of_two_owners_is_a_conflict(control_plane: ControlPlane, namespace: str) -> None:
    path = path_of("ModelTier", namespace, "t")
    api = control_plane.api
    api.apply(path, tier(level=1, pools=[{"name": "a", "weight": 1}]), manager="one")
    with pytest.raises(ApiProblem, match=r"409: .*conflict with \"one\".*\.spec\.pools\[name=\"a\"\]\.weight"):
        api.apply(path, tier(level=1, pools=[{"name": "a", "weight": 2}]), manager="two", force=False)
    api.apply(path, tier(level=1, pools=[{"name": "a", "weight": 2}]), manager="two", force=True)
    assert api.request("GET", path)["spec"]["pools"][0]["weight"] == 2


def test_sets_and_other_lists_of_named_things_merge_too(control_plane: ControlPlane, namespace: str) -> None:
    path = path_of("Tenant", namespace, "t")
    api = control_plane.api
    identification = {"apiKeySecretRef": {"name": "key"}}
    first = tenant(identification=identification, allowedTiers=["small"], budgets=[{"period": "Day", "tokens": 1}])
    api.apply(path, first, manager="one")
    second = tenant(identification=identification, allowedTiers=["large"], budgets=[{"period": "Month", "dollars": 1}])
    merged = api.apply(path, second, manager="two")["spec"]
    assert sorted(merged["allowedTiers"]) == ["large", "small"]
    assert [budget["period"] for budget in merged["budgets"]] == ["Day", "Month"]


def test_ordered_rules_belong_to_one_owner(control_plane: ControlPlane, namespace: str) -> None:
    def policy(*names: str) -> dict[str, Any]:
        rules = [{"name": name, "use": {"tier": "t"}} for name in names]
        data = {"apiVersion": "ralb.dev/v1alpha1", "kind": "RoutingPolicy", "metadata": {"name": "p"}}
        return {**data, "spec": {"rules": rules, "default": {"use": {"tier": "t"}}}}

    path = path_of("RoutingPolicy", namespace, "p")
    control_plane.api.apply(path, policy("a", "b"), manager="one")
    with pytest.raises(ApiProblem, match=r"conflict with \"one\".*\.spec\.rules"):
        control_plane.api.apply(path, policy("c"), manager="two", force=False)
    kept = control_plane.api.apply(path, policy("c"), manager="two", force=True)
    assert [rule["name"] for rule in kept["spec"]["rules"]] == ["c"]


def test_conditions_of_two_writers_merge(control_plane: ControlPlane, namespace: str) -> None:
    create(control_plane, namespace, tier(level=1, pools=[{"name": "a"}]))
    path = path_of("ModelTier", namespace, "t")
    for manager, type_ in (("one", "Accepted"), ("two", "example.com/Reviewed")):
        body = {**tier(), "status": {"conditions": [condition(type_)]}}
        del body["spec"]
        control_plane.api.apply(f"{path}/status", body, manager=manager)
    status = control_plane.api.request("GET", path)["status"]
    assert sorted(item["type"] for item in status["conditions"]) == ["Accepted", "example.com/Reviewed"]


def test_status_and_spec_are_written_apart(control_plane: ControlPlane, namespace: str) -> None:
    api, path = control_plane.api, path_of("ModelTier", namespace, "t")
    smuggled = {**tier(level=1, pools=[{"name": "a"}]), "status": {"snapshot": "smuggled"}}
    created = create(control_plane, namespace, smuggled)
    assert "status" not in created
    assert created["metadata"]["generation"] == 1

    written = {**created, "spec": {"level": 99, "pools": [{"name": "z"}]}, "status": {"snapshot": "v1"}}
    after = api.request("PUT", f"{path}/status", written)
    assert (after["spec"], after["status"]) == (created["spec"], {"snapshot": "v1"})
    assert after["metadata"]["generation"] == 1, "a status is no new wish"

    after = api.request("PUT", path, {**after, "spec": {**after["spec"], "level": 2}, "status": {}})
    assert (after["spec"]["level"], after["status"]) == (2, {"snapshot": "v1"})
    assert after["metadata"]["generation"] == 2
    after["metadata"]["labels"] = {"team": "a"}
    assert api.request("PUT", path, after)["metadata"]["generation"] == 2, "nor is a label"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"conditions": [{"type": "Accepted", "status": "True"}]}, r"conditions\[0\].reason: Required value"),
        ({"conditions": [condition("Accepted", "Perhaps")]}, r'supported values: "True", "False", "Unknown"'),
        ({"conditions": [condition("Accepted", reason="Not one word")]}, r"conditions\[0\].reason"),
        ({"conditions": [condition("Accepted"), condition("Accepted", "False")]}, "Duplicate value"),
        ({"conditions": [condition(f"C{i}") for i in range(9)]}, "must have at most 8 items"),
        ({"conditions": [condition("Accepted", lastTransitionTime="today")]}, "date-time"),
        ({"conditions": [condition("Accepted", message="a" * 32769)]}, "Too long"),
        ({"snapshot": "a" * 129}, "Too long"),
    ],
)
def test_a_wrong_status_is_refused(
    control_plane: ControlPlane, namespace: str, status: dict[str, Any], words: str
) -> None:
    create(control_plane, namespace, tier(level=1, pools=[{"name": "a"}]))
    path = path_of("ModelTier", namespace, "t/status")
    with pytest.raises(ApiProblem, match=words):
        control_plane.api.request("PATCH", path, {"status": status}, content_type="application/merge-patch+json")
