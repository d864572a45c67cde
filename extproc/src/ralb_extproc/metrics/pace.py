"""How often to scrape: fast where something happens, slow where nothing does, and never more than a share of the CPU.

Pure arithmetic over numbers the scraper measures.
"""

from dataclasses import dataclass
from typing import Final

FAST: Final = 0.15
SLOW: Final = 2.0
ERROR: Final = 1.0
LONGEST: Final = 5.0
_GROWTH: Final = 1.6
_WINDOW: Final = 1.0
_MAX_STRETCH: Final = 32.0


def next_interval(last: float, *, busy: bool, changed: bool, failed: bool) -> float:
    """Seconds to the next scrape of a pod, before stretching.

    Args:
        last: the interval before.
        busy: whether requests of ours are in flight there.
        changed: whether the pod's load differs from the reading before.
        failed: whether the last scrape failed.
    """
    if failed:
        return min(max(last, FAST) * _GROWTH, ERROR)
    if busy or changed:
        return FAST
    return min(last * _GROWTH, SLOW)


@dataclass(slots=True)
class Pace:
    """The factor by which all intervals are stretched so that scraping keeps within its budget.

    Once a window the factor is multiplied by (CPU used / CPU allowed), or raised when the event loop runs late whatever the
    cause, and falls back towards 1 otherwise.

    Attributes:
        budget: share of one CPU that scraping may use.
        late: mean lateness of wake-ups in seconds above which the loop counts as overloaded.
        stretch: the factor, at least 1.
    """

    budget: float = 0.15
    late: float = 0.02
    stretch: float = 1.0
    _since: float = 0.0
    _used: float = 0.0
    _lateness: float = 0.0
    _wakes: int = 0

    def spent(self, seconds: float) -> None:
        """Take in CPU seconds used."""
        self._used += seconds

    def woke(self, now: float, lateness: float) -> None:
        """Take in one wake-up, by how many seconds it was late; closes the window when it is full."""
        self._lateness += max(0.0, lateness)
        self._wakes += 1
        if not self._since:
            self._since = now
        span = now - self._since
        if span < _WINDOW:
            return
        pressure = self._used / span / self.budget
        if self._lateness / self._wakes > self.late:
            pressure = max(pressure, 1.5)
        self.stretch = min(max(self.stretch * min(max(pressure, 0.7), 2.0), 1.0), _MAX_STRETCH)
        self._since, self._used, self._lateness, self._wakes = now, 0.0, 0.0, 0

    def stretched(self, interval: float) -> float:
        """Seconds to wait for a wanted interval."""
        return min(interval * self.stretch, LONGEST)
