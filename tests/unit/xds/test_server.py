import asyncio
import contextlib

import grpc
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from support_ads import AdsClient, ModelClient, named, request
from support_net import wait_until

from ralb_operator.serving import serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ORDER, ROUTES
from ralb_operator.xds.server import AdsServer
from ralb_operator.xds.subscription import Limits


def publish(ads, version="1", names=("a", "b")):
    for type_url in ORDER:
        ads.set(type_url, named(type_url, {name: version for name in names}))


@pytest.fixture
async def start(tmp_path):
    """``await start(ads) -> address``; everything is stopped at the end."""
    running = []

    async def start(ads, name="xds.sock"):
        serving = await serve(f"unix:{tmp_path}/{name}", ads, SnapshotServer())
        running.append(serving)
        return serving.address

    yield start
    for serving in running:
        await serving.stop(0.2)


async def test_a_client_gets_everything_in_order(start):
    ads = AdsServer()
    publish(ads)
    async with AdsClient(await start(ads), ModelClient()) as client:
        await wait_until(lambda: len(client.model.held.get(ROUTES, {})) == 2)
        assert await ads.wait_acked(ORDER, 5) == ()
        assert [got[0] for got in client.model.received] == [CLUSTER, ENDPOINTS, LISTENER, ROUTES]
        (node,) = ads.nodes()
        assert node.node == "envoy-1"
        assert node.types[CLUSTER].acked == {n: r.version for n, r in ads.get(CLUSTER).items()}
        assert node.types[CLUSTER].settled
        assert ads.responses == 4
    await wait_until(lambda: not ads.nodes())


async def test_a_change_goes_to_everybody_and_only_the_change(start):
    ads = AdsServer()
    publish(ads)
    address = await start(ads)
    async with AdsClient(address, ModelClient("one")) as one, AdsClient(address, ModelClient("two")) as two:
        for client in (one, two):
            await wait_until(lambda client=client: ROUTES in client.model.held)
        await ads.wait_acked(ORDER, 5)
        before = [len(client.model.received) for client in (one, two)]
        ads.set(ENDPOINTS, named(ENDPOINTS, {"a": "1", "b": "2"}))
        assert await ads.wait_acked((ENDPOINTS,), 5) == ()
        for client, count in zip((one, two), before, strict=True):
            assert client.model.received[count:] == [(ENDPOINTS, ["b"], [])]


async def test_the_same_again_is_not_sent(start):
    ads = AdsServer()
    publish(ads)
    async with AdsClient(await start(ads), ModelClient()) as client:
        await wait_until(lambda: ROUTES in client.model.held)
        await ads.wait_acked(ORDER, 5)
        sent = ads.responses
        publish(ads)
        ads.set(CLUSTER, named(CLUSTER, {"a": "1", "b": "1", "c": "1"}))
        await ads.wait_acked(ORDER, 5)
        assert client.model.received[sent][:2] == (CLUSTER, ["c"])


async def test_a_client_that_does_not_answer_is_named_and_holds_nobody_up(start):
    ads = AdsServer()
    publish(ads)
    address = await start(ads)
    async with AdsClient(address, ModelClient("slow")) as slow, AdsClient(address, ModelClient("quick")) as quick:
        for client in (slow, quick):
            await wait_until(lambda client=client: ROUTES in client.model.held)
        await ads.wait_acked(ORDER, 5)
        slow.hold = True
        count = len(slow.model.received)
        for version in "23456":
            ads.set(CLUSTER, named(CLUSTER, {"a": version}))
            await wait_until(lambda version=version: quick.model.held[CLUSTER] == {"a": version.encode()})
        assert await ads.wait_acked(ORDER, 0.05) == ("slow",)
        assert await ads.wait_acked(ORDER, 5, ignore={"slow"}) == ("slow",)
        await slow.release()
        assert await ads.wait_acked(ORDER, 5) == ()
        assert slow.model.held[CLUSTER] == {"a": b"6"}
        # 2 was in flight, 3 to 5 were skipped, and the removal of b came last.
        clusters = [got for got in slow.model.received[count:] if got[0] == CLUSTER]
        assert clusters == [(CLUSTER, ["a"], []), (CLUSTER, ["a"], []), (CLUSTER, [], ["b"])]


async def test_wait_ends_when_the_late_one_leaves(start):
    ads = AdsServer()
    address = await start(ads)
    async with AdsClient(address, ModelClient()) as client:
        client.hold = True
        await wait_until(lambda: ads.nodes())
        publish(ads)
        waiting = asyncio.create_task(ads.wait_acked(ORDER, 30))
        assert await ads.wait_acked(ORDER, 0.05) == ("envoy-1",)
        assert not waiting.done()
    assert await asyncio.wait_for(waiting, 5) == ()


