"""Whether a pod is slow for what it is asked: its times next to those its peers need for the same work.

Of each pod the means of log time y and of two features x (logs of the work and of the requests it had) are kept, over its last
dozen or two of answers. What the features explain is told by how y and x vary together *within* pods (the estimator of panel
data: Wooldridge, Econometric Analysis of Cross Section and Panel Data, ch. 10), so a pod that is slow and therefore full does
not pass for one that is slow because it is full:

    slope    b = argmin over all answers of sum (y - mean_pod y - b (x - mean_pod x))^2, drawn to a prior, within bounds
    level    a_pod = mean_pod y - b mean_pod x
    slowness s_pod = (a_pod - median of its peers' a) n / (n + PRIOR)     log of the factor; the last term keeps few answers from
                                                                          saying much

A pool that is slow as a whole has nobody who is slower than the others.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import log
from typing import Final

import numpy as np

from ralb_extproc.place.columns import Bools, Floats

PRIOR: Final = 3.0
_MEMORY: Final = 16.0
_POOL_MEMORY: Final = 400.0
_RIDGE: Final = 0.05
# One answer counts for no more than this factor more or less than its pod's mean.
_CLIP: Final = log(8.0)
# A peer with fewer answers is nobody's measure.
_PEER_MIN: Final = 6.0
_NOTHING: Final = (0.0, 0.0, 0.0, 0.0)


@dataclass(slots=True)
class Relation:
    """How one kind of time depends on two features, learned over a pool.

    Attributes:
        prior: slopes where nothing is learned.
        most: largest slopes believed; the least is 0.
    """

    prior: tuple[float, float]
    most: tuple[float, float]
    # By slot: how many answers (up to _MEMORY) and the means over them of y, x1 and x2.
    _pods: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)
    _s11: float = 0.0
    _s12: float = 0.0
    _s22: float = 0.0
    _s1y: float = 0.0
    _s2y: float = 0.0
    _seen: float = 0.0

    def count(self, slot: int) -> float:
        """How many answers of a pod the means are over."""
        return self._pods.get(slot, _NOTHING)[0]

    def forget(self, slot: int) -> None:
        """The slot is another pod's, or its pod another process."""
        self._pods.pop(slot, None)

    def add(self, slot: int, seconds: float, x1: float, x2: float) -> None:
        """Take in an answer of a pod; x1 and x2 are at least 0, before the logarithm."""
        if seconds <= 0.0:
            return
        y, x1, x2 = log(seconds), log(1.0 + x1), log(1.0 + x2)
        count, mean, m1, m2 = self._pods.get(slot, _NOTHING)
        if count:
            count = min(count, _MEMORY - 1.0)
            b1, b2 = self.slopes()
            d1, d2 = x1 - m1, x2 - m2
            # Clipped around what the pod's own mean and the slopes say, so that a large request is no outlier.
            expected = mean + b1 * d1 + b2 * d2
            y = min(max(y, expected - _CLIP), expected + _CLIP)
            self._vary(d1, d2, y - mean, count / (count + 1.0))
        part = 1.0 / (count + 1.0)
        self._pods[slot] = (count + 1.0, mean + part * (y - mean), m1 + part * (x1 - m1), m2 + part * (x2 - m2))

    def _vary(self, d1: float, d2: float, dy: float, weight: float) -> None:
        self._seen = min(self._seen + 1.0, _POOL_MEMORY)
        part = 1.0 / self._seen
        self._s11 += part * (weight * d1 * d1 - self._s11)
        self._s12 += part * (weight * d1 * d2 - self._s12)
        self._s22 += part * (weight * d2 * d2 - self._s22)
        self._s1y += part * (weight * d1 * dy - self._s1y)
        self._s2y += part * (weight * d2 * dy - self._s2y)

    def slopes(self) -> tuple[float, float]:
        """By how much log time grows with each feature."""
        p1, p2 = self.prior
        a, b, c = self._s11 + _RIDGE, self._s12, self._s22 + _RIDGE
        u, v = self._s1y + _RIDGE * p1, self._s2y + _RIDGE * p2
        over = a * c - b * b
        return (
            min(max((c * u - b * v) / over, 0.0), self.most[0]),
            min(max((a * v - b * u) / over, 0.0), self.most[1]),
        )

    def slowness(self, slots: Iterable[int]) -> Floats:
        """Log of how many times slower than its peers each of these pods is, (pods,); 0 = as they are."""
        known = np.array([self._pods.get(slot, _NOTHING) for slot in slots])
        count = known[:, 0]
        if np.count_nonzero(count) < 2:
            return np.zeros(len(known))
        b1, b2 = self.slopes()
        level = known[:, 1] - b1 * known[:, 2] - b2 * known[:, 3]
        out: Floats = level - peers_median(level, count >= _PEER_MIN)
        out *= count / (count + PRIOR)
        out[~np.isfinite(out)] = 0.0
        return out


def peers_median(values: Floats, counts: Bools) -> Floats:
    """For each of (n,) values the median of the others that count; NaN where nobody else does.

    Args:
        values: one per pod.
        counts: which of them may be a measure for others.
    """
    ranked = np.sort(values[counts])
    others = len(ranked) - counts
    # Of those ranked without oneself, the two in the middle; from one's own place on, they are one further along.
    low, high = (others - 1) // 2, others // 2
    own = np.where(counts, np.searchsorted(ranked, values), len(ranked))
    out = np.full(len(values), np.nan)
    some = others > 0
    low, high = low + (low >= own), high + (high >= own)
    out[some] = (ranked[low[some]] + ranked[high[some]]) / 2.0
    return out
