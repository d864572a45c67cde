"""Server-sent events, and faults that strike on the way out.

Headers go out before anything is queued, as the real server does: a client, or a proxy, sees `200` long before the first
token. A failure after that can only cut the connection.
"""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from ralb_sim.server import faults
from ralb_sim.server.errors import ApiError
from ralb_sim.server.faults import Strike

STRIKE = web.RequestKey("strike", Strike)
"""What hits this request; set by the edge."""

_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Server": "uvicorn", "Vary": "Origin"}


def cut(request: web.Request) -> None:
    """Cut the client's connection with a reset, not an orderly close."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def strike_now(request: web.Request, strike: Strike, chunks: int) -> None:
    """Strike if `chunks` body chunks (-1: not even headers) is when this request is hit.

    Raises:
        asyncio.CancelledError: The connection was cut; the handler must end.
    """
    if strike.crash is not None and strike.crash <= chunks:
        faults.crash()
    if strike.reset is not None and strike.reset <= chunks:
        cut(request)
        raise asyncio.CancelledError
    if strike.hang is not None and strike.hang <= chunks:
        # Ends when the client goes away or the server shuts down: both cancel the handler.
        await asyncio.Event().wait()


class EventStream:
    """One SSE response; an async context manager that sends headers on entry and the end of the body on a clean exit."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._strike = request.get(STRIKE, Strike())
        self._chunks = 0
        self.response = web.StreamResponse(headers=_HEADERS)

    async def __aenter__(self) -> Self:
        await self.response.prepare(self._request)
        await strike_now(self._request, self._strike, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.response.write_eof()
        elif isinstance(error, ApiError):
            # Too late for an error answer: the status is on the wire. Nobody else may try to send one.
            cut(self._request)
            raise asyncio.CancelledError from error
        elif not isinstance(error, asyncio.CancelledError | ConnectionError):
            cut(self._request)

    async def data(self, payload: dict[str, Any]) -> None:
        """Send a `data:` event."""
        await self._write(b"data: " + orjson.dumps(payload) + b"\n\n")

    async def named(self, event: str, payload: dict[str, Any]) -> None:
        """Send an event with a name."""
        await self._write(b"event: " + event.encode() + b"\ndata: " + orjson.dumps(payload) + b"\n\n")

    async def done(self) -> None:
        """Send the `[DONE]` mark."""
        await self._write(b"data: [DONE]\n\n")

    async def _write(self, chunk: bytes) -> None:
        await self.response.write(chunk)
        self._chunks += 1
        await strike_now(self._request, self._strike, self._chunks)
