import asyncio

import grpc
import pytest
from support_net import wait_until
from support_snapshots import SnapshotClient, snapshot, trouble

from ralb_operator.snapshots import MAX_SNAPSHOT_BYTES, SnapshotServer


async def test_newest_is_sent_on_opening_and_after_each_change(plane):
    plane.snapshots.set(snapshot("v1"))
    async with SnapshotClient(plane.address, version="v1") as client:
        await wait_until(lambda: client.received == ["v1"])
        assert await plane.snapshots.wait_acked("v1", 5) == ()
        plane.snapshots.set(snapshot("v2"))
        assert await plane.snapshots.wait_acked("v2", 5) == ()
        assert client.received == ["v1", "v2"]
        (status,) = plane.snapshots.processors()
        assert (status.node, status.version, status.refused, status.error) == ("processor-1", "v2", "", "")
        assert status.settled
        assert plane.snapshots.sent == 2
    await wait_until(lambda: not plane.snapshots.processors())


async def test_nothing_is_sent_before_the_first(plane):
    async with SnapshotClient(plane.address) as client:
        await wait_until(lambda: plane.snapshots.processors())
        assert client.received == []
        plane.snapshots.set(snapshot("v1"))
        await wait_until(lambda: client.received == ["v1"])


async def test_the_same_version_is_sent_once(plane):
    plane.snapshots.set(snapshot("v1"))
    async with SnapshotClient(plane.address) as client:
        await wait_until(lambda: client.received)
        await plane.snapshots.wait_acked("v1", 5)
        plane.snapshots.set(snapshot("v1"))
        plane.snapshots.set(snapshot("v2"))
        await wait_until(lambda: client.received == ["v1", "v2"])


async def test_a_slow_processor_gets_only_the_newest_and_holds_nobody_up(plane):
    async with SnapshotClient(plane.address, "slow") as slow, SnapshotClient(plane.address, "quick") as quick:
        slow.hold = True
        plane.snapshots.set(snapshot("v1"))
        await wait_until(lambda: slow.received == quick.received == ["v1"])
        for version in ("v2", "v3", "v4"):
            plane.snapshots.set(snapshot(version))
            await wait_until(lambda version=version: quick.received[-1] == version)
        assert await plane.snapshots.wait_acked("v4", 0.05) == ("slow",)
        assert await plane.snapshots.wait_acked("v4", 5, ignore={"slow"}) == ("slow",)
        await slow.release()
        assert await plane.snapshots.wait_acked("v4", 5) == ()
        assert slow.received == ["v1", "v4"]
        assert quick.received == ["v1", "v2", "v3", "v4"]


async def test_a_refusal_is_kept_and_the_version_not_sent_again(plane, caplog):
    async with SnapshotClient(plane.address) as client:
        client.bad["v2"] = "unknown strategy"
        await wait_until(plane.snapshots.processors)
        plane.snapshots.set(snapshot("v1"))
        await plane.snapshots.wait_acked("v1", 5)
        plane.snapshots.set(snapshot("v2"))
        assert await plane.snapshots.wait_acked("v2", 5) == ()
        (status,) = plane.snapshots.processors()
        assert (status.version, status.refused, status.error) == ("v1", "v2", "unknown strategy")
        assert plane.snapshots.refusals == 1
        plane.snapshots.set(snapshot("v3"))
        await plane.snapshots.wait_acked("v3", 5)
        assert client.received == ["v1", "v2", "v3"]
        assert plane.snapshots.processors()[0].refused == ""
    assert "unknown strategy" in caplog.text


async def test_an_answer_with_another_version_is_a_refusal(plane):
    async with SnapshotClient(plane.address, version="old") as client:
        client.silent.add("v1")
        await wait_until(plane.snapshots.processors)
        plane.snapshots.set(snapshot("v1"))
        assert await plane.snapshots.wait_acked("v1", 5) == ()
        (status,) = plane.snapshots.processors()
        assert (status.version, status.refused) == ("old", "v1")
        assert "'old'" in status.error


async def test_waiting_for_a_version_ends_when_another_is_set(plane):
    plane.snapshots.set(snapshot("v1"))
    async with SnapshotClient(plane.address) as client:
        client.hold = True
        await wait_until(lambda: client.received)
        waiting = asyncio.create_task(plane.snapshots.wait_acked("v1", 30))
        assert await plane.snapshots.wait_acked("v1", 0.05) == ("processor-1",)
        plane.snapshots.set(snapshot("v2"))
        assert await asyncio.wait_for(waiting, 5) == ()


async def test_large_snapshots_arrive_and_too_large_ones_are_refused_here(plane):
    large = snapshot("large")
    large.pools.add(id="p", cluster="x" * (20 * 1024 * 1024))
    plane.snapshots.set(large)
    async with SnapshotClient(plane.address) as client:
        await wait_until(lambda: client.received == ["large"], 30)
        assert await plane.snapshots.wait_acked("large", 5) == ()
    larger = snapshot("larger")
    larger.pools.add(id="p", cluster="x" * MAX_SNAPSHOT_BYTES)
    with pytest.raises(ValueError, match="at most"):
        plane.snapshots.set(larger)
    assert plane.snapshots.version == "large"
    with pytest.raises(ValueError, match="without a version"):
        SnapshotServer().set(snapshot(""))


@pytest.mark.parametrize("node", ["", "n" * 5000])
async def test_a_processor_must_say_who_it_is(plane, node):
    async with SnapshotClient(plane.address, node) as client:
        await wait_until(lambda: client.ended)
        assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert plane.snapshots.processors() == ()


async def test_closing_ends_streams_and_refuses_new_ones(plane):
    async with SnapshotClient(plane.address) as client:
        await wait_until(lambda: plane.snapshots.processors())
        plane.snapshots.close()
        await wait_until(lambda: client.ended)
    async with SnapshotClient(plane.address) as late:
        await wait_until(lambda: late.ended)
        assert await late.code() is grpc.StatusCode.UNAVAILABLE


async def test_what_a_processor_cannot_read_is_no_answer_to_a_snapshot(plane):
    plane.snapshots.set(snapshot("v1"))
    async with SnapshotClient(plane.address) as client:
        await wait_until(lambda: client.version == "v1" and plane.snapshots.processors()[0].settled)
        assert plane.snapshots.processors()[0].troubles is None
        client.hold = True
        plane.snapshots.set(snapshot("v2"))
        await wait_until(lambda: client.received[-1] == "v2")
        await client.tell(trouble("ns/p", 2, 3, "a", "b", series="vllm:num_requests_waiting"))
        await wait_until(lambda: plane.snapshots.processors()[0].troubles)
        (found,) = plane.snapshots.processors()[0].troubles
        assert (found.pool, found.series, found.pods, found.of) == ("ns/p", "vllm:num_requests_waiting", 2, 3)
        assert plane.snapshots.late("v2") == ("processor-1",)
        assert plane.snapshots.refusals == 0
        await client.release()
        assert await plane.snapshots.wait_acked("v2", 5) == ()
        await client.tell()
        await wait_until(lambda: plane.snapshots.processors()[0].troubles == ())
