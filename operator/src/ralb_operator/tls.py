"""The operator's end of mutual TLS: current material for each new connection, and who may call.

Where material comes from is not of interest here (``ralb_api.tls``). A connection that stands is not cut when material changes:
it was good when it was made, and cutting it would cost every gateway a reconnection at once.

Trap: an authority may have signed for others too (a company's issuer does), so a valid certificate is not enough: the names in
it decide. What is served holds credentials of providers.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

import grpc

from ralb_api.tls import Keeper, Material


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How to serve.

    Attributes:
        keeper: the server's material; clients must show certificates of the authorities in it.
        clients: DNS names of which a client's certificate must hold one; empty = any client those authorities vouch for.
    """

    keeper: Keeper
    clients: Collection[str] = ()

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that take the keeper's current material for each new connection.

        Raises:
            ValueError: the keeper has none yet.
        """
        current = self.keeper.current
        if current is None:
            raise ValueError(f"no usable TLS material from {self.keeper.source}: {self.keeper.problem or 'none yet'}")
        used = [current.version]

        def newer() -> grpc.ServerCertificateConfiguration | None:
            # Called by gRPC's threads before every handshake; None = no change.
            material = self.keeper.current
            if material is None or material.version == used[0]:
                return None
            used[0] = material.version
            return _configuration(material)

        return grpc.dynamic_ssl_server_credentials(_configuration(current), newer, require_client_authentication=True)

    def interceptors(self) -> tuple["OnlyFrom", ...]:
        """What the server must be made with."""
        return (OnlyFrom(self.clients),) if self.clients else ()


class OnlyFrom(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # gRPC has no types
    """Turns callers away whose certificate holds none of ``names`` (DNS), with PERMISSION_DENIED."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(name.lower().encode() for name in names)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler: only there is it known who calls."""
        handler = await continuation(handler_call_details)
        # All that the operator serves are streams both ways; anything else would pass unchecked.
        if handler is None or handler.stream_stream is None:
            return None
        inner = handler.stream_stream

        @functools.wraps(inner)
        async def checked(requests: AsyncIterator[Any], context: Any) -> Any:
            names = context.auth_context().get("x509_subject_alternative_name", ())
            if not any(name.lower() in self._names for name in names):
                await context.abort(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "the client's certificate holds none of the names that may call; see docs/trust.md",
                )
            return await inner(requests, context)

        return grpc.stream_stream_rpc_method_handler(checked, handler.request_deserializer, handler.response_serializer)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], material.ca)
