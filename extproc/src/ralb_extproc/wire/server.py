"""The protocol on asyncio: listening, reading, writing, leaving in peace."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from ralb_extproc.wire.calls import Call, Handler, Limits
from ralb_extproc.wire.connection import Connection
from ralb_extproc.wire.frames import PeerError

_LOG = logging.getLogger(__name__)
# A peer that does not read what it is sent is cut off at this.
_MAX_UNSENT: Final = 256 * 1024 * 1024
# How long a connection that is closed may take for the last bytes.
_LINGER_S: Final = 2.0
# A peer whose machine is gone says nothing. It is noticed after about this long, and what is held for its calls let go.
_SILENT_S: Final = 60


class _Peer(asyncio.Protocol):
    def __init__(self, server: "Server") -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._closing: asyncio.TimerHandle | None = None
        self.connection = Connection(server.accept, server.limits, self._write)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _notice_loss(transport.get_extra_info("socket"))
        self._server.peers.add(self)
        if self._server.stopping:
            self.connection.leave()
        self._write()

    def data_received(self, data: bytes) -> None:
        if self._closing is not None:
            return
        try:
            self.connection.receive(data)
        except PeerError as error:
            _LOG.warning("a peer broke the protocol and is cut off: %s", error)
            self._write()
            self.close()
            return
        self._write()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._closing is not None:
            self._closing.cancel()
        self._server.peers.discard(self)
        self.connection.lost()

    def close(self) -> None:
        """Close after what is written is out, or was not taken for a while."""
        if self._transport is not None and self._closing is None:
            self._transport.close()
            self._closing = asyncio.get_running_loop().call_later(_LINGER_S, self._transport.abort)

    def _write(self) -> None:
        transport = self._transport
        if transport is None:
            return
        data = self.connection.take()
        if not data:
            return
        transport.write(data)
        if transport.get_write_buffer_size() > _MAX_UNSENT:
            _LOG.warning("a peer does not read what it is sent and is cut off")
            transport.abort()


class Server:
    """A gRPC server.

    Args:
        limits: bounds per connection.

    Attributes:
        peers: connections now open.
        stopping: ``stop`` was called.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.peers: set[_Peer] = set()
        self.stopping = False
        self._methods: dict[str, Callable[[Call], Handler]] = {}
        self._server: asyncio.Server | None = None

    def add(self, path: str, handler: Callable[[Call], Handler]) -> None:
        """Serve ``/package.Service/Method`` with a handler per call."""
        self._methods[path] = handler

    def accept(self, call: Call) -> Handler | None:
        """The handler of a new call; None if there is no such method."""
        make = self._methods.get(call.path)
        return None if make is None else make(call)

    async def start(self, address: str, tls: ssl.SSLContext | None = None) -> str:
        """Listen on ``unix:/path`` or ``host:port`` (port 0 = any free one), there with ``tls``; returns the real address.

        Raises:
            OSError: the address cannot be bound.
            ValueError: the port is no number.
        """
        loop = asyncio.get_running_loop()
        path = address.removeprefix("unix:")
        if path != address:
            self._server = await loop.create_unix_server(lambda: _Peer(self), path)
            return address
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self._server = await loop.create_server(lambda: _Peer(self), host, int(port), ssl=tls)
        real = self._server.sockets[0].getsockname()[1]
        return f"[{host}]:{real}" if ":" in host else f"{host}:{real}"

    async def stop(self, grace: float) -> None:
        """Take no more calls, let open ones end for up to ``grace`` seconds, then close."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for peer in list(self.peers):
            peer.connection.leave()
        loop = asyncio.get_running_loop()
        # Calls end when peers say so; a coarse look is enough for the few moments of a shutdown.
        deadline = loop.time() + grace
        while any(peer.connection.calls for peer in self.peers) and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for peer in list(self.peers):
            peer.close()
        # Their last bytes; whoever does not take them is cut off by then.
        deadline = loop.time() + _LINGER_S + 0.5
        while self.peers and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def _notice_loss(connection: socket.socket | None) -> None:
    """Have the system ask silent peers whether they live; as far as it can."""
    if connection is None or connection.family == getattr(socket, "AF_UNIX", None):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    values = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", _SILENT_S * 1000))
    for name, value in values:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
