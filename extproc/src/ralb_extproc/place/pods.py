"""The pod table: all that is known of every pod, one slot per (pool, endpoint).

Written by the snapshot (``update``), the request path (``begin``, ``finish``, ``first_token``), the scraper (``observe``,
``unreachable``) and the access log (``fail``, ``succeed``, ``limit``); read by ``place``. Slots are stable while the endpoint
stays; after that they are used again under a new generation, so late news of a gone pod cannot hit its successor. Everything
runs on one event loop; nothing here blocks, awaits or reads a clock. Times are monotonic seconds given by the caller.
"""

from collections import deque
from collections.abc import Container, Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from ralb.v1.snapshot_pb2 import Balancing, Pool
from ralb_extproc.place import columns as col
from ralb_extproc.place.adapters import Residency
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.clock import Clock
from ralb_extproc.place.columns import Bools, Floats
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.flow import Flow, count_read, count_served, flow
from ralb_extproc.place.health import Rules
from ralb_extproc.place.ledger import NO_INFO, Flight, FlightInfo, Ledger
from ralb_extproc.place.load import STEADY_SECONDS, Steady, steady
from ralb_extproc.place.model import SpeedModel
from ralb_extproc.place.observe import Observer
from ralb_extproc.place.prefix import Prefix, PrefixIndex
from ralb_extproc.place.prefixes import PoolPrefixes
from ralb_extproc.place.sample import PodSample
from ralb_extproc.place.strategies import new_strategy
from ralb_extproc.place.strategy import Scene, Served, Strategy
from ralb_extproc.place.views import Change, PodKey, PoolView, select
from ralb_extproc.place.ward import UNREACHABLE_AS, Care, Ward, probe_wait, rules_of

MAX_PODS: Final = 16_384
# A request reaches the engine's gauges this long after we placed it: network, tokenizer, one step.
SETTLE_SECONDS: Final = 0.05
_STALE_SECONDS: Final = 1.0
_RECENT_LIMIT: Final = 4096
_PREFILL_RATE_MIN: Final = 100.0
_PREFILL_RATE_MAX: Final = 1e6
_PREFILL_LEARN_TOKENS: Final = 256
_LEARN: Final = 0.05
_TRUST_MIN: Final = 0.05


