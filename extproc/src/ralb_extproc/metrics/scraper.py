"""Keeps the pod table's readings fresh: one small task per pod, each with its own kept-alive connection and interval.

What a pod says goes to ``PodTable.observe``; refused connections to ``unreachable``; everything else that goes wrong only lets
the last reading age. Trap: a slot may belong to another pod by the time an answer comes, so results are checked against the
slot's generation.
"""

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from ralb.v1.snapshot_pb2 import MetricsReport, Pool
from ralb_extproc.metrics.exposition import parse
from ralb_extproc.metrics.http import Connection, FetchError, Kind
from ralb_extproc.metrics.pace import FAST, Pace, next_interval
from ralb_extproc.metrics.series import Dialect, dialect
from ralb_extproc.metrics.troubles import SETTLED_S, Reading, report
from ralb_extproc.place import PodSample, PodTable
from ralb_extproc.place import columns as col

_log = logging.getLogger(__name__)
_JITTER: Final = 0.1
_SPREAD_SECONDS: Final = 0.001  # per pod, for the first scrapes of many new ones
# CPU the event loop spends on one exchange, besides parsing the page; measured on one slow core.
_EXCHANGE_SECONDS: Final = 0.0002
_MAX_WARNED: Final = 1000


@dataclass(slots=True)
class Target:
    """A pod being scraped.

    Attributes:
        pool / address / slot / generation: who it is in the table.
        dialect: the series to look for.
        full / filtered: the request for the whole page, and for only the series needed, where the server can do that.
        use_filter: whether the filtered page is known (or still hoped) to have what is needed.
        reading: how it goes.
    """

    pool: str
    address: str
    slot: int
    generation: int
    dialect: Dialect
    full: bytes
    filtered: bytes
    use_filter: bool
    reading: Reading


# Pool, metrics path, dialect and generation of the slot: what changes them makes another target.
_Key = tuple[str, str, Dialect, int]


