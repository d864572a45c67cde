"""One gRPC server for everything the operator serves: discovery to Envoys, snapshots to processors."""

import asyncio
import os
from dataclasses import dataclass
from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc

from ralb.v1 import snapshot_pb2_grpc
from ralb_operator.snapshots import MAX_SNAPSHOT_BYTES, SnapshotServer
from ralb_operator.tls import ServerTls
from ralb_operator.xds.server import AdsServer

# The kernel's limit on the path of a Unix socket, less the terminating zero.
_MAX_SOCKET_PATH: Final = 107

_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_SNAPSHOT_BYTES + 1024),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # Without this a second server on the same port gets half of the connections instead of an error.
    ("grpc.so_reuseport", 0),
    # Find dead peers in at most 40 s, and let them do the same to us: by default gRPC punishes pings below 5 minutes.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
)


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server.

    Attributes:
        address: where it listens, with the real port if 0 was asked for.
    """

    address: str
    _server: Any
    _ads: AdsServer
    _snapshots: SnapshotServer

    async def stop(self, grace: float = 1.0) -> None:
        """End all streams, then close; whatever is open after ``grace`` seconds is cut."""
        self._ads.close()
        self._snapshots.close()
        await self._server.stop(grace)


async def serve(address: str, ads: AdsServer, snapshots: SnapshotServer, tls: ServerTls | None = None) -> Serving:
    """Start serving.

    Args:
        address: ``unix:/path`` or ``host:port`` (port 0 = any free one).
        ads: the discovery service.
        snapshots: the snapshot service.
        tls: require it of every client, with a certificate of the client's own. None = in clear, for Unix sockets and
            loopback: whoever connects is served, credentials of providers included.

    Raises:
        OSError: the address cannot be bound; the message says why.
        ValueError: ``tls`` has no material yet.
    """
    path = address.removeprefix("unix:")
    if path != address:
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
            raise OSError(
                f"the path of the socket {path!r} is longer than {_MAX_SOCKET_PATH} bytes; choose a shorter one"
            )
        folder = os.path.dirname(path) or "."
        if not await asyncio.to_thread(os.path.isdir, folder):
            raise OSError(f"cannot listen on {address}: there is no folder {folder!r}")
    credentials = tls.credentials() if tls is not None else None
    server = grpc.aio.server(interceptors=tls.interceptors() if tls is not None else (), options=_OPTIONS)
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
    snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(snapshots, server)
    try:
        secure = credentials is not None
        port = server.add_secure_port(address, credentials) if secure else server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    await server.start()
    if path == address:
        address = f"{address.rpartition(':')[0]}:{port}"
    return Serving(address, server, ads, snapshots)
