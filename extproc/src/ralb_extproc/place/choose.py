"""From a plan to pods in order: the level, the pools within it, the pods within each.

Pools are tried by priority level, lowest first. A level whose pools have a fit pod comes before one where all pods are at their
concurrency cap, and that before one where all have failed.
A pool that should have pods and has none comes last. Within a level and state the order is that of ``pools``. What is too much
for the plan's tier may go to another, see ``spill``.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from ralb.v1.snapshot_pb2 import Pool
from ralb_extproc.cost import price
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.ledger import FlightInfo
from ralb_extproc.place.load import CAPPED, FAILING, FIT
from ralb_extproc.place.pods import PodTable
from ralb_extproc.place.pools import NEAR_PRICE, Peer, order
from ralb_extproc.place.prefix import NO_PREFIX
from ralb_extproc.place.spill import overflown
from ralb_extproc.place.strategies import by_envoy
from ralb_extproc.place.strategy import Ranking, rank, rank_spare
from ralb_extproc.place.views import PoolView
from ralb_extproc.types import Attempt, Candidate, Placement, Plan

MAX_ATTEMPTS: Final = 4
_EMPTY: Final = FAILING + 1  # state of a pool without a ready pod
_KEEP_PREFIX: Final = 2000  # flights; a prefix takes up to 30 kB


class PoolTable(Protocol):
    """What of a routing table is needed here."""

    @property
    def pools(self) -> Mapping[str, Pool]:
        """Pools by id."""


@dataclass(frozen=True, slots=True)
class _Option:
    """A candidate with its pool's pods ranked; no view where they are not known."""

    candidate: Candidate
    pool: Pool
    view: PoolView | None
    ranking: Ranking | None
    state: int
    wanted: int  # pods to take in the first round: those that did not fail
    measured: bool
    by_envoy: bool  # Envoy chooses the pod
    price: float = 0.0  # dollars; 0 where nobody asks

    @property
    def size(self) -> int:
        return 1 if self.view is None else len(self.view.slots)


class NowhereError(LookupError):
    """No pool of the plan is in the table: plan and table are of different snapshots."""


def place_plan(
    table: PoolTable,
    pods: PodTable,
    plan: Plan,
    ask: Ask,
    now: float,
    dice: Dice,
    max_attempts: int = MAX_ATTEMPTS,
    *,
    exact: bool = False,
) -> Placement:
    """Choose where a request goes, first choice first. Changes nothing; see ``commit``.

    The chosen pool gives its best pods (two if it has them, more when few other pools follow), then each further pool its best;
    what room is left is filled with the next best. Pods that failed lately come in only as a last resort. No pod appears twice.

    Args:
        table: has the plan's pools by id.
        pods: the state of the pods.
        plan: candidates in order of priority.
        ask: the request's numbers.
        now: monotonic seconds.
        dice: drawn from for weights and ties.
        max_attempts: most attempts to name.
        exact: name the pod even in pools whose strategy Envoy runs.

    Raises:
        NowhereError: no candidate's pool is in the table.
    """
    candidates: Sequence[Candidate] = plan.candidates
    flooded: Container[str] = ()
    if plan.spill:
        candidates, flooded = overflown(pods, plan, now, dice)
    options = _ordered(table, pods, candidates, flooded, ask, now, dice, max_attempts, exact=exact)
    if not options:
        raise NowhereError(f"none of the plan's pools is known: {', '.join(c.pool for c in plan.candidates)}")
    attempts: list[Attempt] = []
    model = options[0].candidate.model
    for option, count in _shares(options, max_attempts):
        candidate, pool = option.candidate, option.pool
        cluster = pool.cluster if candidate.model == model else pool.rewrite_cluster
        if option.by_envoy or option.view is None or option.ranking is None:
            attempts += [Attempt(candidate.pool, cluster, "", candidate.model)] * count
            continue
        for position in option.ranking.order[:count]:
            attempts.append(Attempt(candidate.pool, cluster, option.view.addresses[position], candidate.model))
    return _placement(tuple(attempts), options, plan, pods, ask, now)


