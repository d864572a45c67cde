"""A processor's side of the snapshot stream."""

import asyncio
from typing import Any

import grpc

from ralb.v1 import snapshot_pb2, snapshot_pb2_grpc


def snapshot(version: str, *pools: str) -> snapshot_pb2.Snapshot:
    return snapshot_pb2.Snapshot(version=version, pools=[snapshot_pb2.Pool(id=pool, cluster=pool) for pool in pools])


def trouble(
    pool: str, pods: int, of: int, *examples: str, series: str = "", error: str = ""
) -> snapshot_pb2.PoolMetrics:
    """One thing amiss with a pool's pods, as a processor tells it."""
    amiss = snapshot_pb2.MetricsTrouble(series=series, error=error, pods=pods, examples=examples)
    return snapshot_pb2.PoolMetrics(pool=pool, pods=of, troubles=[amiss])


class SnapshotClient:
    """Watches and answers.

    Attributes:
        received: versions in the order they came.
        bad: version -> error it answers with.
        silent: versions it does not take, without saying why.
        hold: while set, snapshots are read but not answered.
        log: shared list that gets ``(node, "snapshot", version)``.
    """

    def __init__(
        self, address: str, node: str = "processor-1", log: list[Any] | None = None, version: str = ""
    ) -> None:
        self.node = node
        self.version = version
        self.received: list[str] = []
        self.bad: dict[str, str] = {}
        self.silent: set[str] = set()
        self.hold = False
        self.log = log if log is not None else []
        self._unanswered = ""
        self._channel = grpc.aio.insecure_channel(
            address, options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)]
        )
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "SnapshotClient":
        self._call = snapshot_pb2_grpc.SnapshotServiceStub(self._channel).Watch()
        await self._call.write(snapshot_pb2.WatchRequest(node_id=self.node, version=self.version))
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    @property
    def ended(self) -> bool:
        return self._task is not None and self._task.done()

    async def tell(self, *pools: snapshot_pb2.PoolMetrics) -> None:
        """Report what cannot be read of pods' metrics."""
        report = snapshot_pb2.MetricsReport(pools=pools)
        await self._call.write(snapshot_pb2.WatchRequest(node_id=self.node, version=self.version, metrics=report))

    async def code(self) -> grpc.StatusCode:
        return await self._call.code()

    async def release(self) -> None:
        self.hold = False
        if self._unanswered:
            await self._answer(self._unanswered)

    async def _run(self) -> None:
        async for message in self._call:
            self.received.append(message.version)
            self.log.append((self.node, "snapshot", message.version))
            if self.hold:
                self._unanswered = message.version
            else:
                await self._answer(message.version)

    async def _answer(self, version: str) -> None:
        error = self.bad.get(version, "")
        if not error and version not in self.silent:
            self.version = version
        await self._call.write(snapshot_pb2.WatchRequest(node_id=self.node, version=self.version, error=error))
