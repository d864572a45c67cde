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
    """HTTP on ``host:port``: ``/metrics``, ``/healthz``, ``/readyz``, ``/debug/pods``, ``/debug/kv-events``.

    Args:
        metrics: gives the page in the Prometheus text format.
        pods: the table to show.
        not_ready: why requests cannot be served now; "" when they can.
        clock: monotonic seconds, of the same clock as the table's times.
        host: address to bind.
        port: 0 = any free one; see ``port`` after ``start``.
        cache_events: gives a row for each pod whose KV events are read.
    """

    def __init__(
        self,
        metrics: Callable[[], bytes],
        pods: PodTable,
        not_ready: Callable[[], str],
        clock: Callable[[], float],
        host: str = "127.0.0.1",
        port: int = 0,
        cache_events: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        pages = {"/debug/pods": self._get_pods, "/debug/kv-events": self._get_cache_events}
        super().__init__(metrics, not_ready, pages, host, port)
        self._cache_events = cache_events
        self._pods = pods
        self._clock = clock

    async def _get_pods(self, request: web.Request) -> web.Response:
        pool = request.query.get("pool", "")
        return _json({"pods": pod_rows(self._pods, self._clock(), pool)})

    async def _get_cache_events(self, request: web.Request) -> web.Response:
        return _json({"pods": self._cache_events()})


def _json(body: Any) -> web.Response:
    return web.Response(text=json.dumps(body, allow_nan=False), content_type="application/json")


def pod_rows(pods: PodTable, now: float, pool: str = "") -> list[dict[str, Any]]:
    """The table for people: one dict per pod, at most ``MAX_PODS_SHOWN``; only one pool's if named."""
    rows: list[dict[str, Any]] = []
    for view in pods.views():
        if pool and view.pool != pool:
            continue
        block = pods.block(view)
        shown = pods.ward.shown(view.select, pods.data, now)
        for i, address in enumerate(view.addresses):
            if len(rows) >= MAX_PODS_SHOWN:
                return rows
            state = [float(x) for x in block[:, i]]
            condition, why = pods.ward.condition(view.slots[i], pods.data, now)
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
                    "token_seconds": state[col.ITL] or None,
                    "tokens_per_step": state[col.ACCEPTANCE],
                    "prompt_token_rate": state[col.PROMPT_RATE],
                    "generation_token_rate": state[col.GENERATION_RATE],
                    "preemption_rate": state[col.PREEMPTION_RATE],
                    "failures": int(state[col.FAILURES]),
                    "last_failure_seconds": _finite(now - state[col.FAILED_AT]),
                    "reachable": not state[col.UNREACHABLE],
                    "health": condition,
                    "why": why,
                    **{name: round(of[i], 4) for name, of in shown.items() if name != "health"},
                }
            )
    for key, flights, until in pods.draining():
        if (not pool or key.pool == pool) and len(rows) < MAX_PODS_SHOWN:
            seconds = round(max(0.0, until - now), 3)
            row = {"pool": key.pool, "endpoint": key.address, "in_flight": flights, "health": "Draining"}
            rows.append({**row, "drain_seconds": seconds})
    return rows


def _finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
