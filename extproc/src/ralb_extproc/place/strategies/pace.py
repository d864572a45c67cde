"""How fast pods are by their answers: a mean and a 95th percentile each, in a few numbers per pod.

A request's pace is its duration / (output tokens + 32): what a token took, a short answer counting as 32 of them, so that pods
with long answers are not taken for slow ones. The mean is exponential (1/10 per answer). The percentile is a stochastic
approximation in logarithms: times e^(0.095) for a pace above it, e^(-0.005) for one below, which stands still where 5 % are
above. What was learned fades within a minute or so, towards the pool's mean and before what comes after: a pod avoided for being
slow is tried again.
"""

import math
from typing import Final

import numpy as np

from ralb_extproc.place.columns import Floats
from ralb_extproc.place.strategies.slots import PerSlot
from ralb_extproc.place.strategy import Served
from ralb_extproc.place.views import PoolView

_SHORT: Final = 32.0
_MEAN: Final = 0.1
_UP: Final = float(np.exp(0.1 * 0.95))
_DOWN: Final = float(np.exp(-0.1 * 0.05))
_FADE_SECONDS: Final = 60.0
_MOST: Final = 10.0


class Paces:
    """Paces of a pool's pods."""

    def __init__(self) -> None:
        self._mean = PerSlot()
        self._high = PerSlot()
        self._at = PerSlot()

    def learn(self, slot: int, served: Served, now: float) -> None:
        """A pod answered."""
        pace = served.duration / (served.output_tokens + _SHORT)
        if pace <= 0.0:
            return
        mean, high = self._mean[slot] or pace, self._high[slot] or pace
        kept = math.exp(min(0.0, (self._at[slot] - now) / _FADE_SECONDS))
        high = pace + kept * (high - pace)
        self._mean[slot] = pace + kept * (1.0 - _MEAN) * (mean - pace)
        self._high[slot] = high * (_UP if pace > high else _DOWN)
        self._at[slot] = now

    def forget(self, slot: int) -> None:
        """The pod is gone."""
        self._mean.forget(slot)
        self._high.forget(slot)

    def mean(self, view: PoolView, now: float) -> Floats:
        """Mean paces relative to the pool's, 0.1 to 10; 1 for pods not known."""
        return self._relative(self._mean.of(view), view, now)

    def high(self, view: PoolView, now: float) -> Floats:
        """95th percentiles relative to the pool's mean of them, 0.1 to 10; 1 for pods not known."""
        return self._relative(self._high.of(view), view, now)

    def _relative(self, paces: Floats, view: PoolView, now: float) -> Floats:
        known = paces > 0.0
        total = float(paces.sum())
        if not total:
            return np.ones(len(paces))
        out: Floats = paces * (np.count_nonzero(known) / total)
        np.clip(out, 1.0 / _MOST, _MOST, out=out)
        out -= 1.0
        out *= known
        out *= np.exp((self._at.of(view) - now) / _FADE_SECONDS)
        out += 1.0
        return out
