"""The pod table: all that is known of every pod, one slot per (pool, endpoint).

Written by the snapshot (``update``), the request path (``begin``, ``finish``, ``first_token``), the scraper (``observe``,
``unreachable``) and the access log (``fail``, ``succeed``, ``limit``); read by ``place``. Slots are stable while the endpoint
stays; after that they are used again under a new generation, so late news of a gone pod cannot hit its successor. Everything
runs on one event loop; nothing here blocks, awaits or reads a clock. Times are monotonic seconds given by the caller.

This is the front of several rooms over the same ``facts``: ``roster`` (who is in which slot), ``charges`` (requests in flight),
``readings``, ``outcomes``, and ``standing``, which makes of them what a decision needs.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from ralb.v1.snapshot_pb2 import Balancing, Pool
from ralb_extproc.place import charges, outcomes, readings, standing
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.columns import Bools, Floats
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.facts import Facts
from ralb_extproc.place.flow import Flow, count_served
from ralb_extproc.place.health import Rules
from ralb_extproc.place.ledger import NO_INFO, Flight, FlightInfo, Ledger
from ralb_extproc.place.load import Steady
from ralb_extproc.place.model import SpeedModel
from ralb_extproc.place.observe import Observer
from ralb_extproc.place.prefix import Prefix, PrefixIndex
from ralb_extproc.place.sample import PodSample
from ralb_extproc.place.strategies import new_strategy
from ralb_extproc.place.strategy import Scene, Served, Strategy
from ralb_extproc.place.views import Change, PodKey, PoolView
from ralb_extproc.place.ward import Care, Ward, rules_of

MAX_PODS: Final = 16_384
# A request reaches the engine's gauges this long after we placed it: network, tokenizer, one step.
SETTLE_SECONDS: Final = 0.05


class PodTable:
    """State of all pods.

    Args:
        ledger_limit: most requests in flight that are tracked; beyond it the oldest is let go.
        ttl: seconds after which a flight without outcome is let go.
        prefix_entries: most pairs of pod and block in all pools' prefix indexes together, 125 to 340 bytes each.
        settle: seconds from placing a request until the pod's own gauges count it.

    Attributes:
        ledger: requests in flight.
        lost: how many of them were let go without an outcome.
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
        self.lost = 0
        self._facts = Facts(prefix_entries)
        self._roster = self._facts.roster
        self._settle = settle

    @property
    def data(self) -> Floats:
        """The columns of all slots, see ``columns``; another matrix once it has grown."""
        return self._roster.data

    @property
    def observer(self) -> Observer:
        """What counters on metrics pages came to."""
        return self._facts.observer

    @property
    def ward(self) -> Ward:
        """How well pods are."""
        return self._facts.ward

    # ---- which pods there are ----

    def __len__(self) -> int:
        return len(self._roster)

    def view(self, pool: str) -> PoolView | None:
        """The slots of a pool; None for a pool without endpoints or one not known."""
        return self._roster.views.get(pool)

    def views(self) -> Iterable[PoolView]:
        """All pools that have endpoints."""
        return self._roster.views.values()

    def slot(self, pool: str, address: str) -> int | None:
        """The slot of an endpoint, or None."""
        return self._roster.slot(pool, address)

    def key(self, slot: int) -> PodKey | None:
        """Who a slot is now."""
        return self._roster.key(slot)

    def is_current(self, slot: int, generation: int) -> bool:
        """Whether a slot still is the pod it was under that generation."""
        return self._roster.is_current(slot, generation)

    def draining(self) -> Iterable[tuple[PodKey, float, float]]:
        """Pods that left with flights of ours: who, how many flights, until when they are waited for."""
        return self._roster.drained()

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
        facts = self._facts
        moves = self._roster.follow(wanted, leaving, {pool: said.drain for pool, said in rules.items()}, now)
        for pool_id, slot in moves.left:
            facts.forget_cache(pool_id, slot)
        for slot in moves.freed:
            facts.clear(slot)
        facts.ward.follow(rules, self.data.shape[1])
        views = self._roster.views
        facts.steady.clear()
        # What is kept tells whether a pool was saturated; its age makes it be computed again.
        facts.flow = {pool: replace(kept, at=-np.inf) for pool, kept in facts.flow.items() if pool in views}
        facts.models = {pool: facts.models.get(pool) or SpeedModel() for pool in views}
        facts.strategies = {
            pool: facts.strategies[pool] if said == facts.balancing.get(pool) else new_strategy(said)
            for pool, said in balancing.items()
        }
        facts.balancing = balancing
        facts.prefixes.follow(views, self.data)
        facts.residency.follow(adapters)
        return Change(tuple(moves.entered), tuple(slot for _, slot in moves.left), refused)

    # ---- how they stand ----

    def block(self, view: PoolView) -> Floats:
        """The columns of a pool, (columns x pods); valid until the next update, not to be written."""
        return self.data[:, view.select]

    def steady(self, view: PoolView, now: float) -> Steady:
        """What holds for some milliseconds about a pool's pods; computed again when it is too old or a pod's state jumps.

        Of a part of a pool (``PoolView.narrowed``) nothing is kept.
        """
        return standing.steady(self._facts, view, now)

    def care(self, view: PoolView, now: float) -> Care:
        """How well a pool's pods are, and what share of the work each may have for it."""
        return standing.care(self._facts, view, now)

    def flow(self, view: PoolView, now: float) -> Flow:
        """How fast a pool works, and how much is too much for it; some milliseconds old at most."""
        return standing.flow(self._facts, view, now)

    def scene(self, view: PoolView, ask: Ask, now: float, dice: Dice) -> Scene:
        """What the strategy of a pool compares its pods by."""
        return standing.scene(self._facts, view, ask, now, dice)

    def strategy(self, view: PoolView) -> Strategy:
        """How a pool's pods are compared."""
        return self._facts.strategies[view.pool]

    def model(self, pool: str) -> SpeedModel | None:
        """What is learned of a pool's speed; None for a pool not known."""
        return self._facts.models.get(pool)

    def hash_key(self, pool: str, ask: Ask, now: float) -> str:
        """What Envoy is to hash where it chooses a pool's pod itself; "" = nothing."""
        strategy = self._facts.strategies.get(pool)
        return strategy.hash_key(ask, now) if strategy is not None else ""

    def balanced_by(self, pool: str) -> str:
        """Name of a pool's strategy; "" for a pool not known."""
        strategy = self._facts.strategies.get(pool)
        return strategy.name if strategy is not None else ""

    # ---- what they hold ----

    @property
    def prefix_entries(self) -> int:
        """Entries in the prefix indexes of all pools."""
        return len(self._facts.prefixes)

    def prefix_hits(self, prefix: Prefix, view: PoolView, tokens: int) -> Floats | None:
        """See ``PrefixIndex.hits``; by position in the view."""
        return self._facts.prefixes.hits(prefix, view, tokens)

    def record_prefix(self, prefix: Prefix, slot: int, tokens: int = 0) -> None:
        """Note that a pod was sent a prompt of so many tokens; 0 = not known."""
        key = self._roster.member(slot)
        if key is not None:
            self._facts.prefixes[key.pool].record(prefix, slot, tokens)

    def prefix_index(self, slot: int) -> PrefixIndex | None:
        """The index of a pod's pool, for what the pod itself says of its cache; None for a slot that is nobody's."""
        key = self._roster.member(slot)
        return self._facts.prefixes[key.pool] if key is not None else None

    def adapters(self, view: PoolView, name: str) -> Bools | None:
        """Which pods of a view hold a LoRA adapter, by position; None if none is known to. Not to be written."""
        return self._facts.residency.mask(view, name, whole=self.view(view.pool) is view)

    # ---- requests ----

    def placed(self, slot: int, ask: Ask, now: float) -> None:
        """A request was charged to a pod: it will hold the prompt soon, and the strategy is told."""
        key = self._roster.member(slot)
        if key is not None:
            facts = self._facts
            facts.prefixes[key.pool].record(ask.prefix, slot, ask.input_tokens)
            facts.strategies[key.pool].placed(self._roster.views[key.pool], slot, ask, now)

    def sent(self, pool: str, ask: Ask, now: float) -> None:
        """A request was sent to a pool of which Envoy chooses the pod; the strategy is told."""
        strategy = self._facts.strategies.get(pool)
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
        key = self._roster.key(slot)
        flight = Flight(request_id, slot, key.generation if key else -1, prefill, decode, prefill, now, info=info)
        left = self.ledger.add(flight)
        if left is not None:
            charges.release(self._facts, left)
            self.lost += 1
        if key is not None:
            charges.charge(self._facts, key, flight, now)

    def first_token(self, request_id: str) -> None:
        """Note that a request's prefill is done; its prefill tokens leave the pod's account."""
        flight = self.ledger.get(request_id)
        if flight is not None:
            charges.first_token(self._facts, flight)

    def finish(self, request_id: str) -> Flight | None:
        """End a flight and release its load; returns it, or None if it is not (or no longer) known."""
        flight = self.ledger.take(request_id)
        if flight is not None:
            charges.release(self._facts, flight)
        return flight

    def sweep(self, now: float) -> int:
        """Let go of flights older than the time limit; returns how many. Call every few seconds."""
        expired = self.ledger.expired(now)
        for flight in expired:
            charges.release(self._facts, flight)
        self.lost += len(expired)
        for slot in self._roster.expire(now):
            self._facts.clear(slot)
        return len(expired)

    # ---- what pods say ----

    def observe(self, slot: int, sample: PodSample, now: float) -> None:
        """Take over a reading. One that lacks the load leaves the last load to age."""
        readings.observe(self._facts, slot, sample, now, self._settle)

    def unreachable(self, slot: int, now: float) -> None:
        """The scraper was refused a connection: the pod goes last until it answers a scrape or a request.

        It is still probed by a request now and then, since the scraper's way to it may be shut alone. Its cache is gone.
        """
        readings.unreachable(self._facts, slot, now)

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
        outcomes.fail(self._facts, slot, now, refused=refused, begun=begun)

    def succeed(self, slot: int, now: float) -> None:
        """A request was served."""
        outcomes.succeed(self._facts, slot, now)

    def limit(self, slot: int, seconds: float | None, now: float) -> None:
        """The pod wants no work for so many seconds (None: it did not say): it gets none before they are over."""
        outcomes.limit(self._facts, slot, seconds, now)

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
        outcomes.learn_times(self._facts, flight, ttft=ttft, duration=duration, output=output, cached=cached)

    def answered(self, slot: int, served: Served, now: float) -> None:
        """A pod answered a request in full; the strategy is told."""
        key = self._roster.member(slot)
        if key is not None:
            self._facts.strategies[key.pool].finished(slot, served, now)

    def learn_work(self, slot: int, work: float, seconds: float, now: float) -> None:
        """Note that a request was served in so many seconds; ``work`` as of ``flow.work_of``."""
        if self._roster.member(slot) is not None:
            count_served(self._roster.cells, slot, work, seconds, now)

    def learn_prefill(self, flight: Flight, ttft: float) -> None:
        """Correct the prefill rate of a pool by the time to first token (seconds) of a flight one of its pods served.

        The sample is (backlog ahead + own uncached tokens) / TTFT; small prompts say nothing and are passed over. The rate is
        the pool's, not the pod's: its pods are replicas, and single samples are far too noisy to tell them apart.
        """
        outcomes.learn_prefill(self._facts, flight, ttft)

    def learn_hits(self, slot: int, expected: float, actual: float) -> None:
        """Correct the trust in expected prefix hits of a pod.

        Args:
            slot: the pod that served.
            expected: tokens expected to be cached, as placed (with trust already applied).
            actual: tokens its answer said were cached.
        """
        outcomes.learn_hits(self._facts, slot, expected, actual)
