"""The picker's ports: one per pool with ext_proc and health, and one of health alone."""

import asyncio
from collections.abc import Callable
from typing import Final

from ralb_extproc.decision import Decision
from ralb_extproc.epp.health import Health
from ralb_extproc.epp.options import PickerOptions
from ralb_extproc.epp.service import Picker, Room
from ralb_extproc.epp.tls import PickerTls
from ralb_extproc.feedback import Outcome
from ralb_extproc.router import Router
from ralb_extproc.wire import Limits, Server

# Bytes of unfinished request bodies kept for all gateways together.
_ROOM: Final = 512 * 1024 * 1024
# A message may carry a whole body and a little around it.
_AROUND: Final = 1024 * 1024


class PickerServers:
    """Start them, wait, stop them.

    Args:
        options: which pools, where.
        router, on_decision, on_outcome: see ``Picker``.
        max_body_bytes: largest request body.

    Attributes:
        addresses: where each pool is served, once started: pool id -> address.
        health_address: where health alone is served; "" if nowhere.
        room: what is kept of request bodies.
    """

    def __init__(
        self,
        options: PickerOptions,
        router: Router,
        on_decision: Callable[[Decision], None],
        on_outcome: Callable[[Outcome], None],
        *,
        max_body_bytes: int,
    ) -> None:
        self._options = options
        self._tls = PickerTls(options.tls)
        self.room = Room(max(_ROOM, max_body_bytes))
        self.addresses: dict[str, str] = {}
        self.health_address = ""
        limits = Limits(message=max_body_bytes + _AROUND)
        self._ports: list[tuple[str, Picker, Server]] = []
        self._healths: list[Health] = []
        for address, pool in options.pools:
            picker = Picker(
                pool,
                router,
                on_decision,
                on_outcome,
                room=self.room,
                max_body_bytes=max_body_bytes,
                sheddable=options.sheddable,
            )
            server = Server(limits)
            picker.add_to(server)
            self._health(picker.is_ready, server)
            self._ports.append((address, picker, server))
        self._health_server = Server(Limits(message=64 * 1024)) if options.health_listen else None
        if self._health_server is not None:
            self._health(lambda: not self.missing, self._health_server)

    def _health(self, ready: Callable[[], bool], server: Server) -> None:
        health = Health(ready)
        health.add_to(server)
        self._healths.append(health)

    @property
    def missing(self) -> tuple[str, ...]:
        """Pools that are not in the snapshot."""
        return tuple(picker.pool for _, picker, _ in self._ports if not picker.is_ready())

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: an address cannot be bound.
        """
        for address, picker, server in self._ports:
            self.addresses[picker.pool] = await server.start(address, self._tls.context)
        if self._health_server is not None:
            self.health_address = await self._health_server.start(self._options.health_listen)

    def tick(self) -> None:
        """Look after certificates and watches of health; call it every second or so, and after a new snapshot."""
        self._tls.refresh()
        for health in self._healths:
            health.tell()

    async def stop(self) -> None:
        """Say that we are not ready, take calls for a while yet, let open requests end, then close.

        Gateways notice late that a picker is about to go, and would find nobody there. An answer passes here until its end,
        so cutting its stream cuts the answer.
        """
        options = self._options
        for health in self._healths:
            health.stop()
        await asyncio.sleep(options.drain_least)
        servers = [server for _, _, server in self._ports]
        if self._health_server is not None:
            servers.append(self._health_server)
        await asyncio.gather(*(server.stop(options.drain_most - options.drain_least) for server in servers))