async def test_refusals_are_called_back_and_kept(start, caplog):
    told = []
    ads = AdsServer(on_nack=told.append, clock=lambda: 77.0)
    ads.set(CLUSTER, named(CLUSTER, {"good": "1", "evil": "bad", "fine": "1"}))
    async with AdsClient(await start(ads), ModelClient(bad=[b"bad"])) as client:
        await wait_until(lambda: told)
        await ads.wait_acked(ORDER, 5)
        (nack,) = ads.nacks()
        assert told == [nack]
        assert (nack.node, nack.type_url, nack.name, nack.at) == ("envoy-1", CLUSTER, "evil", 77.0)
        assert nack.message == "cannot use evil"
        assert client.model.held[CLUSTER] == {"good": b"1", "fine": b"1"}
        assert ads.nodes()[0].types[CLUSTER].nacks == (nack,)
        assert set(ads.nodes()[0].types[CLUSTER].acked) == {"good", "fine"}
        assert ads.refusals == 1
    await wait_until(lambda: not ads.nacks())
    assert "cannot use evil" in caplog.text


async def test_a_failing_callback_does_not_end_the_stream(start, caplog):
    def fail(nack):
        raise RuntimeError("oops")

    ads = AdsServer(on_nack=fail)
    ads.set(CLUSTER, named(CLUSTER, {"evil": "bad"}))
    async with AdsClient(await start(ads), ModelClient(bad=[b"bad"])) as client:
        await wait_until(lambda: ads.nacks())
        ads.set(CLUSTER, named(CLUSTER, {"evil": "1"}))
        await wait_until(lambda: client.model.held[CLUSTER] == {"evil": b"1"})
    assert "oops" in caplog.text


async def test_a_restarted_server_sends_only_what_differs(start):
    model = ModelClient()
    ads = AdsServer()
    publish(ads)
    async with AdsClient(await start(ads, "one.sock"), model):
        await wait_until(lambda: len(model.held.get(ROUTES, {})) == 2)
        await ads.wait_acked(ORDER, 5)
    count = len(model.received)
    ads = AdsServer()
    publish(ads)
    ads.set(ENDPOINTS, named(ENDPOINTS, {"a": "2", "b": "1"}))
    async with AdsClient(await start(ads, "two.sock"), model):
        await wait_until(lambda: model.held[ENDPOINTS]["a"] == b"2")
        assert await ads.wait_acked(ORDER, 5) == ()
        assert model.received[count:] == [(ENDPOINTS, ["a"], [])]


async def call(address, *requests, method="DeltaAggregatedResources"):
    """Status code and details a stream with these requests ends with."""
    async with grpc.aio.insecure_channel(address) as channel:
        stream = getattr(ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel), method)()
        with contextlib.suppress(grpc.aio.AioRpcError):  # it may be over before all is written
            for each in requests:
                await stream.write(each)
        code = await asyncio.wait_for(stream.code(), 5)
        return code, await stream.details()


async def test_state_of_the_world_is_refused_with_advice(start):
    code, details = await call(
        await start(AdsServer()), discovery_pb2.DiscoveryRequest(type_url=CLUSTER), method="StreamAggregatedResources"
    )
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "DELTA_GRPC" in details


async def test_bad_requests_end_the_stream_with_the_reason(start):
    ads = AdsServer(limits=Limits(names=2))
    address = await start(ads)
    code, details = await call(address, request(CLUSTER, node=""))
    assert (code, "node.id" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    code, details = await call(address, request(ENDPOINTS, ["a", "b"]), request(ENDPOINTS, ["c"]))
    assert (code, "more than 2 names" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert ads.nodes() == ()


async def test_streams_are_bounded(start):
    ads = AdsServer(max_streams=1)
    address = await start(ads)
    async with AdsClient(address, ModelClient()):
        await wait_until(lambda: ads.nodes())
        code, _ = await call(address, request(CLUSTER))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_closing_ends_streams_and_refuses_new_ones(start):
    ads = AdsServer()
    address = await start(ads)
    async with AdsClient(address, ModelClient()) as client:
        await wait_until(lambda: ads.nodes())
        ads.close()
        await wait_until(lambda: client.ended)
        assert ads.nodes() == ()
        code, _ = await call(address, request(CLUSTER))
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_thousand_resources_reach_a_client_in_bounded_responses(start):
    ads = AdsServer(limits=Limits(response_resources=100))
    ads.set(LISTENER, {})
    ads.set(CLUSTER, named(CLUSTER, {f"c{i}": "x" * 1000 for i in range(1050)}))
    async with AdsClient(await start(ads), ModelClient(follow=False)) as client:
        await wait_until(lambda: len(client.model.held.get(CLUSTER, {})) == 1050)
        assert [len(got[1]) for got in client.model.received if got[0] == CLUSTER] == [100] * 10 + [50]


async def test_addresses_that_cannot_be_used_are_explained(tmp_path):
    with pytest.raises(OSError, match="longer than 107 bytes"):
        await serve(f"unix:{tmp_path}/{'x' * 120}", AdsServer(), SnapshotServer())
    with pytest.raises(OSError, match="there is no folder"):
        await serve(f"unix:{tmp_path}/no/xds.sock", AdsServer(), SnapshotServer())
    serving = await serve("127.0.0.1:0", AdsServer(), SnapshotServer())
    try:
        assert not serving.address.endswith(":0")
        with pytest.raises(OSError, match="cannot listen on"):
            await serve(serving.address, AdsServer(), SnapshotServer())
    finally:
        await serving.stop(0)
