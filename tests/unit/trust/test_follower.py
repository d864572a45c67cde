"""The processor's end of the snapshot stream, against the operator's server."""

import asyncio
import contextlib
from pathlib import Path

from support_net import wait_until

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.snapshots import SnapshotFollower
from ralb_operator.serving import serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.server import AdsServer


async def test_a_snapshot_that_trips_the_processor_is_refused_and_the_next_one_used(tmp_path: Path) -> None:
    used: list[str] = []

    def apply(snapshot: pb.Snapshot) -> None:
        if snapshot.version == "2":
            raise KeyError("secret text")
        used.append(snapshot.version)

    snapshots = SnapshotServer()
    serving = await serve(f"unix:{tmp_path}/grpc.sock", AdsServer(), snapshots)
    follower = SnapshotFollower(serving.address, "one", apply)
    task = asyncio.create_task(follower.run())
    try:
        for version in ("1", "2", "3"):
            snapshots.set(pb.Snapshot(version=version))
            await wait_until(lambda now=version: [n for n in snapshots.processors() if now in (n.version, n.refused)])
            if version == "2":
                (node,) = snapshots.processors()
                assert (node.version, node.refused, node.error) == ("1", "2", "unexpected KeyError")
        assert used == ["1", "3"]
        assert (follower.version, follower.error) == ("3", "")
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await serving.stop(0.1)


async def test_what_cannot_be_read_of_pods_is_told_once_and_again_after_a_new_start_of_the_operator(
    tmp_path: Path,
) -> None:
    address = f"unix:{tmp_path}/grpc.sock"
    report = pb.MetricsReport(pools=[pb.PoolMetrics(pool="ns/p", pods=3)])
    report.pools[0].troubles.add(series="vllm:num_requests_waiting", pods=1, examples=["a"])

    def told(snapshots: SnapshotServer) -> list[str] | None:
        nodes = snapshots.processors()
        return [trouble.pool for trouble in nodes[0].troubles] if nodes and nodes[0].troubles is not None else None

    snapshots = SnapshotServer()
    serving = await serve(address, AdsServer(), snapshots)
    follower = SnapshotFollower(address, "one", lambda _: None)
    task = asyncio.create_task(follower.run())
    try:
        await wait_until(lambda: snapshots.processors(), what="it is connected, and has no snapshot yet")
        assert told(snapshots) is None
        follower.report(report)
        await wait_until(lambda: told(snapshots) == ["ns/p"])
        seen = snapshots.progress.count
        follower.report(pb.MetricsReport.FromString(report.SerializeToString()))
        snapshots.set(pb.Snapshot(version="1"))
        await wait_until(lambda: snapshots.processors()[0].version == "1")
        assert snapshots.progress.count == seen + 2, (
            "the new snapshot and its answer; the same report is not sent again"
        )

        await serving.stop(0.1)
        snapshots = SnapshotServer()
        serving = await serve(address, AdsServer(), snapshots)
        await wait_until(lambda: told(snapshots) == ["ns/p"])
        follower.report(pb.MetricsReport())
        await wait_until(lambda: told(snapshots) == [])
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await serving.stop(0.1)
