"""The control plane as one thing: a view goes in; Envoys, processors and a result come out."""

import asyncio
import time
from dataclasses import dataclass

from ralb_operator.compile import Result, compile_view
from ralb_operator.publish import Publisher, PublishReport
from ralb_operator.quarantine import Quarantine, without
from ralb_operator.serving import Serving, serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.tls import ServerTls
from ralb_operator.view import View
from ralb_operator.xds.server import AdsServer


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a view.

    Attributes:
        result: as compiled, without pools that Envoy refuses.
        report: how its publication went.
    """

    result: Result
    report: PublishReport


class ControlPlane:
    """Serves Envoys and processors at one address.

    Args:
        listen: ``unix:/path`` or ``host:port``.
        tls: see ``serving.serve``.

    Attributes:
        compile_s: seconds the last compile took.
    """

    def __init__(self, listen: str, tls: ServerTls | None = None) -> None:
        self._listen = listen
        self._tls = tls
        self.ads = AdsServer()
        self.snapshots = SnapshotServer()
        self.publisher = Publisher(self.ads, self.snapshots)
        self._quarantine = Quarantine()
        self._serving: Serving | None = None
        self._compiling = asyncio.Lock()
        self._view: View | None = None
        self.compile_s = 0.0

    async def start(self) -> None:
        """Bind and serve; with TLS, once there is material.

        Raises:
            OSError: the address cannot be bound.
        """
        if self._tls is not None:
            await self._tls.keeper.wait()
        self._serving = await serve(self._listen, self.ads, self.snapshots, self._tls)

    async def apply(self, view: View) -> Applied:
        """Compile a view and publish it; of views that come meanwhile the newest wins.

        Pools that an Envoy refuses are left out and the rest is published again, so the report is about what is in force.
        """
        self._view = view
        async with self._compiling:
            # Calls that waited here compile the newest view too; the publisher then sees nothing new.
            newest = self._view
            result = await asyncio.to_thread(self._compile, newest)
        # Nothing may be awaited between compiling and publishing, lest an older result is published after a newer one.
        report = await self.publisher.publish(result.xds, result.snapshot)
        if self._quarantine.add(report.nacks):
            return await self.apply(self._view)
        return Applied(result, report)

    def _compile(self, view: View) -> Result:
        start = time.monotonic()
        result = compile_view(view)
        refused = self._quarantine.pools(result)
        if refused:
            result = compile_view(without(view, refused))
        self.compile_s = time.monotonic() - start
        return result

    async def stop(self) -> None:
        """End all streams. Envoys and processors go on with what they have."""
        await self.publisher.close()
        if self._serving is not None:
            await self._serving.stop(0.5)
