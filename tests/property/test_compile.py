"""What compile promises for every view: a pure function that is whole, order-free, local in its effects, and never fails."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_views import pods, policies, pools, tiers, view_of, views
from support_xds import decode_resource

from ralb.v1.snapshot_pb2 import Snapshot
from ralb_api.objects import ModelPool, ModelTier
from ralb_api.objects.common import Object
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_extproc.table import RoutingTable
from ralb_operator.compile import ConditionType, Result, compile_view
from ralb_operator.view import Pod, View
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, Resource

bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def essence(result: Result) -> tuple[Any, ...]:
    """All of a result, comparable to the byte and in order."""
    return (
        result.snapshot.SerializeToString(deterministic=True),
        [(r.type_url, r.name, r.version, r.body) for r in resources(result)],
        result.xds.version,
        list(result.statuses.items()),
        list(result.problems),
    )


def resources(result: Result) -> list[Resource]:
    return [resource for named in result.xds.by_type.values() for resource in named.values()]


def backwards(mapping: dict[Any, Any]) -> dict[Any, Any]:
    return dict(reversed(mapping.items()))


@bounded
@given(views, st.randoms(use_true_random=False))
def test_order_does_not_matter(view: View, random: Any) -> None:
    def shuffled(items: Iterable[Any]) -> list[Any]:
        out = list(items)
        random.shuffle(out)
        return out

    other = replace(
        view,
        pools=dict(shuffled(view.pools.items())),
        tiers=dict(shuffled(view.tiers.items())),
        policies=dict(shuffled(view.policies.items())),
        pods=tuple(
            Pod(pod.namespace, pod.name, backwards(dict(pod.labels)), pod.ip, pod.ready, pod.port)
            for pod in shuffled(view.pods)
        ),
        services=tuple(shuffled(view.services)),
        slices=tuple(
            replace(part, ports=tuple(shuffled(part.ports)), endpoints=tuple(shuffled(part.endpoints)))
            for part in shuffled(view.slices)
        ),
        inference_pools=tuple(shuffled(view.inference_pools)),
        grants=tuple(shuffled(view.grants)),
        secrets=dict(shuffled(view.secrets.items())),
        problems=tuple(shuffled(view.problems)),
    )
    assert essence(compile_view(view)) == essence(compile_view(other))


@bounded
@given(st.lists(pools, max_size=4))
def test_order_of_labels_does_not_matter(found: list[ModelPool]) -> None:
    turned = []
    for pool in found:
        data = pool.model_dump(by_alias=True, mode="json")
        data["spec"]["labels"] = backwards(data["spec"]["labels"])
        data["spec"]["backend"] = {name: part for name, part in data["spec"]["backend"].items() if part is not None}
        if "pods" in data["spec"]["backend"]:
            selector = data["spec"]["backend"]["pods"]["selector"]
            selector["matchLabels"] = backwards(selector["matchLabels"])
        turned.append(ModelPool.model_validate(data))
    assert essence(compile_view(view_of(found))) == essence(compile_view(view_of(turned)))


_ELSEWHERE = """
import pickle, sys
from ralb_operator.compile import compile_view
views = pickle.load(sys.stdin.buffer)
out = []
for view in views:
    result = compile_view(view)
    bodies = [(r.type_url, r.name, r.version, r.body) for named in result.xds.by_type.values() for r in named.values()]
    snapshot = result.snapshot.SerializeToString(deterministic=True)
    out.append((snapshot, bodies, result.xds.version, list(result.statuses.items()), list(result.problems)))