class PodTable:
    """State of all pods.

    Args:
        ledger_limit: most requests in flight that are tracked; beyond it the oldest is let go.
        ttl: seconds after which a flight without outcome is let go.
        prefix_entries: most pairs of pod and block in all pools' prefix indexes together, 110 to 240 bytes each.
        settle: seconds from placing a request until the pod's own gauges count it.
    """

    def __init__(
        self,
        *,
        ledger_limit: int = 50_000,
        ttl: float = 900.0,
        prefix_entries: int = 524_288,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self.ledger = Ledger(ledger_limit, ttl)
        self.data: Floats = col.empty(16)
        self.lost = 0  # flights let go without an outcome
        self._keys: list[PodKey | None] = [None] * 16
        self._generation = 0
        self._slot_of: dict[tuple[str, str], int] = {}
        self._recent: list[deque[Flight]] = [deque() for _ in range(16)]
        self._views: dict[str, PoolView] = {}
        self._steady: dict[str, Steady] = {}
        self._flow: dict[str, Flow] = {}
        self._strategies: dict[str, Strategy] = {}
        self._balancing: dict[str, Balancing] = {}
        self._prefixes = PoolPrefixes(prefix_entries)
        self._residency = Residency()
        self._models: dict[str, SpeedModel] = {}
        self._clock = Clock()
        self._settle = settle
        self.observer = Observer()
        self.ward = Ward(16)
        self._draining: dict[
            int, float
        ] = {}  # slots of pods that left with flights of ours -> until when they are kept

    # ---- which pods there are ----

    def __len__(self) -> int:
        return len(self._slot_of)

    def view(self, pool: str) -> PoolView | None:
        """The slots of a pool; None for a pool without endpoints or one not known."""
        return self._views.get(pool)

    def views(self) -> Iterable[PoolView]:
        """All pools that have endpoints."""
        return self._views.values()

    def block(self, view: PoolView) -> Floats:
        """The columns of a pool, (columns x pods); valid until the next update, not to be written."""
        return self.data[:, view.select]

    def steady(self, view: PoolView, now: float) -> Steady:
        """What holds for some milliseconds about a pool's pods; computed again when it is too old or a pod's state jumps.

        Of a part of a pool (``PoolView.narrowed``) nothing is kept.
        """
        whole = self._views.get(view.pool)
        found = self._steady.get(view.pool) if whole is view else None
        if found is None or not 0.0 <= now - found.at <= STEADY_SECONDS:
            found = steady(self.block(view), view.cap, now, self.care(view, now))
            if whole is view:
                self._steady[view.pool] = found
        return found

    def care(self, view: PoolView, now: float) -> Care:
        """How well a pool's pods are, and what share of the work each may have for it."""
        whole = self._views.get(view.pool, view)
        return self.ward.care(view.pool, whole.select, view.select, self.data, now)

    def flow(self, view: PoolView, now: float) -> Flow:
        """How fast a pool works, and how much is too much for it; some milliseconds old at most."""
        found = self._flow.get(view.pool)
        if found is None or not 0.0 <= now - found.at <= STEADY_SECONDS:
            found = flow(self.block(view), self.steady(view, now), self.care(view, now).share, now, found)
            if self._views.get(view.pool) is view:
                self._flow[view.pool] = found
        return found

    def strategy(self, view: PoolView) -> Strategy:
        """How a pool's pods are compared."""
        return self._strategies[view.pool]

    def model(self, pool: str) -> SpeedModel | None:
        """What is learned of a pool's speed; None for a pool not known."""
        return self._models.get(pool)

    def hash_key(self, pool: str, ask: Ask, now: float) -> str:
        """What Envoy is to hash where it chooses a pool's pod itself; "" = nothing."""
        strategy = self._strategies.get(pool)
        return strategy.hash_key(ask, now) if strategy is not None else ""

    def balanced_by(self, pool: str) -> str:
        """Name of a pool's strategy; "" for a pool not known."""
        strategy = self._strategies.get(pool)
        return strategy.name if strategy is not None else ""

    def scene(self, view: PoolView, ask: Ask, now: float, dice: Dice) -> Scene:
        """What the strategy of a pool compares its pods by."""
        block = self.block(view)
        hits = None
        state = self.steady(view, now)
        if self._strategies[view.pool].uses_prefix:
            hits = self.prefix_hits(ask.prefix, view, ask.input_tokens)
            if hits is not None and state.belief is not None:
                hits *= state.belief
        resident = self.adapters(view, ask.adapter) if ask.adapter else None
        overdrawn = self.ward.overdrawn(view.select) if state.reduced is not None else None
        model = self._models[view.pool]
        return Scene(view, block, state, hits, ask, now, dice, model, resident, overdrawn)

    def slot(self, pool: str, address: str) -> int | None:
        """The slot of an endpoint, or None."""
        return self._slot_of.get((pool, address))

    def key(self, slot: int) -> PodKey | None:
        """Who a slot is now."""
        return self._keys[slot] if 0 <= slot < len(self._keys) else None

    def is_current(self, slot: int, generation: int) -> bool:
        """Whether a slot still is the pod it was under that generation."""
        key = self.key(slot)
        return key is not None and key.generation == generation

    def update(self, pools: Iterable[Pool], now: float) -> Change:
        """Take over the endpoints of a snapshot; surviving ones keep their state.

        A pod that joins a pool already served by others starts slowly; those found at the pool's first appearance do not.
        One that is draining takes no new work; it is kept while requests of ours are in flight there, for the pool's time.
        Endpoints beyond ``MAX_PODS`` are left out and counted in ``refused``.
        """
        wanted: dict[str, tuple[tuple[str, ...], int]] = {}
        balancing: dict[str, Balancing] = {}
        total = refused = 0
        adapters: dict[str, frozenset[str]] = {}
        rules: dict[str, Rules] = {}
        leaving: set[tuple[str, str]] = set()
        for pool in pools:
            balancing[pool.id] = pool.balancing
            rules[pool.id] = rules_of(pool)
            leaving.update((pool.id, each.address) for each in pool.endpoints if each.draining)
            adapters[pool.id] = frozenset(pool.model.adapters)
            addresses = tuple(sorted({e.address for e in pool.endpoints if e.address and not e.draining}))
            room = MAX_PODS - total
            refused += max(0, len(addresses) - room)
            addresses = addresses[:room]
            total += len(addresses)
            if addresses:
                wanted[pool.id] = (addresses, pool.concurrency_per_replica)
        self.ward.follow(rules)
        self._expire(now, leaving)
        dropped: list[int] = []
        for pool_id, view in self._views.items():
            keep = set(wanted[pool_id][0]) if pool_id in wanted else frozenset()
            for address, slot in zip(view.addresses, view.slots, strict=True):
                if address not in keep:
                    if (pool_id, address) in leaving and self.data[col.INFLIGHT, slot] > 0.0:
                        self._drain(pool_id, address, slot, now + rules[pool_id].drain)
                    else:
                        self._drop(pool_id, address, slot)
                    dropped.append(slot)
        added: list[int] = []
        views: dict[str, PoolView] = {}
        for pool_id, (addresses, cap) in wanted.items():
            old = self._views.get(pool_id)
            if old is not None and old.addresses == addresses and old.cap == cap:
                views[pool_id] = old
                continue
            new = [a for a in addresses if (pool_id, a) not in self._slot_of]
            for address, slot in zip(new, self._allocate(len(new)), strict=True):
                self._enter(pool_id, address, slot, now if old is not None else -np.inf)
                added.append(slot)
            slots = tuple(self._slot_of[pool_id, a] for a in addresses)
            views[pool_id] = PoolView(pool_id, addresses, slots, select(slots), cap)
        self._views = views
        self._steady.clear()
        # What is kept tells whether a pool was saturated; its age makes it be computed again.
        self._flow = {pool: replace(kept, at=-np.inf) for pool, kept in self._flow.items() if pool in views}
        self._models = {pool: self._models.get(pool) or SpeedModel() for pool in views}
        self._strategies = {
            pool: self._strategies[pool] if said == self._balancing.get(pool) else new_strategy(said)
            for pool, said in balancing.items()
        }
        self._balancing = balancing
        self._prefixes.follow(views, self.data)
        self._residency.follow(adapters)
        return Change(tuple(added), tuple(dropped), refused)

    def _allocate(self, count: int) -> list[int]:
        """Free slots, adjacent ones if there are any so many, growing the table when it is full."""
        if not count:
            return []
        free = [i for i, key in enumerate(self._keys) if key is None]
        if len(free) < count:
            have = len(self._keys)
            more = max(have, count)
            self.data = np.concatenate([self.data, col.empty(more)], axis=1)
            self.ward.grow(more)
            self._keys.extend([None] * more)
            self._recent.extend(deque() for _ in range(more))
            free.extend(range(have, have + more))
        for i in range(len(free) - count + 1):
            if free[i + count - 1] - free[i] == count - 1:
                return free[i : i + count]
        return free[:count]

    def _enter(self, pool: str, address: str, slot: int, first_seen: float) -> None:
        self._generation += 1
        self._keys[slot] = PodKey(pool, address, self._generation)
        self._slot_of[pool, address] = slot
        col.reset(self.data, slot)
        self.data[col.FIRST_SEEN, slot] = first_seen
        view = self._views.get(pool)
        peer = (
            next((s for a, s in zip(view.addresses, view.slots, strict=True) if (pool, a) in self._slot_of), -1)
            if view
            else -1
        )
        if peer >= 0:
            self.data[col.PREFILL_RATE, slot] = self.data[col.PREFILL_RATE, peer]

    def _drop(self, pool: str, address: str, slot: int) -> None:
        del self._slot_of[pool, address]
        self._forget(pool, slot)
        self._free(slot)

    def _free(self, slot: int) -> None:
        self._draining.pop(slot, None)
        self._keys[slot] = None
        self._recent[slot] = deque()
        col.reset(self.data, slot)
        self.ward.reset(slot)
        self.observer.forget(slot)
        self._clock.forget(slot)

    def _drain(self, pool: str, address: str, slot: int, until: float) -> None:
        """The pod leaves, but not its flights: it is in no view and has no address any more, but still is who it was."""
        del self._slot_of[pool, address]
        self._forget(pool, slot)
        self._draining[slot] = until

    def _expire(self, now: float, leaving: Container[tuple[str, str]] | None = None) -> None:
        """Let go of draining pods whose time is over, or which are not among those leaving any more."""
        for slot, until in list(self._draining.items()):
            key = self._keys[slot]
            if now >= until or key is None or (leaving is not None and (key.pool, key.address) not in leaving):
                self._free(slot)

    def draining(self) -> Iterable[tuple[PodKey, float, float]]:
        """Pods that left with flights of ours: who, how many flights, until when they are waited for."""
        for slot, until in self._draining.items():
            key = self._keys[slot]
            if key is not None:
                yield key, float(self.data[col.INFLIGHT, slot]), until

    def _member(self, slot: int) -> PodKey | None:
        """Who a slot is, if it is in its pool's view: not nobody, and not draining."""
        key = self.key(slot)
        return key if slot not in self._draining else None

    def _forget(self, pool: str, slot: int) -> None:
        """The pod's cache is gone, and what a strategy remembers of it."""
        self._prefixes[pool].forget(slot)
        self._strategies[pool].forget(slot)
        self._residency.forget(pool, slot)

    # ---- prefixes ----

    @property
    def prefix_entries(self) -> int:
        """Entries in the prefix indexes of all pools."""
        return len(self._prefixes)

    def prefix_hits(self, prefix: Prefix, view: PoolView, tokens: int) -> Floats | None:
        """See ``PrefixIndex.hits``; by position in the view."""
        return self._prefixes.hits(prefix, view, tokens)

    def record_prefix(self, prefix: Prefix, slot: int, tokens: int = 0) -> None:
        """Note that a pod was sent a prompt of so many tokens; 0 = not known."""
        key = self._member(slot)
        if key is not None:
            self._prefixes[key.pool].record(prefix, slot, tokens)

    def prefix_index(self, slot: int) -> PrefixIndex | None:
        """The index of a pod's pool, for what the pod itself says of its cache; None for a slot that is nobody's."""
        key = self._member(slot)
        return self._prefixes[key.pool] if key is not None else None

    def adapters(self, view: PoolView, name: str) -> Bools | None:
        """Which pods of a view hold a LoRA adapter, by position; None if none is known to. Not to be written."""
        return self._residency.mask(view, name, whole=self._views.get(view.pool) is view)

    # ---- requests ----

    def placed(self, slot: int, ask: Ask, now: float) -> None:
        """A request was charged to a pod: it will hold the prompt soon, and the strategy is told."""
        key = self._member(slot)
        if key is not None:
            self._prefixes[key.pool].record(ask.prefix, slot, ask.input_tokens)
            self._strategies[key.pool].placed(self._views[key.pool], slot, ask, now)

    def sent(self, pool: str, ask: Ask, now: float) -> None:
        """A request was sent to a pool of which Envoy chooses the pod; the strategy is told."""
        strategy = self._strategies.get(pool)
        if strategy is not None:
            strategy.sent(ask, now)

    def begin(
        self, request_id: str, slot: int, prefill: float, decode: float, now: float, info: FlightInfo = NO_INFO
    ) -> None:
        """Charge a request to a pod.

        Args:
            request_id: key for ``finish``. Beginning an id again releases its earlier flight.
            slot: the pod; -1 for a request of which Envoy chooses the endpoint: tracked, charged to nobody.
            prefill: uncached prompt tokens.
            decode: expected answer tokens.
            now: monotonic seconds.
            info: returned with the flight.
        """
        key = self.key(slot)
        flight = Flight(request_id, slot, key.generation if key else -1, prefill, decode, prefill, now, info=info)
        left = self.ledger.add(flight)
        if left is not None:
            self._release(left)
            self.lost += 1
        if key is None:
            return
        data = self.data
        model = self._models.get(key.pool)
        if model is not None:
            note = flight.note = self._clock.note(data, slot, max(0.0, info.input_tokens - prefill), prefill, now)
            self._clock.placed(data, slot, note, model, now)
        data[col.CONTEXT, slot] += info.input_tokens
        data[col.SINCE_TOKENS, slot] += prefill
        seen = float(data[col.SEEN, slot])
        flight.load = max(float(data[col.INFLIGHT, slot]), seen)
        flight.queued = bool(data[col.WAITING, slot] > 0.0 and now - data[col.SCRAPED_AT, slot] < _STALE_SECONDS)
        data[col.INFLIGHT, slot] += 1.0
        data[col.PREFILL, slot] += prefill
        data[col.DECODE, slot] += decode
        data[col.SINCE, slot] += 1.0
        data[col.SEEN, slot] = seen + 1.0
        since = max(0.0, now - float(data[col.BACKLOG_AT, slot]))
        flight.ahead = max(0.0, float(data[col.BACKLOG, slot]) - float(data[col.PREFILL_RATE, slot]) * since)
        data[col.BACKLOG, slot] = flight.ahead + prefill
        data[col.BACKLOG_AT, slot] = now
        if data[col.FAILURES, slot]:
            data[col.PROBE_AT, slot] = now + probe_wait(float(data[col.FAILURES, slot]))
            self._steady.pop(key.pool, None)
        view = self._views.get(key.pool)
        if view is not None and self.ward.placed(key.pool, view.select, slot, now):
            self._steady.pop(key.pool, None)
        flight.recent = True
        recent = self._recent[slot]
        recent.append(flight)
        while recent and (not recent[0].open or len(recent) > _RECENT_LIMIT):
            self._leave_recent(recent.popleft())

    def first_token(self, request_id: str) -> None:
        """Note that a request's prefill is done; its prefill tokens leave the pod's account."""
        flight = self.ledger.get(request_id)
        if flight is not None and self.is_current(flight.slot, flight.generation):
            self.data[col.PREFILL, flight.slot] -= flight.prefill
            flight.prefill = 0.0

    def finish(self, request_id: str) -> Flight | None:
        """End a flight and release its load; returns it, or None if it is not (or no longer) known."""
        flight = self.ledger.take(request_id)
        if flight is not None:
            self._release(flight)
        return flight

    def sweep(self, now: float) -> int:
        """Let go of flights older than the time limit; returns how many. Call every few seconds."""
        expired = self.ledger.expired(now)
        for flight in expired:
            self._release(flight)
        self.lost += len(expired)
        self._expire(now)
        return len(expired)

    def _release(self, flight: Flight) -> None:
        flight.open = False
        slot = flight.slot
        if not self.is_current(slot, flight.generation):
            return
        data = self.data
        if flight.recent:
            self._leave_recent(flight)
        else:  # the last reading still counts it
            data[col.SEEN, slot] = max(float(data[col.SINCE, slot]), float(data[col.SEEN, slot]) - 1.0)
        data[col.INFLIGHT, slot] -= 1.0
        if data[col.INFLIGHT, slot] <= 0.0:  # nothing in flight: also wipe what rounding left
            data[col.FREE_AT, slot] = -np.inf
            data[[col.INFLIGHT, col.PREFILL, col.DECODE, col.CONTEXT], slot] = 0.0
            if slot in self._draining:
                self._free(slot)
        else:
            data[col.PREFILL, slot] -= flight.prefill
            data[col.DECODE, slot] -= flight.decode
            data[col.CONTEXT, slot] -= flight.info.input_tokens

    def _leave_recent(self, flight: Flight) -> None:
        if flight.recent:
            flight.recent = False
            self.data[col.SINCE, flight.slot] -= 1.0
            self.data[col.SINCE_TOKENS, flight.slot] -= flight.uncached
            self.data[col.SEEN, flight.slot] -= 1.0

    # ---- what pods say ----

    def observe(self, slot: int, sample: PodSample, now: float) -> None:
        """Take over a reading. One that lacks the load leaves the last load to age."""
        key = self._member(slot)
        if key is None:
            return
        data = self.data
        if now - data[col.SCRAPED_AT, slot] > _STALE_SECONDS:
            self._steady.pop(key.pool, None)
        if data[col.UNREACHABLE, slot] and sample.started > data[col.FAILED_AT, slot]:
            self._came_back(slot, key.pool, now)
        if self.ward.read(slot, sample, now):
            self._steady.pop(key.pool, None)
        if sample.kv_usage is not None:
            data[col.KV_USAGE, slot] = sample.kv_usage
        if sample.kv_capacity is not None and sample.kv_capacity != data[col.KV_CAPACITY, slot]:
            data[col.KV_CAPACITY, slot] = sample.kv_capacity
            self._prefixes.measure(self._views[key.pool], data)
        if self.observer.take(data, slot, sample):
            # A new process: its cache is empty.
            self._forget(key.pool, slot)
            self._restarted(slot, key.pool, sample.started)
        self._residency.take(self._views[key.pool], slot, sample.adapters, sample.adapter_room)
        if sample.waiting is None or sample.running is None:
            return
        count_read(data, slot, sample)
        data[col.WAITING, slot] = sample.waiting
        data[col.RUNNING, slot] = sample.running
        data[col.SCRAPED_AT, slot] = min(now, sample.started)
        cutoff = sample.started - self._settle
        recent = self._recent[slot]
        while recent and (not recent[0].open or recent[0].begun < cutoff):
            self._leave_recent(recent.popleft())
        data[col.SEEN, slot] = sample.waiting + sample.running + data[col.SINCE, slot]
        if not data[col.SINCE, slot]:
            data[col.SINCE_TOKENS, slot] = 0.0  # wipes what rounding left
        model = self._models.get(key.pool)
        if model is not None:
            self._clock.read(data, slot, sample.waiting, cutoff, model)

    def unreachable(self, slot: int, now: float) -> None:
        """The scraper was refused a connection: the pod goes last until it answers a scrape or a request.

        It is still probed by a request now and then, since the scraper's way to it may be shut alone. Its cache is gone.
        """
        key = self._member(slot)
        if key is not None and not self.data[col.UNREACHABLE, slot]:
            self.data[col.FAILURES, slot] = max(UNREACHABLE_AS, float(self.data[col.FAILURES, slot]))
            self._put_last(slot, key.pool, now)
            self.data[col.UNREACHABLE, slot] = 1.0
            self._forget(key.pool, slot)

    # ---- how requests went ----

    def fail(self, slot: int, now: float, *, refused: bool = False, begun: float = np.inf) -> None:
        """A request failed on the pod: it goes last until its next probe, and longer with every failure in a row.

        Args:
            slot: the pod.
            now: monotonic seconds.
            refused: it found no connection, so that the pod, when it is back, is taken for a new process.
            begun: when the request was placed. One that is older than the pod's process says nothing of it: what was tried
                again elsewhere is only known when it ends there.
        """
        key = self._member(slot)
        if key is not None and begun >= self.data[col.FIRST_SEEN, slot]:
            self.ward.failed(key.pool, slot, refused=refused)
            self._put_last(slot, key.pool, now)

    def _put_last(self, slot: int, pool: str, now: float) -> None:
        self._steady.pop(pool, None)
        data = self.data
        data[col.FAILURES, slot] = min(data[col.FAILURES, slot] + 1.0, 1000.0)
        data[col.FAILED_AT, slot] = now
        data[col.PROBE_AT, slot] = now + probe_wait(float(data[col.FAILURES, slot]))

    def succeed(self, slot: int, now: float) -> None:
        """A request was served."""
        key = self._member(slot)
        if key is not None:
            if self.data[col.FAILURES, slot]:
                self._came_back(slot, key.pool, now)
            self.ward.served(key.pool, slot)

    def _came_back(self, slot: int, pool: str, now: float) -> None:
        """A pod that failed answers again."""
        data = self.data
        if data[col.UNREACHABLE, slot] or self.ward.was_down(slot):
            self._restarted(slot, pool, now)
        data[[col.FAILURES, col.UNREACHABLE], slot] = 0.0
        data[col.PROBE_AT, slot] = -np.inf
        self._steady.pop(pool, None)

    def _restarted(self, slot: int, pool: str, now: float) -> None:
        self.data[col.FIRST_SEEN, slot] = now
        self.data[[col.FREE_AT, col.FACTOR], slot] = -np.inf, 1.0
        self._clock.forget(slot)
        self.ward.restarted(pool, slot)

    def limit(self, slot: int, seconds: float | None, now: float) -> None:
        """The pod wants no work for so many seconds (None: it did not say): it gets none before they are over."""
        key = self._member(slot)
        if key is not None:
            self.ward.limited(key.pool, slot, seconds, now)
            self._steady.pop(key.pool, None)

    def learn_times(
        self, flight: Flight, *, ttft: float | None, duration: float, output: int, cached: float | None = None
    ) -> None:
        """Learn how fast a pod is from an answer it gave in full.

        Args:
            flight: as ``finish`` gave it.
            ttft: seconds from the request to the first token of a stream; None if not known.
            duration: seconds from the request to the end.
            output: tokens of the answer.
            cached: prompt tokens it found in its cache; None = as expected.
        """
        key = self._member(flight.slot)
        if key is not None and key.generation == flight.generation:
            uncached = flight.uncached if cached is None else max(0.0, flight.info.input_tokens - cached)
            self.ward.timed(flight, key.pool, ttft=ttft, duration=duration, output=output, uncached=uncached)
            model = self._models.get(key.pool)
            if model is not None and flight.note is not None:
                requests = float(self.data[col.INFLIGHT, flight.slot])
                ratio = model.served(flight.note, requests, ttft, duration, output, cached)
                if ratio is not None:
                    self._clock.served(self.data, flight.slot, ratio)

    def answered(self, slot: int, served: Served, now: float) -> None:
        """A pod answered a request in full; the strategy is told."""
        key = self._member(slot)
        if key is not None:
            self._strategies[key.pool].finished(slot, served, now)

    def learn_work(self, slot: int, work: float, seconds: float, now: float) -> None:
        """Note that a request was served in so many seconds; ``work`` as of ``flow.work_of``."""
        if self._member(slot) is not None:
            count_served(self.data, slot, work, seconds, now)

    def learn_prefill(self, flight: Flight, ttft: float) -> None:
        """Correct the prefill rate of a pool by the time to first token (seconds) of a flight one of its pods served.

        The sample is (backlog ahead + own uncached tokens) / TTFT; small prompts say nothing and are passed over. The rate is
        the pool's, not the pod's: its pods are replicas, and single samples are far too noisy to tell them apart.
        """
        tokens = flight.ahead + flight.uncached
        key = self._member(flight.slot)
        if ttft <= 0.0 or tokens < _PREFILL_LEARN_TOKENS or key is None or key.generation != flight.generation:
            return
        rate = min(max(tokens / ttft, _PREFILL_RATE_MIN), _PREFILL_RATE_MAX)
        old = float(self.data[col.PREFILL_RATE, flight.slot])
        self.data[col.PREFILL_RATE, self._views[key.pool].select] = old ** (1.0 - _LEARN) * rate**_LEARN

    def learn_hits(self, slot: int, expected: float, actual: float) -> None:
        """Correct the trust in expected prefix hits of a pod.

        Args:
            slot: the pod that served.
            expected: tokens expected to be cached, as placed (with trust already applied).
            actual: tokens its answer said were cached.
        """
        if expected > 0.0 and self._member(slot) is not None:
            trust = float(self.data[col.HIT_TRUST, slot])
            came_true = min(max(actual * min(1.0, trust / col.DOUBT) / expected, 0.0), 1.0)
            self.data[col.HIT_TRUST, slot] = max(_TRUST_MIN, trust + _LEARN * (came_true - trust))
