"""The admin server of a process: metrics, health and readiness, for those who run it; never for its clients.

What a process has to tell besides may not enter: it adds its own pages. Binds to loopback unless told otherwise.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminServer:
    """HTTP on ``host:port``: ``/metrics``, ``/healthz``, ``/readyz`` and the pages that are added.

    Args:
        metrics: gives the page in the Prometheus text format.
        not_ready: asked with every call: why the process cannot do its work now; "" when it can.
        pages: path -> what answers a GET.
        host: address to bind.
        port: 0 = any free one; see ``port`` after ``start``.
    """

    def __init__(
        self,
        metrics: Callable[[], bytes],
        not_ready: Callable[[], str],
        pages: Mapping[str, Handler] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._metrics = metrics
        self._not_ready = not_ready
        self._host = host
        self.port = port
        app = web.Application(client_max_size=1024)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/readyz", self._get_ready)
        for path, handler in (pages or {}).items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Bind and serve; raises OSError when the address is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": _CONTENT_TYPE})

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_ready(self, request: web.Request) -> web.Response:
        reason = self._not_ready()
        return web.Response(text=f"{reason or 'ready'}\n", status=503 if reason else 200)
