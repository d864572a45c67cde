"""A TCP relay on loopback: one address in front of several backends, as a Service is; and a line that can be cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_CHUNK = 64 * 1024


class Relay:
    """Forwards every connection to the first backend that accepts it, beginning at another one each time.

    Attributes:
        port: where it listens, on 127.0.0.1.
        backends: (host, port) of those behind it; may be changed at any time.
        accepted: connections so far.
    """

    def __init__(self, backends: Sequence[tuple[str, int]]) -> None:
        self.port = 0
        self.backends = list(backends)
        self.accepted = 0
        self._open = True
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Break off every connection and refuse new ones until ``mend``."""
        self._open = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def mend(self) -> None:
        self._open = True

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            if not self._open:
                return
            self.accepted += 1
            there = await self._dial()
            if there is None:
                return
            ends.append(there[1])
            ways = (_pump(reader, there[1]), _pump(there[0], writer))
            pumps = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for end in ends:
                end.transport.abort()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        backends = list(self.backends)
        for step in range(len(backends)):
            host, port = backends[(self.accepted + step) % len(backends)]
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(host, port)
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def running_relay(*backends: tuple[str, int]) -> AsyncIterator[Relay]:
    relay = Relay(backends)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()
