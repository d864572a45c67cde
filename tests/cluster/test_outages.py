"""What fails of the control plane under traffic, and that nobody notices: leader, all operators, API server, etcd.

Two operators behind one address, a real Envoy and processor, simulated pods, 50 requests per second all the while. The tests run
in order and leave the world as they found it.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from support_cluster import ControlPlane, running_control_plane
from support_cluster_api import AuditEntry
from support_cluster_fixtures import REPOSITORY, install_crds, require
from support_load import Load
from support_net import wait_until
from support_stack import policy, tier
from support_world import World, running_gateway, running_world

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.cluster,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]

# Longer than a Lease lives, with the new leader's first writes.
TAKE_OVER_S = 40.0


def pool(name: str, model: str, **balancing: Any) -> dict[str, Any]:
    return {
        "apiVersion": "ralb.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": model},
            "backend": {"pods": {"selector": {"matchLabels": {"pool": name}}, "port": 8000}},
            "balancing": {"slowStart": "0s", **balancing},
        },
    }


OBJECTS = (
    pool("alpha", "alpha-8b"),
    pool("beta", "beta-8b"),
    tier("main", 1, {"name": "alpha", "weight": 3}, {"name": "beta", "weight": 1}),
    policy("auto", "main"),
)


@pytest.fixture(scope="module")
def plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """A control plane of its own, for it is killed here."""
    for name in ("etcd", "kube-apiserver", "kubectl"):
        require(pytestconfig, name)
    with running_control_plane() as plane:
        install_crds(plane, sorted((REPOSITORY / "crds").glob("*.yaml")))
        yield plane


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(plane: ControlPlane) -> AsyncIterator[World]:
    async with running_world(plane, replicas=2) as world:
        await world.pod_pool("alpha", "alpha-8b", 3, time_scale=0.02)
        await world.pod_pool("beta", "beta-8b", 2, time_scale=0.02)
        await world.apply(*OBJECTS)
        await world.all_ready()
        async with running_gateway(world):
            await world.programmed("RoutingPolicy", "auto")
            yield world


@asynccontextmanager
async def traffic(world: World, model: str = "auto") -> AsyncIterator[Load]:
    """50 requests per second while the body runs; afterwards none of them may have failed."""
    load = Load(world.url, world.models, rate=50.0, model=model)
    async with load.going(at_most=200):
        yield load
    assert load.answers
    assert not load.bad, [answer for answer in load.bad][:5]


async def served(load: Load, count: int = 25) -> None:
    """Wait for so many further answers."""
    have = len(load.answers)
    await wait_until(lambda: sum(bool(one.done) for one in load.answers[have:]) >= count, 30, what="answers")


def status_writes(world: World) -> list[AuditEntry]:
    """Every write of a status of ours that the API server took."""
    return [
        entry
        for entry in world.plane.audit.writes()
        if entry.group == "ralb.dev"
        and entry.resource.endswith("/status")
        and entry.namespace == world.namespace
        and entry.code == 200
    ]


async def edited(world: World, limit: float) -> None:
    """An edit of a pool takes effect; asking for it is what shows that everything works again."""
    path = world.path("ModelPool", "beta")
    now = (await world.get(path))["spec"]["balancing"]["circuitBreaker"]["maxRequests"]
    await world.apply(pool("beta", "beta-8b", circuitBreaker={"maxRequests": now + 1}))
    await world.programmed("ModelPool", "beta", limit)


async def statuses(world: World) -> dict[str, str]:
    """Resource version of each object of ours."""
    listed = {}
    for plural in ("modelpools", "modeltiers", "routingpolicies"):
        found = await world.get(f"/apis/ralb.dev/v1alpha1/namespaces/{world.namespace}/{plural}")
        listed |= {
            f"{plural}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in found["items"]
        }
    return listed


async def test_the_leader_is_killed(world: World) -> None:
    async with traffic(world) as load:
        await served(load)
        leader = await world.leader()
        before, versions = len(status_writes(world)), await statuses(world)
        await asyncio.to_thread(leader.process.stop, signum=signal.SIGKILL)
        await wait_until(lambda: _leads(world, lambda other: other is not leader), TAKE_OVER_S, interval=0.1)
        await served(load)
        # Nothing has changed, so the new leader writes nothing.
        assert await statuses(world) == versions
        assert status_writes(world)[before:] == []
        await edited(world, TAKE_OVER_S)
        leader.process.start()
        await world.all_ready()
        await served(load)
    written = [f"{entry.resource} {entry.name}" for entry in status_writes(world)[before:]]
    assert set(written) == {"modelpools/status beta"}
    # Each write says something new: Programmed may be said to be pending first.
    assert 1 <= len(written) <= 3, written


async def _leads(world: World, condition: Callable[[Any], bool]) -> bool:
    return condition(await world.leader())


async def test_both_operators_are_killed_and_the_world_changes_meanwhile(world: World) -> None:
    async with traffic(world) as load:
        await served(load)
        for replica in world.replicas:
            await asyncio.to_thread(replica.process.stop, signum=signal.SIGKILL)
        await served(load)
        # A pod goes while nobody looks; Envoy and the processor find out by themselves.
        await world.kubelet.delete(world.namespace, "alpha-0")
        await served(load)
        for replica in world.replicas:
            replica.process.start()
        await world.all_ready()
        await edited(world, TAKE_OVER_S)
        status = (await world.get(world.path("ModelPool", "alpha")))["status"]
        assert status["endpoints"] == {"ready": 2, "total": 2}
        await served(load)


async def test_the_api_server_is_killed(world: World) -> None:
    async with traffic(world) as load:
        await served(load)
        await asyncio.to_thread(world.plane.stop_apiserver, signal.SIGKILL)
        await served(load, 100)
        assert all([await replica.ready() for replica in world.replicas])
        await asyncio.to_thread(world.plane.start_apiserver)
        await edited(world, TAKE_OVER_S)
        await served(load)


async def test_etcd_is_killed(world: World) -> None:
    async with traffic(world) as load:
        await served(load)
        await asyncio.to_thread(world.plane.stop_etcd, signal.SIGKILL)
        await served(load, 100)
        await asyncio.to_thread(world.plane.start_etcd)
        await edited(world, TAKE_OVER_S)
        await served(load)


async def test_pods_that_vanish_in_a_watch_gap_are_not_routed_to(world: World) -> None:
    """The operators lose the API server, half the pods vanish, and so do the events that would have told of it."""
    addresses = await world.pod_pool("gamma", "gamma-8b", 6, time_scale=0.02)
    # Their servers go on, so that whoever still sends to them is seen.
    vanished = addresses[::2]
    await world.apply(pool("gamma", "gamma-8b"), policy("gamma", "gamma", models=["gap"]))
    await world.apply(tier("gamma", 1, {"name": "gamma"}))
    await world.programmed("RoutingPolicy", "gamma")
    async with traffic(world, model="gap") as load:
        await served(load, 50)
        assert all([await world.served_by(ip) for ip in addresses])
        await world.line.cut()
        await world.kubelet.delete(world.namespace, [f"gamma-{number}" for number in range(0, 6, 2)])
        # A new API server knows no old events: the operators' watches end with 410 Gone.
        await asyncio.to_thread(world.plane.stop_apiserver)
        await asyncio.to_thread(world.plane.start_apiserver)
        world.line.mend()
        since = load.now
        await wait_until(lambda: _endpoints(world, "gamma", 3), 5, interval=0.05, what="3 endpoints within 5 s")
        # What was decided before may still be on its way.
        await wait_until(lambda: load.now - since > 5, 10, what="5 s")
        before = [await world.served_by(ip) for ip in vanished]
        await served(load, 100)
        assert [await world.served_by(ip) for ip in vanished] == before
    await world.delete("RoutingPolicy", "gamma")


async def _endpoints(world: World, name: str, count: int) -> bool:
    assert world.gateway is not None
    pods = await world.gateway.pods()
    return sum(pod["pool"] == f"{world.namespace}/{name}" for pod in pods) == count


async def test_no_status_was_written_twice(world: World) -> None:
    """A write that changes nothing leaves an object's version as it was."""
    written = Counter((entry.resource, entry.name, entry.version) for entry in status_writes(world))
    assert written
    assert [each for each, times in written.items() if times > 1] == []
