"""What the scraper cannot read, put together for the operator, which shows it on the pool.

Pure. Everything is bounded, sorted and slow to change: trouble counts once it has lasted a while, so that pods that start are
not told of, and equal troubles make equal reports.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ralb.v1 import snapshot_pb2 as pb

LASTING_S: Final = 15.0
# From the start until silence about a pod means that it is read: the first pages must have come, and lasted.
SETTLED_S: Final = LASTING_S + 5.0
MAX_POOLS: Final = 64
MAX_TROUBLES: Final = 4
MAX_EXAMPLES: Final = 3
_MAX_NAME: Final = 253


@dataclass(slots=True)
class Reading:
    """How reading one pod goes.

    Attributes:
        pool: pool id.
        name: of the pod, for people.
        missing: needed series its last page lacked, and since when (monotonic seconds).
        error: why its last page could not be had, "" if it could, and since when none could.
    """

    pool: str
    name: str
    missing: tuple[str, ...] = ()
    missing_since: float = 0.0
    error: str = ""
    error_since: float = 0.0

    def failed(self, error: str, now: float) -> None:
        """Its page could not be had."""
        if not self.error:
            self.error_since = now
        self.error = error

    def lacks(self, missing: tuple[str, ...], now: float) -> bool:
        """Its page was read; returns whether it lacks other series than before."""
        self.error = ""
        if missing == self.missing:
            return False
        self.missing, self.missing_since = missing, now
        return True


def report(readings: Iterable[Reading], now: float) -> pb.MetricsReport:
    """The report on pods that have been in trouble for ``LASTING_S`` at least."""
    pods: dict[str, int] = defaultdict(int)
    found: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for reading in readings:
        pods[reading.pool] += 1
        if reading.error:
            if now - reading.error_since >= LASTING_S:
                found[reading.pool]["", reading.error].append(reading.name)
        elif reading.missing and now - reading.missing_since >= LASTING_S:
            for series in reading.missing:
                found[reading.pool][series, ""].append(reading.name)
    out = pb.MetricsReport()
    for pool in sorted(found)[:MAX_POOLS]:
        entry = out.pools.add(pool=pool, pods=pods[pool])
        worst = sorted(found[pool].items(), key=lambda item: (-len(item[1]), item[0]))
        for (series, error), names in worst[:MAX_TROUBLES]:
            examples = sorted(name[:_MAX_NAME] for name in names)[:MAX_EXAMPLES]
            entry.troubles.add(series=series, error=error, pods=len(names), examples=examples)
    return out
