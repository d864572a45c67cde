"""Snapshots to the processors: the newest whole one on opening and after each change.

Building snapshots may not enter. One snapshot per processor is unanswered at a time, so a slow one skips versions and gets the
newest. A refused version is not sent again on the same stream; the processor keeps the one it has.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Container
from dataclasses import dataclass
from typing import Any, Final

import grpc

from ralb.v1 import snapshot_pb2, snapshot_pb2_grpc
from ralb_operator.progress import Progress
from ralb_operator.troubles import Trouble, told

_log = logging.getLogger(__name__)

# Both ends must allow it (`grpc.max_receive_message_length` of the processor's channel).
MAX_SNAPSHOT_BYTES: Final = 64 * 1024 * 1024
_MAX_TEXT: Final = 4096


@dataclass(frozen=True, slots=True)
class ProcessorStatus:
    """One connected processor.

    Attributes:
        node: its node id.
        since: unix seconds.
        version: snapshot it says it uses; empty before its first.
        refused: newest version it refused, empty if it took the last one.
        error: why it refused, in its own words.
        settled: it has answered the newest snapshot.
        troubles: what it cannot read of pods' metrics; None while it has not told.
    """

    node: str
    since: float
    version: str
    refused: str
    error: str
    settled: bool
    troubles: tuple[Trouble, ...] | None = None


class _Session:
    """One open stream. ``unanswered`` and ``done`` are versions: sent last and answered last."""

    def __init__(self, node: str, version: str, since: float) -> None:
        self.node = node
        self.since = since
        self.version = version
        self.unanswered = ""
        self.done = ""
        self.refused = ""
        self.error = ""
        self.troubles: tuple[Trouble, ...] | None = None
        self.wake = asyncio.Event()
        self.closing = False


class SnapshotServer(snapshot_pb2_grpc.SnapshotServiceServicer):
    """``ralb.v1.SnapshotService``. Create and use it on one event loop.

    Attributes:
        sent: snapshots sent so far.
        refusals: snapshots refused so far.
        progress: made whenever a processor said something or left, and when there is a new snapshot.
    """

    def __init__(self, *, max_streams: int = 1000, clock: Callable[[], float] = time.time) -> None:
        self.sent = 0
        self.refusals = 0
        self._max_streams = max_streams
        self._clock = clock
        self._snapshot: snapshot_pb2.Snapshot | None = None
        self._sessions: set[_Session] = set()
        self.progress = Progress()
        self._closing = False

    @property
    def version(self) -> str:
        """Version served; empty before the first."""
        return self._snapshot.version if self._snapshot is not None else ""

    @staticmethod
    def check(snapshot: snapshot_pb2.Snapshot) -> None:
        """Raise ValueError if it has no version or is larger than ``MAX_SNAPSHOT_BYTES``."""
        if not snapshot.version:
            raise ValueError("a snapshot without a version cannot be acknowledged")
        size = snapshot.ByteSize()
        if size > MAX_SNAPSHOT_BYTES:
            raise ValueError(f"the snapshot has {size} bytes; at most {MAX_SNAPSHOT_BYTES} can be sent")

    def set(self, snapshot: snapshot_pb2.Snapshot) -> None:
        """Serve this one from now on; it must not be changed afterwards.

        Raises:
            ValueError: see ``check``.
        """
        self.check(snapshot)
        if snapshot.version == self.version:
            return
        self._snapshot = snapshot
        self.progress.made()
        for session in self._sessions:
            session.wake.set()

    async def wait_acked(
        self,
        version: str,
        timeout: float,  # noqa: ASYNC109  # the result says who is late
        *,
        ignore: Container[str] = (),
    ) -> tuple[str, ...]:
        """Wait until every connected processor has accepted or refused ``version``.

        Args:
            version: of the snapshot.
            timeout: seconds.
            ignore: node ids not to wait for.

        Returns:
            Node ids of those that have not answered after ``timeout``. When another version has been set meanwhile, nobody
            is waited for any more.
        """
        await self.progress.wait_for(lambda: all(node in ignore for node in self.late(version)), timeout)
        return self.late(version)

    def late(self, version: str) -> tuple[str, ...]:
        """Node ids of connected processors that owe an answer about ``version``; nobody if it is not the one served."""
        if version != self.version:
            return ()
        return tuple(sorted(session.node for session in self._sessions if session.done != version))

    def processors(self) -> tuple[ProcessorStatus, ...]:
        """Every connected processor, by node id, oldest stream first."""
        return tuple(
            ProcessorStatus(s.node, s.since, s.version, s.refused, s.error, s.done == self.version, s.troubles)
            for s in sorted(self._sessions, key=lambda s: (s.node, s.since))
        )

    def close(self) -> None:
        """End all streams (processors keep what they have and reconnect) and refuse new ones."""
        self._closing = True
        for session in self._sessions:
            session.closing = True
            session.wake.set()

    async def Watch(self, request_iterator: AsyncIterator[snapshot_pb2.WatchRequest], context: Any) -> None:
        """One processor."""
        if self._closing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        if len(self._sessions) >= self._max_streams:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {self._max_streams} streams")
        requests = aiter(request_iterator)
        try:
            first = await anext(requests)
        except StopAsyncIteration:
            return
        if not 0 < len(first.node_id) <= _MAX_TEXT:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"node_id must have 1 to {_MAX_TEXT} characters")
        session = _Session(first.node_id, first.version[:_MAX_TEXT], self._clock())
        session.closing = self._closing
        if first.HasField("metrics"):
            session.troubles = told(first.metrics)
        self._sessions.add(session)
        reader = asyncio.create_task(self._read(session, requests))
        writer = asyncio.create_task(self._write(session, context))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            for task in (reader, writer):
                if task.done():
                    task.result()
        finally:
            self._sessions.discard(session)
            self.progress.made()
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, session: _Session, requests: AsyncIterator[snapshot_pb2.WatchRequest]) -> None:
        async for request in requests:
            if request.HasField("metrics"):
                session.troubles = told(request.metrics)
                self.progress.made()
                continue
            session.version = request.version[:_MAX_TEXT]
            sent, session.unanswered = session.unanswered, ""
            if not sent:
                continue
            session.done = sent
            if request.version == sent and not request.error:
                session.refused = session.error = ""
            else:
                session.refused = sent
                session.error = (
                    request.error[:_MAX_TEXT] or f"it answered with version {session.version!r} and no error"
                )
                self.refusals += 1
                _log.warning("processor %s refused snapshot %s: %s", session.node, sent, session.error)
            session.wake.set()
            self.progress.made()

    async def _write(self, session: _Session, context: Any) -> None:
        while not session.closing:
            snapshot = self._snapshot
            if snapshot is None or session.unanswered or session.done == snapshot.version:
                await session.wake.wait()
                session.wake.clear()
                continue
            session.unanswered = snapshot.version
            await context.write(snapshot)
            self.sent += 1
