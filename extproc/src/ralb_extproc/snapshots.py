"""Following the operator's snapshots: one stream, reopened for ever, the last good snapshot kept meanwhile."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable

import grpc
from grpc import aio

from ralb.v1 import snapshot_pb2 as pb
from ralb.v1 import snapshot_pb2_grpc as rpc

_LOG = logging.getLogger(__name__)
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0
_MAX_BYTES = 64 * 1024 * 1024


class SnapshotFollower:
    """Applies every snapshot the operator sends.

    Args:
        target: gRPC address of the operator, ``unix:/path`` or ``host:port``.
        node_id: unique per process.
        apply: takes a snapshot; raises ValueError when it cannot be used, which is reported back.
    """

    def __init__(self, target: str, node_id: str, apply: Callable[[pb.Snapshot], None]) -> None:
        self._target = target
        self._node = node_id
        self._apply = apply
        self.version = ""
        self.error = ""
        self.connected = False

    async def run(self) -> None:
        """Follow until cancelled. Lost streams are reopened with jittered, growing waits."""
        wait = _FIRST_WAIT
        options = [("grpc.max_receive_message_length", _MAX_BYTES), ("grpc.keepalive_time_ms", 20_000)]
        async with aio.insecure_channel(self._target, options=options) as channel:
            stub = rpc.SnapshotServiceStub(channel)
            while True:
                try:
                    await self._follow(stub)
                    wait = _FIRST_WAIT
                except aio.AioRpcError as error:
                    if self.connected or error.code() is not grpc.StatusCode.UNAVAILABLE:
                        _LOG.warning("snapshot stream lost: %s", error.details())
                    wait = _FIRST_WAIT if self.connected else min(wait * 2, _LONGEST_WAIT)
                finally:
                    self.connected = False
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))

    async def _follow(self, stub: rpc.SnapshotServiceStub) -> None:
        acks: asyncio.Queue[pb.WatchRequest] = asyncio.Queue()
        acks.put_nowait(pb.WatchRequest(node_id=self._node, version=self.version))

        async def requests() -> AsyncIterator[pb.WatchRequest]:
            while True:
                yield await acks.get()

        async for snapshot in stub.Watch(requests()):
            self.connected = True
            try:
                self._apply(snapshot)
                self.version, self.error = snapshot.version, ""
            except ValueError as error:
                self.error = str(error)
                _LOG.error("snapshot %s refused, %s stays in use: %s", snapshot.version, self.version or "none", error)
            acks.put_nowait(pb.WatchRequest(node_id=self._node, version=self.version, error=self.error))
