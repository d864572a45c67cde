"""The control plane from view to peers, with a client that refuses what it is told to."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support_ads import AdsClient, ModelClient
from support_net import wait_until

from ralb_api.objects import ModelPool, ModelTier
from ralb_operator.compile import Reason, compile_view
from ralb_operator.control import ControlPlane
from ralb_operator.view import Pod, Secret, View
from ralb_operator.xds.resources import CLUSTER, SECRET


def pool(name: str, slow_start: str = "30s") -> ModelPool:
    backend = {"pods": {"selector": {"matchLabels": {"app": name}}}}
    spec = {"model": {"name": name}, "backend": backend, "balancing": {"slowStart": slow_start}}
    return ModelPool.model_validate({"metadata": {"name": name}, "spec": spec})


def view(*pools: ModelPool) -> View:
    tier = ModelTier.model_validate(
        {"metadata": {"name": "t"}, "spec": {"level": 1, "pools": [{"name": each.metadata.name} for each in pools]}}
    )
    pods = tuple(
        Pod("default", f"{each.metadata.name}-0", {"app": each.metadata.name}, "10.0.0.1", port=8000 + index)
        for index, each in enumerate(pools)
    )
    return View(pools={each.key: each for each in pools}, tiers={tier.key: tier}, pods=pods)


def cluster(of: View, name: str) -> bytes:
    return compile_view(of).xds.get(CLUSTER)[name].body


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[tuple[ControlPlane, str]]:
    address = f"unix:{tmp_path / 'control.sock'}"
    control = ControlPlane(address)
    await control.start()
    yield control, address
    await control.stop()


async def test_a_refused_pool_is_left_out_and_the_rest_goes_on(plane: tuple[ControlPlane, str]) -> None:
    control, address = plane
    both = view(pool("good"), pool("odd"))
    model = ModelClient(bad=[cluster(both, "pool/default/odd")])
    async with AdsClient(address, model):
        await wait_until(lambda: control.ads.nodes())
        applied = await control.apply(both)
        assert [p.id for p in applied.result.snapshot.pools] == ["default/good"]
        (problem,) = (p for p in applied.result.problems if p.reason == Reason.REFUSED)
        assert str(problem.object) == "ModelPool default/odd"
        assert "cannot use pool/default/odd" in problem.message
        status = applied.result.statuses[problem.object]
        assert (status.conditions[0].status, status.conditions[0].reason) == (False, Reason.REFUSED)
        assert control.snapshots.version == applied.result.snapshot.version, "the others' config is in force"

        again = await control.apply(both)
        assert [p.id for p in again.result.snapshot.pools] == ["default/good"], "the same content is not tried again"

        mended = await control.apply(view(pool("good"), pool("odd", slow_start="10s")))
        assert [p.id for p in mended.result.snapshot.pools] == ["default/good", "default/odd"]
        assert not [p for p in mended.result.problems if p.reason == Reason.REFUSED]


@pytest.mark.parametrize("what", ["external/default/odd", "external/default/odd/key"])
async def test_what_is_refused_of_a_provider_leaves_out_its_pool(plane: tuple[ControlPlane, str], what: str) -> None:
    control, address = plane
    external = {"host": "api.example.com", "credentialsRef": {"name": "key"}}
    odd = ModelPool.model_validate(
        {"metadata": {"name": "odd"}, "spec": {"model": {"name": "odd"}, "backend": {"external": external}}}
    )
    both = replace(view(pool("good"), odd), secrets={("default", "key"): Secret("default", "key", {"apiKey": b"sk"})})
    named = [each[what] for each in compile_view(both).xds.by_type.values() if what in each]
    assert named
    model = ModelClient(bad=[resource.body for resource in named])
    model.names[SECRET] = {"external/default/odd/key"}
    async with AdsClient(address, model):
        await wait_until(lambda: control.ads.nodes())
        applied = await control.apply(both)
        assert [p.id for p in applied.result.snapshot.pools] == ["default/good"]
        assert control.snapshots.version == applied.result.snapshot.version, "the others' config is in force"


async def test_without_peers_a_view_is_in_force_at_once(plane: tuple[ControlPlane, str]) -> None:
    control, _ = plane
    applied = await control.apply(view(pool("good")))
    assert applied.report.complete
    assert control.snapshots.version == applied.result.snapshot.version


async def test_an_address_that_is_taken_is_an_error(plane: tuple[ControlPlane, str], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="does-not-exist"):
        await ControlPlane(f"unix:{tmp_path / 'does-not-exist' / 'x.sock'}").start()
