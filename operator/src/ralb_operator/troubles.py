"""What processors cannot read of pods' metrics, as they tell it on their snapshot streams.

Pure. What to say of it to a pool's author is in ``cluster.scraping``. Whatever a processor sends, the result is bounded.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ralb.v1.snapshot_pb2 import MetricsReport

MAX_POOLS: Final = 64
MAX_TROUBLES: Final = 4
MAX_EXAMPLES: Final = 3
_MAX_POOL: Final = 253 * 2 + 1
_MAX_SERIES: Final = 128
_MAX_ERROR: Final = 32
_MAX_NAME: Final = 253
_MAX_PODS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing amiss with some of a pool's pods.

    Attributes:
        pool: pool id.
        series: what they do not publish; "" = their page cannot be had at all.
        error: why not, in a word.
        pods, of: how many, of how many.
        examples: names of some, sorted.
    """

    pool: str
    series: str
    error: str
    pods: int
    of: int
    examples: tuple[str, ...] = ()


def told(report: MetricsReport) -> tuple[Trouble, ...]:
    """What one processor told."""
    return tuple(
        Trouble(
            pool.pool[:_MAX_POOL],
            _clean(trouble.series, _MAX_SERIES),
            _clean(trouble.error, _MAX_ERROR),
            min(trouble.pods, _MAX_PODS),
            min(pool.pods, _MAX_PODS),
            tuple(sorted(_clean(name, _MAX_NAME) for name in trouble.examples[:MAX_EXAMPLES])),
        )
        for pool in report.pools[:MAX_POOLS]
        for trouble in pool.troubles[:MAX_TROUBLES]
    )


def merged(troubles: Iterable[Trouble]) -> tuple[Trouble, ...]:
    """The same troubles told by several as one, the worst first within a pool.

    All processors read all pods, so counts are not added: the highest is the truth, or was a moment ago.
    """
    same: dict[tuple[str, str, str], list[Trouble]] = defaultdict(list)
    for trouble in troubles:
        same[trouble.pool, trouble.series, trouble.error].append(trouble)
    pools: dict[str, list[Trouble]] = defaultdict(list)
    for (pool, series, error), group in same.items():
        names = sorted({name for trouble in group for name in trouble.examples})[:MAX_EXAMPLES]
        pods, of = max(trouble.pods for trouble in group), max(trouble.of for trouble in group)
        pools[pool].append(Trouble(pool, series, error, pods, of, tuple(names)))
    return tuple(
        trouble
        for pool in sorted(pools)[:MAX_POOLS]
        for trouble in sorted(pools[pool], key=lambda t: (-t.pods, t.series, t.error))[:MAX_TROUBLES]
    )


def _clean(text: str, limit: int) -> str:
    return "".join(ch if ch.isprintable() else "?" for ch in text[:limit])
