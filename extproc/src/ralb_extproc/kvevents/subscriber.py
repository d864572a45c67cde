"""Listens to the event streams of all pods that have one: a task and a ZeroMQ socket per pod, following the table.

Batches are read one at a time over all pods (``_Turn``), a few milliseconds in a row and at most a share of the CPU, so that
requests are not kept waiting; what comes faster waits in the sockets, is in the end dropped by the engines, and shows as a gap.

A stream starts blind: engines send no picture of what their cache holds already, unless they keep enough for a replay. A gap is
filled by a replay if the pod has a port for that, else what the pod holds counts as unknown. A number that falls is a restart.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import zmq
import zmq.asyncio

from ralb.v1.snapshot_pb2 import Pool
from ralb_extproc.kvevents.view import KvView
from ralb_extproc.kvevents.wire import (
    END_OF_REPLAY,
    MAX_PAYLOAD,
    Message,
    WireError,
    decode,
    message,
    request_from,
)
from ralb_extproc.place import PodTable

_log = logging.getLogger(__name__)
# A message is one step of an engine; this many are some seconds. What is beyond waits in the network's buffers.
_WAITING: Final = 128
_REPLAY_WAITING: Final = 1000
_REPLAY_SECONDS: Final = 2.0
_MAX_REPLAY: Final = 64 << 20
_RECONNECT_MS: Final = 200
_RECONNECT_MAX_MS: Final = 5000
_TURN_SECONDS: Final = 0.002
_SHARE: Final = 0.25
_TICK_SECONDS: Final = 0.1
_MAX_WARNED: Final = 1000
MAX_STREAMS: Final = 1024


@dataclass(slots=True, eq=False)
class Stream:
    """One pod's stream.

    Attributes:
        pool, address, slot, generation: the pod in the table.
        url, replay_url: where it publishes, and where it replays ("" = nowhere).
        expected: number of the next batch; None before the first.
        batches: read so far.
        error: why the last message could not be used; "" if it could.
    """

    pool: str
    address: str
    slot: int
    generation: int
    url: str
    replay_url: str
    expected: int | None = None
    batches: int = 0
    error: str = ""


class _Turn:
    """Who may work: one at a time, and after ``_TURN_SECONDS`` of work nobody for a while."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._spent = 0.0

    async def run(self, work: Callable[[], None]) -> None:
        async with self._lock:
            before = time.perf_counter()
            work()
            self._spent += time.perf_counter() - before
            if self._spent > _TURN_SECONDS:
                pause, self._spent = self._spent / _SHARE - self._spent, 0.0
                await asyncio.sleep(pause)