def _placement(
    attempts: tuple[Attempt, ...], options: list[_Option], plan: Plan, pods: PodTable, ask: Ask, now: float
) -> Placement:
    first = options[0]
    spilled = (plan.tier, first.candidate.tier) if first.candidate in plan.spill else None
    strategy = pods.balanced_by(first.candidate.pool)
    hash_key = next((pods.hash_key(each.pool, ask, now) for each in attempts if not each.endpoint), "")
    considered = sum(option.size for option in options if option.view is not None)
    if first.ranking is None:
        return Placement(
            attempts,
            uncached_tokens=ask.input_tokens,
            considered=considered,
            reason="spilled" if spilled else "service",
            strategy=strategy,
            hash_key=hash_key,
            spilled=spilled,
        )
    uncached = first.ranking.uncached
    if spilled:
        reason = "spilled"
    elif first.state != FIT:
        reason = "saturated"
    elif first.candidate.by_price and _cheaper(first, options):
        reason = "cheapest"
    elif first.by_envoy:
        reason = "envoy"
    elif considered == 1:
        reason = "only"
    else:
        reason = "best" if first.measured else "no-metrics"
    return Placement(
        attempts,
        prefix_hit=1.0 - uncached / ask.input_tokens if ask.input_tokens else 0.0,
        uncached_tokens=round(uncached),
        score=first.ranking.score,
        considered=considered,
        reason=reason,
        strategy=strategy,
        hash_key=hash_key,
        spilled=spilled,
        held=first.ranking.held,
    )


def commit(pods: PodTable, request_id: str, placement: Placement, plan: Plan, ask: Ask, now: float) -> None:
    """Charge a placed request to its first pod and note its prompt in the prefix index.

    Call it once per request, in the same event loop turn as ``place_plan``: the next decision must see it.
    """
    attempts: list[tuple[int, int]] = []
    for attempt in placement.attempts:
        slot = pods.slot(attempt.pool, attempt.endpoint)
        key = pods.key(slot) if slot is not None else None
        attempts.append((slot, key.generation) if slot is not None and key is not None else (-1, -1))
    first = placement.attempts[0]
    info = FlightInfo(
        pool=first.pool,
        tier=next((c.tier for c in _all(plan) if c.pool == first.pool and c.model == first.model), ""),
        intent=ask.intent,
        effort=ask.effort,
        adapter=ask.adapter,
        stream=ask.stream,
        input_tokens=ask.input_tokens,
        hit_tokens=max(0, ask.input_tokens - placement.uncached_tokens),
        attempts=tuple(attempts),
        pools=tuple(a.pool for a in placement.attempts),
        prefix=ask.prefix if len(pods.ledger) < _KEEP_PREFIX else NO_PREFIX,
        remote=placement.handoff is not None and placement.handoff.remote,
    )
    slot = attempts[0][0]
    pods.begin(request_id, slot, placement.uncached_tokens, ask.output_tokens, now, info)
    if slot >= 0:
        pods.placed(slot, ask, now)
    else:
        pods.sent(first.pool, ask, now)


def _all(plan: Plan) -> Sequence[Candidate]:
    return (*plan.candidates, *plan.spill) if plan.spill else plan.candidates


