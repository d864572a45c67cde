"""The processor's admin server: beside metrics and health, the pod table.

Readiness is asked of the application with every call: a processor without a snapshot, or one that is draining, is alive but not
ready.
"""

import json
import math
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from ralb_api import admin
from ralb_extproc.place import PodTable
from ralb_extproc.place import columns as col

MAX_PODS_SHOWN: Final = 5000


class AdminServer(admin.AdminServer):
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
        super().__init__(metrics, not_ready, {"/debug/pods": self._get_pods}, host, port)
        self._pods = pods
        self._clock = clock

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