class Subscriber:
    """Listens to all pods of pools with ``kv_events``.

    Args:
        pods: the table whose pods are followed.
        view: what is told.
        clock: monotonic seconds.
        wall: Unix seconds.
        idle: seconds without a message after which a pod that serves requests is connected to anew.

    Attributes:
        gaps: by what became of them: replayed, lost.
        restarts: numbers that fell.
        errors: messages that could not be used, by kind.
    """

    def __init__(
        self,
        pods: PodTable,
        view: KvView,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        idle: float = 10.0,
    ) -> None:
        self._pods = pods
        self._view = view
        self._clock = clock
        self._wall = wall
        self._idle = idle
        self._context = zmq.asyncio.Context()
        self._turn = _Turn()
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._streams: dict[tuple[str, int], Stream] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._warned: set[tuple[str, str]] = set()
        self.gaps: Counter[str] = Counter()
        self.restarts = 0
        self.errors: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def streams(self) -> Iterable[Stream]:
        """All streams."""
        return self._streams.values()

    def update(self, pools: Iterable[Pool]) -> None:
        """Follow the table after its own update with the same pools. Must be called on the event loop."""
        wanted: dict[tuple[str, int], Stream] = {}
        for pool in pools:
            view = self._pods.view(pool.id)
            if view is None or not pool.kv_events.port:
                continue
            for address, slot in zip(view.addresses, view.slots, strict=True):
                key = self._pods.key(slot)
                stream = _stream(pool, address, slot, key.generation) if key is not None else None
                if stream is not None and len(wanted) < MAX_STREAMS:
                    wanted[stream.url + stream.replay_url, stream.generation] = stream
        for gone in self._tasks.keys() - wanted.keys():
            self._tasks.pop(gone).cancel()
            del self._streams[gone]
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().create_task(self._tick(), name="events matched")
        self._view.follow((s.pool, s.slot, s.generation) for s in wanted.values())
        for new in wanted.keys() - self._tasks.keys():
            stream = self._streams[new] = wanted[new]
            self._tasks[new] = asyncio.get_running_loop().create_task(self._run(stream), name=f"events {stream.url}")

    async def stop(self) -> None:
        """End all tasks and close their sockets."""
        tasks = [*self._tasks.values(), *([self._ticking] if self._ticking is not None else [])]
        self._tasks.clear()
        self._streams.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            while self._view.due(now := self._clock()):
                await self._turn.run(partial(self._view.tick, now))

    async def _run(self, stream: Stream) -> None:
        try:
            while True:
                with self._socket(zmq.SUB, stream.url, _WAITING) as socket:
                    socket.setsockopt(zmq.SUBSCRIBE, b"")
                    await self._listen(stream, socket)
        except zmq.ZMQError as error:
            self._failed(stream, "socket")
            _log.error("pool %s: cannot listen at %s: %s", stream.pool, stream.url, error)

    async def _listen(self, stream: Stream, socket: Any) -> None:
        """Take what comes; returns when nothing does though it should.

        ZeroMQ mends connections that break, but not those it gave up for what the other side sent.
        """
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    frames = await socket.recv_multipart()
            except TimeoutError:
                if self._view.unheard(stream.generation):
                    return
                continue
            try:
                await self._take(stream, message(frames))
            except WireError as error:
                self._failed(stream, error.kind)

    async def _take(self, stream: Stream, news: Message) -> None:
        expected, view = stream.expected, self._view
        if expected is None:
            if await self._fill(stream, 0, news.sequence):
                view.complete(stream.generation)
        elif news.sequence < expected:
            self.restarts += 1
            view.emptied(stream.generation)
            if not await self._fill(stream, 0, news.sequence):
                view.lost(stream.generation)
        elif news.sequence > expected:
            filled = await self._fill(stream, expected, news.sequence)
            self.gaps["replayed" if filled else "lost"] += 1
            if not filled:
                view.lost(stream.generation)
        await self._turn.run(partial(self._apply, stream, news))

    async def _fill(self, stream: Stream, start: int, end: int) -> bool:
        """Apply the batches from ``start`` to before ``end`` if the pod still has them all; whether it had."""
        if start == end:
            return True
        if not stream.replay_url:
            return False
        kept: list[Message] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(_REPLAY_SECONDS):
                kept = await self._replay(stream, start, end)
        if len(kept) != end - start:
            return False
        for old in kept:
            await self._turn.run(partial(self._apply, stream, old))
        return True

    async def _replay(self, stream: Stream, start: int, end: int) -> list[Message]:
        """The batches from ``start`` to before ``end`` in a row, as many as the pod has; none if it lacks the first."""
        kept: list[Message] = []
        size = 0
        with self._socket(zmq.DEALER, stream.replay_url, _REPLAY_WAITING) as socket:
            await socket.send_multipart(request_from(start))
            while size <= _MAX_REPLAY:
                frames = await socket.recv_multipart()
                if len(frames) >= 2 and frames[-2] == END_OF_REPLAY:
                    return kept
                try:
                    old = message(frames)
                except WireError as error:
                    self._failed(stream, error.kind)
                    break
                if old.sequence == start + len(kept) < end:
                    kept.append(old)
                    size += len(old.payload)
        return []

    def _apply(self, stream: Stream, news: Message) -> None:
        stream.expected = news.sequence + 1
        try:
            batch = decode(news.payload)
        except WireError as error:
            self._failed(stream, error.kind)
            self._view.lost(stream.generation)
            return
        stream.batches += 1
        stream.error = ""
        self._view.apply(stream.generation, batch, self._clock(), self._wall())

    def _socket(self, kind: int, url: str, waiting: int) -> Any:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, waiting)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.connect(url)
        return socket

    def _failed(self, stream: Stream, kind: str) -> None:
        stream.error = kind
        self.errors[kind] += 1
        if (stream.pool, kind) not in self._warned and len(self._warned) < _MAX_WARNED:
            self._warned.add((stream.pool, kind))
            _log.warning("pool %s: what %s publishes cannot be used: %s", stream.pool, stream.url, kind)


def _stream(pool: Pool, address: str, slot: int, generation: int) -> Stream | None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not host.isascii() or not all(c.isalnum() or c in ".-:[]" for c in host):
        return None
    ports = pool.kv_events
    replay = f"tcp://{host}:{ports.replay_port}" if ports.replay_port else ""
    return Stream(pool.id, address, slot, generation, f"tcp://{host}:{ports.port}", replay)
