"""Which level of a plan takes a request when the plan's tier is saturated, and which pools are not to be flooded then.

May not enter: the order within a level (``pools``), and what a pool's excess is (``flow``).
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from ralb_extproc.place.dice import Dice
from ralb_extproc.place.flow import all_capped
from ralb_extproc.place.load import FAILING
from ralb_extproc.place.pods import PodTable
from ralb_extproc.place.pools import leading
from ralb_extproc.types import Candidate, Plan

_NOBODY: Final[frozenset[str]] = frozenset()


def overflown(pods: PodTable, plan: Plan, now: float, dice: Dice) -> tuple[Sequence[Candidate], frozenset[str]]:
    """The plan's candidates with the level before all others that takes this request.

    Returns:
        The candidates, and the pools that come in only where nobody else is fit, for they are saturated too.
    """
    home = _levels(candidate for candidate in plan.candidates if candidate.tier == plan.tier)
    excess: list[list[float]] = []
    for level in home:
        excess.append(_excess(pods, level, now))
        if excess[-1]:
            break
    if not excess or not excess[-1] or min(excess[-1]) <= 0.0:
        return plan.candidates, _NOBODY
    levels = [*home, *_levels(plan.spill)]
    excess.extend(_excess(pods, level, now) for level in levels[len(excess) :])
    lead = leading(excess, dice)
    if excess[lead] and min(excess[lead]) <= 0.0:
        return [*levels[lead], *plan.candidates], _NOBODY
    saturated = (c.pool for c in plan.spill if _pool_excess(pods, c.pool, now) not in (None, 0.0))
    return plan.candidates, frozenset(saturated)


def _levels(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    return [list(level) for _, level in groupby(candidates, key=lambda candidate: candidate.priority)]


def _excess(pods: PodTable, level: Sequence[Candidate], now: float) -> list[float]:
    """The excess of each pool of a level that can serve now; those of weight 0 only if there are no others."""
    wanted = [candidate for candidate in level if candidate.weight] or level
    found = (_pool_excess(pods, candidate.pool, now) for candidate in wanted)
    return [excess for excess in found if excess is not None]


def _pool_excess(pods: PodTable, pool: str, now: float) -> float | None:
    """Share of new requests that are too many for a pool; None when all its pods fail, 0 where its pods are not seen."""
    view = pods.view(pool)
    if view is None:
        return 0.0
    state = pods.steady(view, now)
    if state.best == FAILING:
        return None
    return 1.0 if all_capped(pods.block(view), state) else pods.flow(view, now).excess
