"""The control plane as one thing: both services on one gRPC server, and publication of results to them."""

from envoy.service.discovery.v3 import ads_pb2_grpc
from grpc import aio
from ralb.v1 import snapshot_pb2_grpc

from ralb_operator.compile.result import Result
from ralb_operator.publish import Publisher, PublishReport
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.server import AdsServer

_MAX_BYTES = 64 * 1024 * 1024


class ControlPlane:
    """Serves Envoys and processors at one address.

    Args:
        listen: ``unix:/path`` or ``host:port``.
    """

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self.ads = AdsServer()
        self.snapshots = SnapshotServer()
        self.publisher = Publisher(self.ads, self.snapshots)
        self._server: aio.Server | None = None

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: the address cannot be bound.
        """
        self._server = aio.server(
            options=[("grpc.max_send_message_length", _MAX_BYTES), ("grpc.max_receive_message_length", _MAX_BYTES)]
        )
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self.ads, self._server)
        snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(self.snapshots, self._server)
        try:
            self._server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._listen}: {error}") from error
        await self._server.start()

    async def publish(self, result: Result) -> PublishReport:
        """Publish what ``compile_view`` gave; see ``Publisher.publish``."""
        return await self.publisher.publish(result.xds, result.snapshot)

    async def stop(self) -> None:
        """End all streams. Envoys and processors go on with what they have."""
        self.ads.close()
        self.snapshots.close()
        await self.publisher.close()
        if self._server is not None:
            await self._server.stop(grace=0.5)
