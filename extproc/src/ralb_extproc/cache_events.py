"""KV events for the application: nothing, and none of their libraries loaded, until a pool has them."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from ralb.v1.snapshot_pb2 import Pool
from ralb_extproc.feedback import Settled
from ralb_extproc.place import PodTable

if TYPE_CHECKING:
    from ralb_extproc.kvevents import KvView, Subscriber


class CacheEvents:
    """Follows the pools of each snapshot.

    Args:
        pods: the table.
        registry: where metrics are registered once there are any.
    """

    def __init__(self, pods: PodTable, registry: CollectorRegistry) -> None:
        self._pods = pods
        self._registry = registry
        self._parts: tuple[Subscriber, KvView] | None = None

    def update(self, pools: Iterable[Pool]) -> None:
        """Listen to the pods of these pools, after the table has them. Must be called on the event loop."""
        pools = tuple(pools)
        if self._parts is None:
            if not any(pool.kv_events.port for pool in pools):
                return
            from ralb_extproc.kvevents import KvCollector, KvView, Subscriber

            view = KvView(self._pods)
            self._parts = Subscriber(self._pods, view), view
            self._registry.register(KvCollector(*self._parts))
        self._parts[0].update(pools)

    def settled(self, settled: Settled) -> None:
        """Take note of how a request ended."""
        if self._parts is not None:
            self._parts[1].settled(settled, time.monotonic())

    def rows(self) -> list[dict[str, Any]]:
        """A row per pod that is listened to."""
        if self._parts is None:
            return []
        from ralb_extproc.kvevents import rows

        return rows(*self._parts)

    async def stop(self) -> None:
        """Listen no more."""
        if self._parts is not None:
            await self._parts[0].stop()
