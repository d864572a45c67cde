"""The least HTTP/1.1 client that scraping needs: GET over one kept-alive connection per pod, one request at a time.

A general client costs several times the CPU per scrape, which counts at hundreds of pods several times a second. Servers are not
trusted: header and body sizes are bounded, redirects and compression are not followed, anything odd ends the connection.
Source: RFC 9112 (message syntax, chunked coding).
"""

import asyncio
from enum import StrEnum
from typing import Final, cast

MAX_HEADER: Final = 16_384
MAX_BODY: Final = 4 << 20


class Kind(StrEnum):
    """Why a fetch failed."""

    REFUSED = "refused"  # nobody accepts connections there
    TIMEOUT = "timeout"
    CLOSED = "closed"  # the connection ended in mid-answer
    STATUS = "status"  # answered, but not with 200
    TOO_LARGE = "too-large"
    PROTOCOL = "protocol"  # not HTTP, or a coding that was not asked for
    ADDRESS = "address"  # the endpoint or path in the snapshot is unusable


class FetchError(Exception):
    """A fetch failed; ``kind`` says how."""

    def __init__(self, kind: Kind, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else str(kind))
        self.kind = kind


class Connection:
    """GET from one server over one connection, made anew when the old one ended."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._wire: _Wire | None = None

    async def get(self, request: bytes, limit: float) -> bytes:
        """Send a whole GET request and return the body of a 200 answer.

        Args:
            request: request line and headers, as sent.
            limit: seconds it may take in all.

        Raises:
            FetchError: anything else; the connection is closed then.
        """
        try:
            async with asyncio.timeout(limit):
                wire = self._wire
                reused = wire is not None and wire.usable
                if wire is None or not reused:
                    wire = await self._connect()
                try:
                    body = await wire.exchange(request)
                except FetchError as error:
                    # A kept-alive connection may have been closed by the server just before we used it.
                    if error.kind is not Kind.CLOSED or not reused or wire.answered:
                        raise
                    wire = await self._connect()
                    body = await wire.exchange(request)
        except TimeoutError:
            self.close()
            raise FetchError(Kind.TIMEOUT) from None
        except OSError as error:
            self.close()
            raise FetchError(Kind.REFUSED, error.strerror or str(error)) from None
        except BaseException:
            self.close()
            raise
        if not wire.usable:
            self.close()
        return body

    def close(self) -> None:
        """End the connection."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.end()

    async def _connect(self) -> "_Wire":
        self.close()
        _, wire = await asyncio.get_running_loop().create_connection(_Wire, self._host, self._port)
        self._wire = wire
        return wire


class _Wire(asyncio.Protocol):
    """One TCP connection: one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[bytes] | None = None
        self._buffer = bytearray()
        self._body_at = -1  # where the body starts in the buffer; -1 = header not complete
        self._length = -1  # of the body; -1 = chunked or until close
        self._chunked = False
        self._keep = True

    @property
    def usable(self) -> bool:
        """Whether another exchange may be made."""
        return self._keep and self._transport is not None and not self._transport.is_closing()

    @property
    def answered(self) -> bool:
        """Whether any byte of the present answer came."""
        return bool(self._buffer)

    def exchange(self, request: bytes) -> "asyncio.Future[bytes]":
        """Send a request; the future gets the body."""
        self._buffer = bytearray()
        self._body_at = self._length = -1
        self._chunked = False
        self._waiting = waiting = asyncio.get_running_loop().create_future()
        if self._transport is None:
            waiting.set_exception(FetchError(Kind.CLOSED))
        else:
            self._transport.write(request)
        return waiting

    def end(self) -> None:
        """Close at once."""
        self._keep = False
        self._waiting = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape, not by class

    def data_received(self, data: bytes) -> None:
        """Collect; finish the exchange when the answer is whole."""
        if self._waiting is None or self._waiting.done():
            self.end()  # an answer nobody asked for
            return
        self._buffer += data
        self._try_finish(ended=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server (or we) ended the connection."""
        self._keep = False
        self._transport = None
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            self._try_finish(ended=True)
            if not waiting.done():
                waiting.set_exception(FetchError(Kind.CLOSED))

    def _try_finish(self, *, ended: bool) -> None:
        assert self._waiting is not None
        try:
            body = self._read(ended=ended)
        except FetchError as error:
            self._keep = False
            self._waiting.set_exception(error)
        else:
            if body is not None:
                self._waiting.set_result(body)

    def _read(self, *, ended: bool) -> bytes | None:
        """The body if the answer is whole, else None."""
        buffer = self._buffer
        if self._body_at < 0:
            end = buffer.find(b"\r\n\r\n", 0, MAX_HEADER)
            if end < 0:
                if len(buffer) >= MAX_HEADER:
                    raise FetchError(Kind.PROTOCOL, "header too long")
                return None
            self._body_at = end + 4
            self._header(bytes(buffer[:end]))
        have = len(buffer) - self._body_at
        if have > MAX_BODY + (MAX_BODY >> 3 if self._chunked else 0):
            raise FetchError(Kind.TOO_LARGE)
        if self._length >= 0:
            if have > self._length:
                self._keep = False  # more than it announced: what follows cannot be trusted
            return bytes(buffer[self._body_at : self._body_at + self._length]) if have >= self._length else None
        if self._chunked:
            return _dechunk(buffer, self._body_at) if buffer.endswith(b"\r\n\r\n") else None
        return bytes(buffer[self._body_at :]) if ended else None

    def _header(self, header: bytes) -> None:
        lines = header.split(b"\r\n")
        status = lines[0].split(b" ", 2)
        if len(status) < 2 or not status[0].startswith(b"HTTP/1."):
            raise FetchError(Kind.PROTOCOL, "not HTTP/1")
        if status[1] != b"200":
            raise FetchError(Kind.STATUS, status[1][:8].decode("latin-1"))
        self._keep = self._keep and status[0] == b"HTTP/1.1"
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip().lower()
            if name == b"content-length":
                if not value.isdigit() or len(value) > 12:
                    raise FetchError(Kind.PROTOCOL, "content-length")
                self._length = int(value)
                if self._length > MAX_BODY:
                    raise FetchError(Kind.TOO_LARGE)
            elif name == b"transfer-encoding":
                if value != b"chunked":
                    raise FetchError(Kind.PROTOCOL, "transfer-encoding")
                self._chunked = True
            elif name == b"content-encoding" and value != b"identity":
                raise FetchError(Kind.PROTOCOL, "content-encoding")
            elif name == b"connection" and value == b"close":
                self._keep = False
        if self._chunked:
            self._length = -1
        elif self._length < 0:
            self._keep = False


def _dechunk(buffer: bytearray, at: int) -> bytes | None:
    """The body in chunked coding from ``at`` on; None if the last chunk is not there yet."""
    out = bytearray()
    while True:
        end = buffer.find(b"\r\n", at, at + 64)
        if end < 0:
            if len(buffer) - at >= 64:
                raise FetchError(Kind.PROTOCOL, "chunk size")
            return None
        try:
            size = int(bytes(buffer[at:end]).partition(b";")[0], 16)
        except ValueError:
            raise FetchError(Kind.PROTOCOL, "chunk size") from None
        if size == 0:
            return bytes(out)
        at = end + 2
        if size < 0 or len(out) + size > MAX_BODY:
            raise FetchError(Kind.TOO_LARGE)
        if len(buffer) < at + size + 2:
            return None
        out += buffer[at : at + size]
        at += size + 2
