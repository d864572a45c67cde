"""A pod's share of the traffic over time, and what it says of how an illness was met. Pure functions.

Shares are in units of the fair share: 1.0 = as much as 1 / (number of pods). They are means over a window around each moment, so
a change is seen up to half a window early or late; counts of single seconds would cross any line by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

WINDOW = 3.0
"""Seconds of traffic in one share."""
STEP = 0.25
HALF = 0.5
WELL = 0.8
_BAND = 0.1  # a crossing of HALF counts when the other side is reached by so much


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the share of an ill pod did; in seconds and fair shares. None = it never did.

    Attributes:
        fell_after: seconds from the onset to less than half of the fair share.
        share_ill: over the second half of the illness.
        floor: the least share of the illness.
        peak: the greatest share from the onset to the end.
        recovered_after: seconds from the cure to at least 0.8 of the fair share; 0 = it was there all the time.
        share_after: over the last third of what follows the cure.
        oscillations: crossings of half the fair share beside the first fall and the first rise after the cure.
    """

    fell_after: float | None
    share_ill: float
    floor: float
    peak: float
    recovered_after: float | None
    share_after: float
    oscillations: int


def share(times: Floats, mine: npt.NDArray[np.bool_], begin: float, end: float, pods: int) -> float:
    """A pod's share of what was placed from ``begin`` to ``end``, in fair shares; NaN when nothing was.

    Args:
        times: when each request was placed, sorted.
        mine: whether it was placed on the pod.
        begin: on the clock of ``times``.
        end: the same.
        pods: how many there are.
    """
    low, high = np.searchsorted(times, (begin, end))
    return float(mine[low:high].mean() * pods) if high > low else float("nan")


def shares(times: Floats, mine: npt.NDArray[np.bool_], end: float, pods: int) -> tuple[Floats, Floats]:
    """Moments ``STEP`` apart, and the share around each."""
    at = np.arange(WINDOW / 2, end - WINDOW / 2 + 1e-9, STEP)
    return at, np.array([share(times, mine, t - WINDOW / 2, t + WINDOW / 2, pods) for t in at])


def crossings(values: Sequence[float]) -> list[int]:
    """Indices at which the values have crossed ``HALF`` from where they were, by a margin; begins above."""
    found, above = [], True
    for index, value in enumerate(values):
        if value < HALF - _BAND if above else value > HALF + _BAND:
            above = not above
            found.append(index)
    return found


def judge(times: Floats, mine: npt.NDArray[np.bool_], pods: int, *, onset: float, cure: float, end: float) -> Judgement:
    """What happened to the share of a pod that was ill from ``onset`` to ``cure``; seconds on the clock of ``times``."""
    at, level = shares(times, mine, end, pods)
    level = np.nan_to_num(level)
    during, after = (at >= onset) & (at < cure), at >= cure
    low = np.flatnonzero(during & (level < HALF))
    well = np.flatnonzero(after & (level >= WELL))
    turns = [index for index in crossings(level) if at[index] >= onset]
    falls = sum(bool(at[index] < cure) for index in turns)
    expected = min(falls, 1) + (1 if falls % 2 and len(turns) > falls else 0)
    return Judgement(
        fell_after=float(at[low[0]] - onset) if len(low) else None,
        share_ill=share(times, mine, (onset + cure) / 2, cure, pods),
        floor=float(level[during].min()) if during.any() else float("nan"),
        peak=float(level[at >= onset].max()) if (at >= onset).any() else float("nan"),
        recovered_after=float(at[well[0]] - cure) if len(well) else None,
        share_after=share(times, mine, end - (end - cure) / 3, end, pods),
        oscillations=int(len(turns) - expected),
    )
