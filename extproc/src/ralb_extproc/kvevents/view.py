"""What engines' events mean for placement: the prefix index told what pods really hold.

The index knows prompts by hashes of their bytes, engines know blocks of tokens by hashes of their own. The two are joined by
requests: one that ended well and whose usage was reported is matched with the run of blocks it added (``match``), and each of
these blocks is bound to the block of our prompt that needs it (``binding``). From then on

- a pod that removes a bound block is no longer expected to hold our block, nor anything after it;
- a pod that stores a bound block, for whomever, is expected to hold ours (pods hash alike if they share ``PYTHONHASHSEED``);
- a cleared cache or a restart forgets the pod.

What is not bound (no usage reported, no clear match, stored before we listened) stays as it is without events: expected because
it was sent there, until the index lets it go. A wrong binding costs accuracy only, and feedback from usage corrects trust in it.

May not enter: sockets, clocks. Matching happens in ``tick``, off the request path. Memory: 100 bytes per tracked block, 50 per
block of a run, 150 per binding and per known end of a block; ``MAX_BLOCKS``, as many in runs and answers, ``MAX_BINDINGS`` and
``MAX_ENDS`` of them over all pools together: under 300 MB when all are full.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ralb_extproc.feedback import Failure, Settled
from ralb_extproc.kvevents.binding import bind, needed
from ralb_extproc.kvevents.match import Ambiguous, Served, find, prompt_blocks, skipped_blocks
from ralb_extproc.kvevents.recent import Recent
from ralb_extproc.kvevents.runs import MAX_RUN_BLOCKS, Chains
from ralb_extproc.kvevents.wire import Batch, Removed, Stored
from ralb_extproc.place import Flight, PodTable, PrefixIndex

_log = logging.getLogger(__name__)
MAX_BLOCKS: Final = 1 << 20
MAX_BINDINGS: Final = 1 << 18
MAX_ENDS: Final = 1 << 18
_MIN_BLOCKS: Final = 1024
_MAX_PENDING: Final = 4096
# By then a request's last events have come, should its log record have been faster.
_SETTLE_SECONDS: Final = 0.5
_MATCH_PER_TICK: Final = 8
# Requests that must have added blocks without a single event, before a pod counts as silent.
_SILENT_AFTER: Final = 3
_ADDED_TOKENS: Final = 256


@dataclass(slots=True, eq=False)
class PodView:
    """What is known of one pod's cache.

    Attributes:
        pool, slot, generation: who it is in the table.
        chains: its blocks.
        ends: where blocks of prompts it served end, in tokens.
        unheard: requests served since the last event that must have added blocks.
        lag: seconds between the engine's clock and ours at the last batch.
    """

    pool: str
    slot: int
    generation: int
    chains: Chains
    ends: Recent
    unheard: int = 0
    lag: float = 0.0

    @property
    def silent(self) -> bool:
        """Whether it should have said something and did not."""
        return self.unheard >= _SILENT_AFTER


@dataclass(frozen=True, slots=True)
class _Pending:
    """A request to be matched, not before ``due``."""

    due: float
    flight: Flight
    served: Served


class KvView:
    """All pods whose pools have events.

    Args:
        pods: the table whose prefix indexes are told.

    Attributes:
        counts: events by type: stored, removed, cleared, skipped.
        blocks: of these, blocks stored and removed.
        matches: requests by how matching went: bound, none, ambiguous, dropped.
        told: blocks the index was told of: held, evicted.
    """

    def __init__(self, pods: PodTable) -> None:
        self._pods = pods
        self._views: dict[int, PodView] = {}  # by generation
        self._by_pool: dict[str, list[PodView]] = {}
        self._bindings: dict[str, Recent] = {}
        self._pending: deque[_Pending] = deque()
        self._warned: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.blocks: Counter[str] = Counter()
        self.matches: Counter[str] = Counter()
        self.told: Counter[str] = Counter()

    @property
    def bindings(self) -> int:
        """Entries of all pools' bindings."""
        return sum(len(bindings) for bindings in self._bindings.values())

    @property
    def views(self) -> Iterable[PodView]:
        """All pods followed."""
        return self._views.values()

    def follow(self, wanted: Iterable[tuple[str, int, int]]) -> None:
        """Keep exactly these pods: (pool, slot, generation)."""
        keys = {generation: (pool, slot) for pool, slot, generation in wanted}
        for gone in self._views.keys() - keys.keys():
            del self._views[gone]
        blocks = max(_MIN_BLOCKS, MAX_BLOCKS // max(1, len(keys)))
        ends = max(_MIN_BLOCKS, MAX_ENDS // 2 // max(1, len(keys)))
        self._by_pool = {}
        for generation, (pool, slot) in keys.items():
            view = self._views.get(generation)
            if view is None:
                view = self._views[generation] = PodView(pool, slot, generation, Chains(blocks), Recent(ends))
            view.chains.limit, view.ends.entries = blocks, ends
            view.chains.run_limit = min(blocks, MAX_RUN_BLOCKS)
            self._by_pool.setdefault(pool, []).append(view)
        part = max(_MIN_BLOCKS, MAX_BINDINGS // 2 // max(1, len(self._by_pool)))
        self._bindings = {pool: self._bindings.get(pool, Recent(part)) for pool in self._by_pool}
        for bindings in self._bindings.values():
            bindings.entries = part

    def apply(self, generation: int, batch: Batch, now: float, wall: float) -> None:
        """Take over a batch of a pod; of one that left, nothing.

        Args:
            generation: the pod.
            batch: what it said.
            now: monotonic seconds.
            wall: Unix seconds.
        """
        view = self._views.get(generation)
        if view is None or not self._pods.is_current(view.slot, generation):
            return
        view.unheard = 0
        view.lag = wall - batch.ts
        self.counts["skipped"] += batch.skipped
        for event in batch.events:
            if isinstance(event, Stored):
                self.counts["stored"] += 1
                self.blocks["stored"] += len(event.hashes)
                view.chains.store(event, now)
                self._hold(view, event.hashes)
            elif isinstance(event, Removed):
                self.counts["removed"] += 1
                self.blocks["removed"] += len(event.hashes)
                self._evict(view, view.chains.remove(event.hashes))
            else:
                self.counts["cleared"] += 1
                self.emptied(generation)

    def unheard(self, generation: int) -> bool:
        """Whether a pod served requests that must have added blocks, without a word since."""
        view = self._views.get(generation)
        return view is not None and view.unheard > 0

    def emptied(self, generation: int) -> None:
        """A pod's cache is empty: it was cleared, or its engine restarted."""
        view = self._views.get(generation)
        if view is not None:
            view.chains.reset(whole=True)
            index = self._index(view)
            if index is not None:
                index.forget(view.slot)

    def complete(self, generation: int) -> None:
        """All that a pod said since its start was applied."""
        view = self._views.get(generation)
        if view is not None:
            view.chains.whole = True

    def lost(self, generation: int) -> None:
        """Events of a pod were missed for good: what it holds is not known, only what we sent it."""
        view = self._views.get(generation)
        if view is not None:
            view.chains.reset(whole=False)

    # ---- requests ----

    def settled(self, settled: Settled, now: float) -> None:
        """Take note of how a request ended; it is matched by a later ``tick``."""
        flight, outcome = settled.flight, settled.outcome
        if flight is None or settled.slot != flight.slot or not 200 <= outcome.status < 300:
            return
        view = self._views.get(flight.generation)
        if view is None or outcome.failure is not Failure.NONE or outcome.aborted or outcome.attempts > 1:
            return
        if outcome.input_tokens is None:
            return
        if outcome.cached_tokens is not None and outcome.input_tokens - outcome.cached_tokens >= _ADDED_TOKENS:
            view.unheard += 1
            if view.unheard == _SILENT_AFTER and view.pool not in self._warned:
                self._warned = {*self._warned, view.pool} & self._by_pool.keys()
                key = self._pods.key(view.slot)
                _log.warning(
                    "pool %s: %s serves requests but nothing comes on its KV event stream; is it enabled there?",
                    view.pool,
                    key.address if key is not None else "a pod",
                )
        if outcome.output_tokens is None or not flight.info.prefix.hashes:
            return
        if len(self._pending) >= _MAX_PENDING:
            self.matches["dropped"] += 1
            return
        first = flight.begun + outcome.ttft if flight.info.stream and outcome.ttft is not None else None
        ended = min(now, flight.begun + outcome.duration) if outcome.duration > 0.0 else now
        served = Served(outcome.input_tokens, outcome.output_tokens, outcome.cached_tokens, flight.begun, first, ended)
        self._pending.append(_Pending(now + _SETTLE_SECONDS, flight, served))

    def due(self, now: float) -> bool:
        """Whether ``tick`` has something to do."""
        return bool(self._pending) and self._pending[0].due <= now

    def tick(self, now: float) -> None:
        """Match some requests that ended a moment ago; call it while ``due``, some times a second."""
        pending = self._pending
        for _ in range(_MATCH_PER_TICK):
            if not self.due(now):
                return
            item = pending.popleft()
            view = self._views.get(item.flight.generation)
            if view is not None and self._pods.is_current(view.slot, view.generation):
                self._match(view, item)

    def _match(self, view: PodView, item: _Pending) -> None:
        try:
            found = find(view.chains.runs, item.served)
        except Ambiguous:
            self.matches["ambiguous"] += 1
            return
        if found is None:
            self.matches["none"] += 1
            return
        run, length = found
        self.matches["bound"] += 1
        served = item.served
        count = min(length, prompt_blocks(served, run))
        earlier = view.chains.claim(run, count, length)
        blocks = (*earlier, *run.hashes[:count])
        begin = max(0, skipped_blocks(served, run) - len(earlier))
        prefix, bindings = item.flight.info.prefix, self._bindings[view.pool]
        bind(blocks, begin, run.block_size, prefix, served.input, bindings, view.ends)
        # What happened to these blocks before they were bound.
        if not view.chains.untracked:
            self._evict(view, tuple(block for block in blocks if block not in view.chains))
        for other in self._by_pool[view.pool]:
            if other is not view and blocks and blocks[0] in other.chains:
                self._hold(other, tuple(block for block in blocks if block in other.chains))

    def _index(self, view: PodView) -> PrefixIndex | None:
        return self._pods.prefix_index(view.slot) if self._pods.is_current(view.slot, view.generation) else None

    def _hold(self, view: PodView, blocks: tuple[int, ...]) -> None:
        ours = needed(blocks, self._bindings[view.pool], view.ends)
        index = self._index(view) if ours else None
        if index is not None:
            self.told["held"] += len(ours)
            index.hold(view.slot, ours)

    def _evict(self, view: PodView, blocks: tuple[int, ...]) -> None:
        ours = needed(blocks, self._bindings[view.pool], view.ends)
        index = self._index(view) if ours else None
        if index is not None:
            self.told["evicted"] += len(ours)
            index.evict(view.slot, ours)
