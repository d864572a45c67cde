"""A small load generator: HTTP/1.1 over kept-alive connections, open loop at a rate or closed loop at saturation.

It runs on the machine it measures, so it does as little per request as it can: prepared bytes out, and just enough parsing
to find the end of an answer. Loops are bounded in count and time.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast


@dataclass(slots=True)
class Load:
    """What one run measured.

    Attributes:
        latencies: seconds to the whole answer, per good request.
        errors: requests without a 200.
        seconds: how long it took.
        late: requests sent more than 5 ms after they were due (open loop only): the generator's own limit.
    """

    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0
    late: int = 0


class _Connection(asyncio.Protocol):
    """One connection with at most one request on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiter: asyncio.Future[int] | None = None
        self._need = -1  # whole answer's length once known; -2 = chunked
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(0)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if self._need == -1:
            head = buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            lower = bytes(buffer[:head]).lower()
            at = lower.find(b"content-length: ")
            self._need = -2 if at < 0 else head + 4 + int(lower[at + 16 :].split(b"\r", 1)[0])
        done = buffer.endswith(b"0\r\n\r\n") if self._need == -2 else len(buffer) >= self._need
        if done and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(int(buffer[9:12]))

    async def ask(self, request: bytes) -> int:
        """Send a request; the answer's status, 0 if the connection broke."""
        assert self._transport is not None
        self._buffer.clear()
        self._need = -1
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Client:
    """A pool of connections to one address."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: list[_Connection] = []

    async def timed(self, request: bytes, load: Load, due: float | None = None) -> None:
        """One request into ``load``. Latency counts from when it was due, so a stalled server is not excused."""
        start = time.perf_counter()
        connection = self._idle.pop() if self._idle else await self._connect()
        status = await connection.ask(request)
        if status == 200:
            load.latencies.append(time.perf_counter() - (start if due is None else due))
        else:
            load.errors += 1
        if connection.open:
            self._idle.append(connection)

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return connection

    def close(self) -> None:
        """Close all idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


async def at_rate(client: Client, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Open loop: request k is due at k/rate, whatever became of the ones before."""
    load = Load()
    tasks: set[asyncio.Task[None]] = set()
    start = time.perf_counter()
    for k in range(max(1, int(rate * seconds))):
        due = start + k / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        elif wait < -0.005:
            load.late += 1
        task = asyncio.create_task(client.timed(requests[k % len(requests)], load, min(due, time.perf_counter())))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=30)
        for task in pending:
            task.cancel()
            load.errors += 1
    load.seconds = time.perf_counter() - start
    return load


async def saturate(client: Client, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Closed loop: each connection sends its next request as soon as it has the last answer."""
    load = Load()
    start = time.perf_counter()

    async def one(first: int) -> None:
        k = first
        while time.perf_counter() - start < seconds:
            await client.timed(requests[k % len(requests)], load)
            k += connections

    await asyncio.wait_for(asyncio.gather(*(one(first) for first in range(connections))), seconds + 30)
    load.seconds = time.perf_counter() - start
    return load