def _ordered(
    table: PoolTable,
    pods: PodTable,
    candidates: Sequence[Candidate],
    flooded: Container[str],
    ask: Ask,
    now: float,
    dice: Dice,
    want: int,
    *,
    exact: bool,
) -> list[_Option]:
    """Candidates, first choice first; further levels are not ranked once they could not come in.

    Pools that are ``flooded`` stand no better than those at their cap.
    """
    by_state: tuple[list[_Option], ...] = tuple([] for _ in range(_EMPTY + 1))

    def settle(level: list[_Option]) -> None:
        for option in _settled(level, pods, ask, now, dice):
            state = max(option.state, CAPPED) if option.candidate.pool in flooded else option.state
            by_state[state].append(option)

    fit = fit_pools = 0
    level: list[_Option] = []
    priority = None
    seen: set[str] = set()
    spare = False  # whether a lower level has a fit pod, so that this one is only for when that fails
    for candidate in candidates:
        if candidate.priority != priority:
            settle(level)
            level, priority, spare = [], candidate.priority, fit > 0
            if fit >= want and fit_pools >= want - 1:
                break
        pool = table.pools.get(candidate.pool)
        if pool is None or candidate.pool in seen:
            continue
        seen.add(candidate.pool)
        option = _option(candidate, pool, pods, ask, now, dice, want, spare=spare, envoy=not exact and by_envoy(pool))
        level.append(option)
        if option.state == FIT:
            fit += option.wanted
            fit_pools += 1
    settle(level)
    return [option for state in by_state for option in state]


def _option(
    candidate: Candidate,
    pool: Pool,
    pods: PodTable,
    ask: Ask,
    now: float,
    dice: Dice,
    want: int,
    *,
    spare: bool,
    envoy: bool,
) -> _Option:
    view = pods.view(candidate.pool)
    if view is not None and ask.only is not None:
        view = view.narrowed(ask.only)
    if view is None:
        # A pool that should have pods and has none can only answer 503: last of all.
        return _Option(candidate, pool, None, None, _EMPTY if pool.metrics_path else FIT, 1, False, True)
    state = pods.steady(view, now)
    ranking = (
        rank_spare(state, ask.input_tokens)
        if spare or envoy
        else rank(pods.strategy(view), pods.scene(view, ask, now, dice), want)
    )
    wanted = max(1, ranking.usable)
    return _Option(candidate, pool, view, ranking, ranking.best, wanted, state.measured, envoy)


def _settled(level: list[_Option], pods: PodTable, ask: Ask, now: float, dice: Dice) -> list[_Option]:
    """The pools of one level in order."""
    if len(level) < 2:
        return level
    dynamic, by_price = level[0].candidate.dynamic, level[0].candidate.by_price
    if by_price:
        level = [replace(option, price=_price(option, ask)) for option in level]
    measured = dynamic or by_price
    peers = [
        Peer(
            option.candidate.weight,
            0.0 if option.view is None else pods.steady(option.view, now).queue,
            pods.flow(option.view, now) if measured and option.view is not None else None,
            option.price,
        )
        for option in level
    ]
    return [level[i] for i in order(peers, dice, dynamic=dynamic, by_price=by_price)]


def _price(option: _Option, ask: Ask) -> float:
    uncached = float(ask.input_tokens) if option.ranking is None else option.ranking.uncached
    return price(option.pool, uncached, ask.input_tokens - uncached, ask.output_tokens)


def _cheaper(first: _Option, options: list[_Option]) -> bool:
    """Whether another pool that would have done costs more than nearly the same."""
    return any(
        option.state == FIT
        and option.candidate.priority == first.candidate.priority
        and option.price > NEAR_PRICE * first.price
        for option in options
    )


def _shares(options: list[_Option], room: int) -> list[tuple[_Option, int]]:
    """How many pods each pool gives, in order; sums to at most ``room``, at least 1."""
    room = max(1, room)
    first = options[0]
    if len(options) == 1:
        return [(first, min(room, first.size))]
    counts = [0] * len(options)
    counts[0] = min(first.wanted, max(2, room - len(options) + 1), room)
    left = room - counts[0]
    for i in range(1, len(options)):
        if left:
            counts[i] = 1
            left -= 1
    for last_resort in (False, True):
        for i, option in enumerate(options):
            more = min(left, max(0, (option.size if last_resort else option.wanted) - counts[i])) if counts[i] else 0
            counts[i] += more
            left -= more
    return [(option, count) for option, count in zip(options, counts, strict=True) if count]
