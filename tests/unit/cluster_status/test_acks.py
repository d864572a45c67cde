"""The own report: what connected gateways answered, also after a publication returned."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from google.rpc.status_pb2 import Status
from support_ads import AdsClient, ModelClient
from support_net import wait_until
from support_snapshots import SnapshotClient

from ralb_api.objects import ModelPool
from ralb_operator.cluster.acks import Acks
from ralb_operator.compile import compile_view
from ralb_operator.control import ControlPlane
from ralb_operator.publish import Outcome
from ralb_operator.view import Gateway, View
from ralb_operator.xds.delta import DeltaStream
from ralb_operator.xds.resources import CLUSTER, LISTENER, SECRET, Resource
from ralb_operator.xds.subscription import WITHHELD, Published


def view(*names: str, port: int = 8080) -> View:
    pools = []
    for name in names:
        spec = {"model": {"name": name}, "backend": {"service": {"host": f"{name}.example.com", "port": 80}}}
        pools.append(ModelPool.model_validate({"metadata": {"name": name}, "spec": spec}))
    return View(pools={pool.key: pool for pool in pools}, gateway=Gateway(port=port))


class Plane:
    def __init__(self, address: str) -> None:
        self.address = address
        self.control = ControlPlane(address)
        self.again = 0
        self.acks = Acks(self.control, "me", self._again)

    def _again(self) -> None:
        self.again += 1

    async def apply(self, of: View, edition: str) -> Outcome:
        applied = await self.control.apply(of)
        self.acks.applied(applied, edition)
        return applied.report.outcome


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    made = Plane(f"unix:{tmp_path / 'control.sock'}")
    await made.control.start()
    follow = asyncio.create_task(made.acks.follow(lambda: None))
    yield made
    follow.cancel()
    await asyncio.gather(follow, return_exceptions=True)
    await made.control.stop()


async def test_with_nobody_connected_nothing_is_settled(plane: Plane) -> None:
    await plane.apply(view("a"), "e1")
    report = plane.acks.report()
    assert (report.edition, report.settled, report.envoys, report.processors) == ("e1", "", 0, 0)


async def test_settled_when_all_have_answered(plane: Plane) -> None:
    async with AdsClient(plane.address, ModelClient("gw")), SnapshotClient(plane.address, "gw-processor"):
        await wait_until(lambda: plane.control.ads.peers() and plane.control.snapshots.processors())
        await plane.apply(view("a"), "e1")
        await wait_until(lambda: plane.acks.report().settled == "e1")
        report = plane.acks.report()
        assert (report.envoys, report.processors, report.late) == (1, 1, ())


async def test_an_envoy_that_answers_late_settles_it_late(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane.control.publisher, "_ack_timeout", 0.2)
    async with AdsClient(plane.address, ModelClient("slow")) as envoy:
        await plane.apply(view("a"), "e1")
        await wait_until(lambda: plane.acks.report().settled == "e1")
        envoy.hold = True
        await plane.apply(view("a", "b"), "e2")
        report = plane.acks.report()
        assert (report.edition, report.settled, report.late, report.late_count) == ("e2", "e1", ("slow",), 1)
        await envoy.release()
        await wait_until(lambda: plane.acks.report().settled == "e2")


async def test_an_envoy_that_just_came_has_nothing_yet(plane: Plane) -> None:
    await plane.apply(view("a"), "e1")
    model = ModelClient("new")
    client = AdsClient(plane.address, model)
    client.hold = True
    async with client:
        await wait_until(lambda: plane.control.ads.peers())
        assert plane.control.ads.late((CLUSTER, LISTENER)) in ((), ("new",))
        assert plane.acks.report().settled == ""
        await client.release()
        await wait_until(lambda: plane.acks.report().settled == "e1")


async def test_a_refusal_that_comes_late_asks_for_another_publication(plane: Plane) -> None:
    bad = compile_view(view("good", "bad")).xds.get(CLUSTER)["pool/default/bad"].body
    await plane.apply(view("good", "bad"), "e1")
    async with AdsClient(plane.address, ModelClient("gw", bad=[bad])):
        await wait_until(lambda: plane.again)
        ((name, words),) = plane.acks.report().refused
        assert name == "ModelPool default/bad"
        assert "cannot use" in words
        await plane.apply(view("good", "bad"), "e1")
        await wait_until(lambda: plane.acks.report().settled == "e1")
        ((name, words),) = plane.acks.report().refused
        assert (name, "cannot use" in words) == ("ModelPool default/bad", True), "left out, and still told"
        await plane.apply(view("good"), "e2")
        assert plane.acks.report().refused == ()


async def test_a_refused_listener_holds_the_edition_back(plane: Plane) -> None:
    bad = next(iter(compile_view(view("a", port=9999)).xds.get(LISTENER).values())).body
    async with AdsClient(plane.address, ModelClient("gw", bad=[bad])), SnapshotClient(plane.address, "p"):
        await plane.apply(view("a"), "e1")
        await wait_until(lambda: plane.acks.report().settled == "e1")
        assert await plane.apply(view("a", port=9999), "e2") is Outcome.HELD
        report = plane.acks.report()
        assert (report.edition, report.settled) == ("e2", "e1")
        assert "cannot use" in report.shared
        assert report.held.startswith("gateways refuse Listener")


async def test_a_processor_that_refuses(plane: Plane) -> None:
    version = compile_view(view("a")).snapshot.version
    processor = SnapshotClient(plane.address, "p")
    processor.bad[version] = "no memory\nleft"
    async with AdsClient(plane.address, ModelClient("gw")), processor:
        await plane.apply(view("a"), "e1")
        await wait_until(lambda: plane.acks.report().snapshot_refused)
        assert plane.acks.report().snapshot_refused == "no memory?left"


def test_envoys_words_about_a_secret_are_kept_from_everybody() -> None:
    secret = Resource.of(SECRET, "provider/ns/p/key", b"xyz")
    stream = DeltaStream({SECRET: Published({secret.name: secret})})
    first = DeltaDiscoveryRequest(type_url=SECRET, resource_names_subscribe=[secret.name])
    first.node.id = "gw"
    stream.receive(first, 0.0)
    response = stream.next_response()
    assert response is not None
    error = Status(code=3, message="cannot use sk-very-secret")
    (nack,) = stream.receive(
        DeltaDiscoveryRequest(type_url=SECRET, response_nonce=response.nonce, error_detail=error), 0.0
    )
    assert nack.message == WITHHELD
    assert "sk-very-secret" not in repr(stream.nacks())
