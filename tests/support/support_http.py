"""HTTP by hand: bytes as written, answers as they come, every call bounded. For what no client library would send."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of an error, whichever API's shape it has."""
        return str(self.json["error"]["code"])


def request(
    path: str = "/v1/chat/completions",
    body: bytes | str | dict[str, Any] | list[Any] = b"",
    *lines: str,
    method: str = "POST",
    content_type: str = "application/json",
    keep: bool = False,
) -> bytes:
    """A request as bytes; ``lines`` are further header lines, a content-length among them replaces ours."""
    if isinstance(body, dict | list):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    head = [f"{method} {path} HTTP/1.1", "host: ralb.test", *lines]
    if content_type:
        head.append(f"content-type: {content_type}")
    if not keep:
        head.append("connection: close")
    if not any(line.lower().startswith(("content-length:", "transfer-encoding:")) for line in lines):
        head.append(f"content-length: {len(body)}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


class Connection:
    """One connection; as a context manager it is closed at the end."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Connection":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()

    def abort(self) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Write; a peer that has answered and closed already is no error."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            pass

    async def receive(self, limit: float = 10.0, *, head: bool = False) -> Response:
        """The next answer; ``head`` for one that has no body."""
        return await asyncio.wait_for(self._receive(head), limit)

    async def _receive(self, head: bool) -> Response:
        start = await self.reader.readuntil(b"\r\n")
        status = int(start.split(b" ")[1])
        headers: dict[str, str] = {}
        while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if head:
            body = b""
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readuntil(b"\r\n")
        else:
            body = await self.reader.read()
        return Response(status, headers, body)


async def call(port: int, data: bytes, limit: float = 10.0, *, head: bool = False) -> Response:
    """Send bytes on a connection of its own, give the answer."""
    async with Connection(port) as connection:
        sending = asyncio.create_task(connection.send(data))
        try:
            return await connection.receive(limit, head=head)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