pickle.dump(out, sys.stdout.buffer)
"""


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(views, min_size=6, max_size=8))
def test_another_process_gives_the_same_bytes(found: list[View]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE],
        input=pickle.dumps(found),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        timeout=60,
        check=True,
    )
    assert pickle.loads(run.stdout) == [essence(compile_view(view)) for view in found]


other_pool = pools.map(lambda pool: _moved(pool))
unrelated = st.tuples(
    st.lists(other_pool, max_size=3),
    st.lists(tiers.map(lambda tier: _moved(tier)), max_size=3),
    st.lists(policies.map(lambda policy: _moved(policy, match={"models": ["elsewhere"]})), max_size=1),
    st.lists(pods, max_size=3, unique_by=lambda pod: pod.name),
)


def _moved(value: Any, **spec: Any) -> Any:
    """The object in a namespace that nothing else is in."""
    changed = value.model_dump(by_alias=True, mode="json", exclude_none=True)
    changed["metadata"]["namespace"] = "elsewhere"
    changed["spec"].update(spec)
    return type(value).model_validate(changed)


@bounded
@given(views, unrelated)
def test_unrelated_changes_leave_everything_else_alone(view: View, added: Any) -> None:
    more = view_of([*added[0], *added[1], *added[2]])
    strangers = tuple(Pod("elsewhere", pod.name, pod.labels, pod.ip, pod.ready, pod.port) for pod in added[3])
    bigger = replace(
        view,
        pools={**view.pools, **more.pools},
        tiers={**view.tiers, **more.tiers},
        policies={**view.policies, **more.policies},
        pods=(*view.pods, *strangers),
    )
    before, after = compile_view(view), compile_view(bigger)
    for resource in resources(before):
        assert after.xds.get(resource.type_url)[resource.name] == resource
    for key, status in before.statuses.items():
        assert after.statuses[key] == status
    for part in ("pools", "tiers", "policies"):
        kept = [m for m in getattr(after.snapshot, part) if not m.id.startswith("elsewhere/")]
        assert kept == list(getattr(before.snapshot, part))
    assert [problem for problem in after.problems if not _is_elsewhere(problem)] == list(before.problems)


def _is_elsewhere(problem: Problem) -> bool:
    return problem.object is not None and problem.object.namespace == "elsewhere"


@bounded
@given(views)
def test_endpoints_are_the_ready_pods_that_match(view: View) -> None:
    result = compile_view(view)
    for pool in result.snapshot.pools:
        namespace, _, name = pool.id.partition("/")
        backend = view.pools[ObjectKey("ModelPool", namespace, name)].spec.backend
        if backend.pods is not None:
            expected = set()
            for pod in view.pods:
                carries = all(pod.labels.get(k) == v for k, v in backend.pods.selector.match_labels.items())
                if pod.namespace == namespace and pod.ready and pod.ip and carries:
                    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
                    expected.add(f"{host}:{pod.port or backend.pods.port}")
            assert [endpoint.address for endpoint in pool.endpoints] == sorted(expected)
        assert {pod.name for pod in view.pods} | {"", "pod-1", "pod-2"} >= {
            endpoint.name for endpoint in pool.endpoints
        }
        addresses = [endpoint.address for endpoint in pool.endpoints]
        assert addresses == sorted(set(addresses))
        if pool.id in result.xds.get(ENDPOINTS):
            assert _envoy_addresses(result.xds.get(ENDPOINTS)[pool.id]) == (set(addresses) or {"/dev/null"})
        else:
            assert not addresses


def _envoy_addresses(resource: Resource) -> set[str]:
    out = set()
    for endpoint in decode_resource(resource)["endpoints"][0]["lb_endpoints"]:
        address = endpoint["endpoint"]["address"]
        if "pipe" in address:
            out.add(address["pipe"]["path"])
        else:
            host, port = address["socket_address"]["address"], address["socket_address"]["port_value"]
            out.add(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return out


def _tiers_used(snapshot: Snapshot) -> set[str]:
    actions = [policy.default_action for policy in snapshot.policies]
    actions += [rule.action for policy in snapshot.policies for rule in policy.rules]
    assert all(action.WhichOneof("use") for action in actions)
    return {action.tier for action in actions if action.WhichOneof("use") == "tier"}


@bounded
@given(views)
def test_the_snapshot_hangs_together(view: View) -> None:
    result = compile_view(view)
    snapshot = result.snapshot
    tiers = {tier.id for tier in snapshot.tiers}
    pools = {pool.id for pool in snapshot.pools}
    assert [pool.id for pool in snapshot.pools] == sorted(pools)
    assert [tier.id for tier in snapshot.tiers] == sorted(tiers)
    assert _tiers_used(snapshot) <= tiers
    for tier in snapshot.tiers:
        assert tier.pools
        assert {pool.pool for pool in tier.pools} <= pools
        for others in (tier.fallback_tiers, tier.spill_tiers):
            assert set(others) <= tiers - {tier.id}
            assert len(set(others)) == len(others)
    for pool in snapshot.pools:
        assert {pool.cluster, pool.rewrite_cluster} <= set(result.xds.get(CLUSTER))
    RoutingTable.of(snapshot)


@bounded
@given(views)
def test_no_two_policies_claim_the_same(view: View) -> None:
    claimed = set()
    for policy in compile_view(view).snapshot.policies:
        headers = frozenset((header.name, header.type, header.value) for header in policy.headers)
        for host in policy.hostnames or [""]:
            for path in policy.paths or [""]:
                for model in policy.models:
                    assert (host, path, model, headers) not in claimed
                    claimed.add((host, path, model, headers))


@bounded
@given(views)
def test_every_object_has_a_status(view: View) -> None:
    result = compile_view(view)
    objects: dict[ObjectKey, Object] = {**view.pools, **view.tiers, **view.policies}
    assert set(objects) <= set(result.statuses)
    for key, status in result.statuses.items():
        types = [condition.type for condition in status.conditions]
        if key not in objects:
            assert types == [ConditionType.ACCEPTED]
            assert not status.conditions[0].status
            continue
        assert types == list(ConditionType)[: 3 if key.kind == "ModelPool" else 2]
        assert status.generation == objects[key].metadata.generation
        # A duplicate is about a second object of that name, not about the one that is kept.
        errors = [
            p for p in result.problems if p.object == key and p.severity is Severity.ERROR and p.reason != "Duplicate"
        ]
        judged = [condition.status for condition in status.conditions if condition.type is not ConditionType.READY]
        assert all(judged) == (not errors)


@bounded
@given(views, views)
def test_versions_change_exactly_when_content_does(one: View, other: View) -> None:
    first, second = compile_view(one), compile_view(other)
    versions = first.snapshot.version, second.snapshot.version
    for result in (first, second):
        result.snapshot.version = ""
    assert (versions[0] == versions[1]) == (first.snapshot == second.snapshot)
    assert (first.xds.version == second.xds.version) == (
        sorted(map(_key, resources(first))) == sorted(map(_key, resources(second)))
    )
    bodies = {(r.type_url, r.name): r for r in resources(first)}
    for resource in resources(second):
        known = bodies.get((resource.type_url, resource.name))
        assert known is None or (known.version == resource.version) == (known.body == resource.body)


def _key(resource: Resource) -> tuple[str, str, bytes]:
    return (resource.type_url, resource.name, resource.body)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.sampled_from(["fallbackTier", "spillTier"]), st.data())
def test_chains_end_whatever_points_where(count: int, field: str, data: st.DataObject) -> None:
    pool = ModelPool.model_validate(
        {
            "metadata": {"name": "p"},
            "spec": {"model": {"name": "m"}, "backend": {"pods": {"selector": {"matchLabels": {"a": "b"}}}}},
        }
    )
    targets = data.draw(st.lists(st.integers(-1, count), min_size=count, max_size=count))
    found = []
    for number, target in enumerate(targets):
        spec: dict[str, Any] = {"level": 1, "pools": [{"name": data.draw(st.sampled_from(["p", "p", "gone"]))}]}
        if target >= 0 and (field, target) != ("spillTier", number):
            spec[field] = f"t{target}"
        found.append(ModelTier.model_validate({"metadata": {"name": f"t{number}"}, "spec": spec}))
    result = compile_view(view_of([pool, *found]))
    circular = {problem.object for problem in result.problems if problem.reason == "Cycle"}
    for number in range(count):
        # By definition: whoever comes back to himself is on a circle.
        step, seen = targets[number], set()
        while 0 <= step < count and step not in seen and step != number:
            seen.add(step)
            step = targets[step]
        key = ObjectKey("ModelTier", "default", f"t{number}")
        own = targets[number] == number and field == "spillTier"  # refused before, so not there
        assert (key in circular) == (step == number and not own)
    for tier in result.snapshot.tiers:
        others = tier.fallback_tiers if field == "fallbackTier" else tier.spill_tiers
        assert len(others) <= 16
        assert tier.id not in others
        assert len(set(others)) == len(others)
