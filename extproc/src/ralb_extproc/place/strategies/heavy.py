"""Which keys bring more than their share of a pool's requests: the space-saving sketch, with counts that fade.

Space-saving (Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k Elements in Data Streams, 2005): k
counters; a key without one takes over the smallest, and remembers its count as its possible error. Count less error is never
more than the truth, and whatever has more than 1/k of all requests has a counter. Requests fade with a time constant of a
minute (forward decay: later ones weigh more, and all are scaled down now and then).
"""

import math
from dataclasses import dataclass
from typing import Final

FADE_SECONDS: Final = 60.0
# Below so many recent requests no key is called heavy: two conversations in a quiet pool are half of its work each.
FEW_REQUESTS: Final = 64.0
_COUNTERS_MIN: Final = 16
_COUNTERS_MAX: Final = 400
_RESCALE: Final = 20.0  # time constants
_EXPONENT_MAX: Final = 600.0  # e^600 is still a number


@dataclass(slots=True)
class _Counter:
    count: float
    error: float
    turn: int = 0


class HeavyKeys:
    """Keys and their shares.

    Args:
        share: the largest share of the requests that one key may bring to one pod, above 0, at most 1.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._room = min(max(_COUNTERS_MIN, math.ceil(4.0 / share)), _COUNTERS_MAX)
        self._counters: dict[int, _Counter] = {}
        self._total = 0.0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._counters)

    def count(self, key: int, now: float) -> None:
        """A request with this key."""
        if not self._counters:
            self._since = now
        if now - self._since > _RESCALE * FADE_SECONDS:
            self._rescale(now)
        weight = self._scale(now)
        self._total += weight
        counter = self._counters.get(key)
        if counter is None:
            least = 0.0
            if len(self._counters) >= self._room:
                smallest = min(self._counters, key=lambda each: self._counters[each].count)
                least = self._counters.pop(smallest).count
            counter = self._counters[key] = _Counter(least, least)
        counter.count += weight
        counter.turn += 1

    def spread(self, key: int, now: float) -> tuple[int, int]:
        """(over how many pods the key is to be spread, whose turn it is); (1, 0) for a key within its share."""
        counter = self._counters.get(key)
        if counter is None or self._total < FEW_REQUESTS * self._scale(now):
            return 1, 0
        pods = math.ceil((counter.count - counter.error) / (self._total * self._share) - 1e-9)
        return (pods, counter.turn % pods) if pods > 1 else (1, 0)

    def _scale(self, now: float) -> float:
        """What a request of now counts."""
        return math.exp(min((now - self._since) / FADE_SECONDS, _EXPONENT_MAX))

    def _rescale(self, now: float) -> None:
        factor = 1.0 / self._scale(now)
        self._total *= factor
        for counter in self._counters.values():
            counter.count *= factor
            counter.error *= factor
        self._since = now