class Scraper:
    """Scrapes all pods of the table that have metrics.

    Args:
        pods: the table to write to.
        pace: the CPU budget.
        timeout: seconds one scrape may take.
        clock: monotonic seconds, the table's clock.

    Attributes:
        scrapes: how many succeeded.
        bytes_read: sum of the sizes of their pages.
        errors: how many failed, by kind.
        unusable: how many series had a value that cannot be: not a number, negative, or beyond reason.
    """

    def __init__(
        self,
        pods: PodTable,
        pace: Pace | None = None,
        timeout: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pods = pods
        self.pace = pace if pace is not None else Pace()
        self._timeout = timeout
        self._clock = clock
        self._tasks: dict[_Key, asyncio.Task[None]] = {}
        self._targets: dict[_Key, Target] = {}
        self._warned: set[tuple[str, str]] = set()
        self._began = math.inf
        self.scrapes = 0
        self.bytes_read = 0
        self.errors: Counter[str] = Counter()
        self.unusable = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def update(self, pools: Iterable[Pool]) -> None:
        """Follow the table after its own update with the same pools. Must be called on the event loop."""
        self._began = min(self._began, self._clock())
        wanted: dict[_Key, Target] = {}
        for pool in pools:
            view = self._pods.view(pool.id)
            known = dialect(pool.engine, speculating=pool.speculative_tokens > 0)
            if view is None or known is None or not pool.metrics_path:
                continue
            names = {endpoint.address: endpoint.name for endpoint in pool.endpoints}
            for address, slot in zip(view.addresses, view.slots, strict=True):
                key = self._pods.key(slot)
                if key is not None:
                    reading = Reading(pool.id, names.get(address) or address)
                    target = _target(pool, address, slot, key.generation, known, reading)
                    wanted[pool.id, pool.metrics_path, known, key.generation] = target
        for gone in self._tasks.keys() - wanted.keys():
            self._tasks.pop(gone).cancel()
            del self._targets[gone]
        for new in wanted.keys() - self._tasks.keys():
            target = self._targets[new] = wanted[new]
            self._tasks[new] = asyncio.get_running_loop().create_task(
                self._run(target), name=f"scrape {target.address}"
            )

    async def stop(self) -> None:
        """End all tasks and close their connections."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        self._targets.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def missing(self) -> Counter[tuple[str, str]]:
        """Pods whose page lacks a needed series, counted by (pool id, series)."""
        out: Counter[tuple[str, str]] = Counter()
        for target in self._targets.values():
            for series in target.reading.missing:
                out[target.pool, series] += 1
        return out

    def failing(self) -> Counter[tuple[str, str]]:
        """Pods whose last scrape failed, counted by (pool id, kind)."""
        readings = (target.reading for target in self._targets.values())
        return Counter((reading.pool, reading.error) for reading in readings if reading.error)

    def report(self) -> MetricsReport | None:
        """What cannot be read, and has not been for a while; None at first, when that cannot be told yet."""
        now = self._clock()
        if now - self._began < SETTLED_S:
            return None
        return report((target.reading for target in self._targets.values()), now)

    async def _run(self, target: Target) -> None:
        host, _, port = target.address.rpartition(":")
        if not host or not port.isdigit() or not target.full:
            target.reading.failed(Kind.ADDRESS, self._clock())
            self.errors[Kind.ADDRESS] += 1
            _log.error("pool %s: cannot scrape %r: not ip:port, or a bad metrics path", target.pool, target.address)
            return
        connection = Connection(host.strip("[]"), int(port))
        interval = FAST
        load = (-1.0, -1.0)
        try:
            await asyncio.sleep(random.random() * max(FAST, _SPREAD_SECONDS * len(self._tasks)))
            while True:
                failed = changed = False
                try:
                    sample = await self._scrape(target, connection)
                except FetchError as error:
                    failed = True
                    self._failed(target, error)
                except Exception:
                    failed = True
                    self._failed(target, FetchError(Kind.PROTOCOL))
                    if self.errors[Kind.PROTOCOL] % 1000 == 1:
                        _log.exception("pool %s: the page of %s could not be read", target.pool, target.address)
                else:
                    now_load = (sample.waiting or 0.0, sample.running or 0.0)
                    changed, load = now_load != load, now_load
                busy = bool(self._pods.data[col.INFLIGHT, target.slot] > 0.0)
                interval = next_interval(interval, busy=busy, changed=changed, failed=failed)
                wait = self.pace.stretched(interval) * (1.0 + _JITTER * (random.random() - 0.5))
                due = self._clock() + wait
                await asyncio.sleep(wait)
                now = self._clock()
                self.pace.woke(now, now - due)
        finally:
            connection.close()

    async def _scrape(self, target: Target, connection: Connection) -> PodSample:
        page, sample = await self._fetch_filtered(target, connection) or await self._fetch(
            target, connection, target.full
        )
        self.scrapes += 1
        self.bytes_read += len(page)
        self.unusable += sample.unusable
        if target.reading.lacks(sample.missing, self._clock()):
            self._warn(target)
        if self._pods.is_current(target.slot, target.generation):
            self._pods.observe(target.slot, sample, self._clock())
        return sample

    async def _fetch_filtered(self, target: Target, connection: Connection) -> tuple[bytes, PodSample] | None:
        """The page of only what is needed. None, from then on, from a server that filters otherwise or refuses to."""
        if not target.use_filter:
            return None
        try:
            page, sample = await self._fetch(target, connection, target.filtered)
            # A page that lacks only what says how well it speculates is whole: all of it would lack that too.
            if sample.tells_load and sample.kv_usage is not None:
                return page, sample
        except FetchError as error:
            if error.kind is not Kind.STATUS:
                raise
        target.use_filter = False
        return None

    async def _fetch(self, target: Target, connection: Connection, request: bytes) -> tuple[bytes, PodSample]:
        started = self._clock()
        page = await connection.get(request, self._timeout)
        before = time.perf_counter()
        sample = parse(page, target.dialect, started)
        self.pace.spent(time.perf_counter() - before + _EXCHANGE_SECONDS)
        return page, sample

    def _failed(self, target: Target, error: FetchError) -> None:
        target.reading.failed(error.kind, self._clock())
        self.errors[error.kind] += 1
        if error.kind is Kind.REFUSED and self._pods.is_current(target.slot, target.generation):
            self._pods.unreachable(target.slot, self._clock())

    def _warn(self, target: Target) -> None:
        for series in target.reading.missing:
            if (target.pool, series) not in self._warned and len(self._warned) < _MAX_WARNED:
                self._warned.add((target.pool, series))
                _log.warning(
                    "pool %s: %s does not export %s, which placement needs",
                    target.pool,
                    target.address,
                    series,
                )


def _target(pool: Pool, address: str, slot: int, generation: int, known: Dialect, reading: Reading) -> Target:
    path = pool.metrics_path
    usable = path.startswith("/") and path.isascii() and path.isprintable() and " " not in path
    usable = usable and address.isascii() and address.isprintable() and " " not in address
    full = filtered = b""
    if usable:
        # Servers built on prometheus_client (vLLM's is) give only the series named by name[]: 3 kB for 57.
        names = "&".join(f"name%5B%5D={quote(name.decode(), safe='')}" for name in sorted(known.names))
        full = _get(path, address)
        filtered = _get(f"{path}{'&' if '?' in path else '?'}{names}", address)
    return Target(pool.id, address, slot, generation, known, full, filtered, known.filters, reading)


def _get(path: str, host: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/plain\r\nUser-Agent: ralb\r\n\r\n".encode("ascii")
