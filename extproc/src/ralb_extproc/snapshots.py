"""Following the operator's snapshots: one stream, reopened for ever, the last good snapshot kept meanwhile.

New TLS material means a new connection with it. Nothing is lost by that: what is held stays in use until the next comes.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
from grpc import aio

from ralb.v1 import snapshot_pb2 as pb
from ralb.v1 import snapshot_pb2_grpc as rpc
from ralb_api.tls import Keeper, Material

_LOG = logging.getLogger(__name__)
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0
_MAX_BYTES = 64 * 1024 * 1024
# Not the first tries: operators are restarted, and processors may come up before them.
_TELL_AFTER = 4


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The processor's end of mutual TLS.

    Attributes:
        keeper: its material; the authorities in it vouch for the operator.
        server_name: DNS name that the operator's certificate must hold; "" = the host that is called.
    """

    keeper: Keeper
    server_name: str = ""


class SnapshotFollower:
    """Applies every snapshot the operator sends.

    Args:
        target: gRPC address of the operator, ``unix:/path`` or ``host:port``.
        node_id: unique per process.
        apply: takes a snapshot; raises ValueError when it cannot be used, which is reported back.
        tls: speak TLS; None = in clear.

    Attributes:
        version: of the snapshot in use; "" before the first.
        error: why the newest was refused; "" if it was not.
        connected: a snapshot came on the open stream.
        trouble: why there is no stream, in gRPC's words; "" while there is one.
    """

    def __init__(
        self, target: str, node_id: str, apply: Callable[[pb.Snapshot], None], tls: ClientTls | None = None
    ) -> None:
        self._target = target
        self._node = node_id
        self._apply = apply
        self._tls = tls
        self.version = ""
        self.error = ""
        self.connected = False
        self.trouble = ""
        self._requests: asyncio.Queue[pb.WatchRequest] | None = None
        self._metrics: pb.MetricsReport | None = None

    def report(self, metrics: pb.MetricsReport) -> None:
        """Tell the operator what cannot be read of pods' metrics, if that is news; later, while there is no stream.

        Call it every few seconds at most, on the event loop.
        """
        if metrics != self._metrics:
            self._metrics = metrics
            if self._requests is not None:
                self._requests.put_nowait(pb.WatchRequest(node_id=self._node, version=self.version, metrics=metrics))

    async def run(self) -> None:
        """Follow until cancelled. Lost streams are reopened with jittered, growing waits."""
        wait = _FIRST_WAIT
        failures = 0
        while True:
            material = await self._material()
            try:
                async with self._channel(material) as channel:
                    await self._follow_with(channel, material)
                wait, failures = _FIRST_WAIT, 0
            except aio.AioRpcError as error:
                failures = 1 if self.connected else failures + 1
                self.trouble = error.details() or error.code().name
                if self.connected or error.code() is not grpc.StatusCode.UNAVAILABLE:
                    _LOG.warning("snapshot stream lost: %s", self.trouble)
                elif failures == _TELL_AFTER:
                    _LOG.warning("no way to the operator at %s: %s", self._target, self.trouble)
                wait = _FIRST_WAIT if self.connected else min(wait * 2, _LONGEST_WAIT)
            finally:
                self.connected = False
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))

    async def _material(self) -> Material | None:
        if self._tls is None:
            return None
        keeper = self._tls.keeper
        if keeper.current is None:
            self.trouble = f"no TLS material: {keeper.problem}" if keeper.problem else "no TLS material yet"
        return await keeper.wait()

    def _channel(self, material: Material | None) -> aio.Channel:
        options: list[tuple[str, str | int]] = [
            ("grpc.max_receive_message_length", _MAX_BYTES),
            ("grpc.keepalive_time_ms", 20_000),
        ]
        if self._tls is None or material is None:
            return aio.insecure_channel(self._target, options=options)
        if self._tls.server_name:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.cert)
        return aio.secure_channel(self._target, credentials, options=options)

    async def _follow_with(self, channel: aio.Channel, material: Material | None) -> None:
        """Follow until the stream ends or there is newer material."""
        following = asyncio.create_task(self._follow(rpc.SnapshotServiceStub(channel)))
        tasks: list[asyncio.Task[object]] = [following]
        if self._tls is not None and material is not None:
            tasks.append(asyncio.create_task(self._tls.keeper.wait(material.version)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            self._requests = None
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError, aio.AioRpcError):
                    await task

    async def _follow(self, stub: rpc.SnapshotServiceStub) -> None:
        acks: asyncio.Queue[pb.WatchRequest] = asyncio.Queue()
        acks.put_nowait(pb.WatchRequest(node_id=self._node, version=self.version, metrics=self._metrics))
        self._requests = acks

        async def requests() -> AsyncIterator[pb.WatchRequest]:
            while True:
                yield await acks.get()

        async for snapshot in stub.Watch(requests()):
            self.connected = True
            self.trouble = ""
            try:
                self._apply(snapshot)
                self.version, self.error = snapshot.version, ""
            except ValueError as error:
                self.error = str(error)
                _LOG.error("snapshot %s refused, %s stays in use: %s", snapshot.version, self.version or "none", error)
            except Exception as error:
                # A defect of ours. It costs this snapshot, never the following of later ones.
                self.error = f"unexpected {type(error).__name__}"
                _LOG.exception("snapshot %s refused, %s stays in use", snapshot.version, self.version or "none")
            acks.put_nowait(pb.WatchRequest(node_id=self._node, version=self.version, error=self.error))
