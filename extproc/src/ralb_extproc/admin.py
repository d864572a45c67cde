"""The admin server: metrics, health and the pod table, for operators of the processor; never for its clients.

Binds to loopback unless told otherwise. Readiness is asked of the application with every call: a processor without a snapshot,
or one that is draining, is alive but not ready.
"""

import json
import math
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from ralb_extproc.place import PodTable
from ralb_extproc.place import columns as col

MAX_PODS_SHOWN: Final = 5000
_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class AdminServer:
    """HTTP on ``host:port``: ``/metrics``, ``/healthz``, ``/readyz``, ``/debug/pods``.

    Args:
        metrics: gives the page in the Prometheus text format.
        pods: the table to show.
        not_ready: why requests cannot be served now; "" when they can.
        clock: monotonic seconds, of the same clock as the table's times.
        host: address to bind.
        port: 0 = any free one; see ``port`` after ``start``.
    """

    def __init__(
        self,
        metrics: Callable[[], bytes],
        pods: PodTable,
        not_ready: Callable[[], str],
        clock: Callable[[], float],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._metrics = metrics
        self._pods = pods
        self._not_ready = not_ready
        self._clock = clock
        self._host = host
        self.port = port
        app = web.Application(client_max_size=1024)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/readyz", self._get_ready)
        app.router.add_get("/debug/pods", self._get_pods)
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

    async def _get_pods(self, request: web.Request) -> web.Response:
        pool = request.query.get("pool", "")
        body = {"pods": pod_rows(self._pods, self._clock(), pool)}
        return web.Response(text=json.dumps(body, allow_nan=False), content_type="application/json")


def pod_rows(pods: PodTable, now: float, pool: str = "") -> list[dict[str, Any]]:
    """The table for people: one dict per pod, at most ``MAX_PODS_SHOWN``; only one pool's if named."""
    rows: list[dict[str, Any]] = []
    for view in pods.views():
        if pool and view.pool != pool:
            continue
        block = pods.block(view)
        for i, address in enumerate(view.addresses):
            if len(rows) >= MAX_PODS_SHOWN:
                return rows
            state = [float(x) for x in block[:, i]]
            rows.append(
                {
                    "pool": view.pool,
                    "endpoint": address,
                    "waiting": state[col.WAITING],
                    "running": state[col.RUNNING],
                    "kv_usage": state[col.KV_USAGE],
                    "kv_capacity_tokens": state[col.KV_CAPACITY],
                    "age_seconds": _finite(now - state[col.SCRAPED_AT]),
                    "in_flight": state[col.INFLIGHT],
                    "in_flight_since_scrape": state[col.SINCE],
                    "prefill_tokens": state[col.PREFILL],
                    "decode_tokens": state[col.DECODE],
                    "prefill_rate": state[col.PREFILL_RATE],
                    "prefix_hit_rate": state[col.HIT_RATE] / state[col.QUERY_RATE]
                    if state[col.QUERY_RATE] > 0
                    else None,
                    "prefix_trust": state[col.HIT_TRUST],
                    "failures": int(state[col.FAILURES]),
                    "last_failure_seconds": _finite(now - state[col.FAILED_AT]),
                    "reachable": not state[col.UNREACHABLE],
                }
            )
    return rows


def _finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
