"""What the processor does as the companion of an Envoy in a pod: TLS material for the way to the operator, and Envoy's drain.

Routing may not enter. Without its options there is none of it, as with `ralb up`.
"""

import argparse
import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from ralb_api.tls import Directory, Keeper
from ralb_extproc.drain import Drain, DrainServer
from ralb_extproc.snapshots import ClientTls


@dataclass(frozen=True, slots=True)
class CompanionOptions:
    """See ``add_arguments``.

    Attributes:
        tls_dir: folder of the TLS material; None = speak to the operator in clear.
        tls_server_name: name in the operator's certificate; "" = the host that is called.
        drain_port: of the drain server, 0 = any free one; None = no drain server.
        envoy_admin: ``host:port`` of Envoy's admin interface.
        drain_least, drain_most: seconds.
    """

    tls_dir: Path | None = None
    tls_server_name: str = ""
    drain_port: int | None = None
    envoy_admin: str = "127.0.0.1:9901"
    drain_least: float = 5.0
    drain_most: float = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags behind ``CompanionOptions``."""
    parser.add_argument(
        "--tls-dir", help="folder with tls.crt, tls.key and ca.crt: speak TLS with the operator (default: in clear)"
    )
    parser.add_argument(
        "--tls-server-name", default="", help="name in the operator's certificate, if not the host of --operator"
    )
    parser.add_argument(
        "--drain-port", type=int, help="serve /drain here, at --admin-address: drains Envoy (default: not served)"
    )
    parser.add_argument(
        "--envoy-admin", default="127.0.0.1:9901", help="Envoy's admin interface, host:port, for --drain-port"
    )
    parser.add_argument(
        "--drain-min", type=float, default=5.0, help="seconds a drain takes at least: until Services have noticed"
    )
    parser.add_argument(
        "--drain-timeout", type=float, default=120.0, help="seconds after which a drain no longer waits for requests"
    )


def options_of(args: argparse.Namespace) -> CompanionOptions:
    """From parsed flags.

    Raises:
        ValueError: they make no sense; the message says which.
    """
    port, timeout, least = args.drain_port, args.drain_timeout, args.drain_min
    if port is not None and not 0 <= port <= 65535:
        raise ValueError(f"--drain-port must be 0 to 65535, not {port}")
    if not 0 <= least <= timeout:
        raise ValueError(f"--drain-min ({least:g}) must be 0 to --drain-timeout ({timeout:g})")
    if port is not None and ":" not in args.envoy_admin:
        raise ValueError(f"--envoy-admin must be host:port, not {args.envoy_admin!r}")
    return CompanionOptions(
        tls_dir=Path(args.tls_dir) if args.tls_dir else None,
        tls_server_name=args.tls_server_name,
        drain_port=port,
        envoy_admin=args.envoy_admin,
        drain_least=least,
        drain_most=timeout,
    )


class Companion:
    """Start it before following the operator, stop it last.

    Args:
        options: what of it to do.
        host: address to bind the drain server to.

    Attributes:
        tls: for the channel to the operator; None = in clear.
        drain_server: None if there is none.
    """

    def __init__(self, options: CompanionOptions, host: str) -> None:
        self.tls: ClientTls | None = None
        self.drain_server: DrainServer | None = None
        self._drain: Drain | None = None
        self._directory: Directory | None = None
        self._task: asyncio.Task[None] | None = None
        if options.tls_dir is not None:
            self.tls = ClientTls(Keeper(str(options.tls_dir)), options.tls_server_name)
            self._directory = Directory(options.tls_dir, self.tls.keeper)
        if options.drain_port is not None:
            self._drain = Drain(options.envoy_admin, least=options.drain_least, most=options.drain_most)
            self.drain_server = DrainServer(self._drain, host, options.drain_port)

    @property
    def draining(self) -> bool:
        """Whether Envoy was asked to drain."""
        return self._drain is not None and self._drain.begun

    async def start(self) -> None:
        """Read the material and serve drains; raises OSError when the address is taken."""
        if self._directory is not None:
            await self._directory.look()
            self._task = asyncio.create_task(self._directory.run())
        if self.drain_server is not None:
            await self.drain_server.start()

    async def stop(self) -> None:
        """Stop both."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self.drain_server is not None:
            await self.drain_server.stop()
