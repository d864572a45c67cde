"""Two orderings of the same things compared: rank correlation, and which pairs are told apart at all. Pure functions."""

import math
import statistics
from collections.abc import Sequence


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each, 1 = least; equal ones share the mean of their ranks."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: 1 = same ordering, -1 = the opposite; NaN where one side has no ordering."""
    one, other = ranks(a), ranks(b)
    try:
        return statistics.correlation(one, other)
    except statistics.StatisticsError:
        return math.nan


def told_apart(a: Sequence[float], b: Sequence[float]) -> int:
    """-1 or 1 when all of ``a`` are below or above all of ``b``; 0 = they overlap."""
    if max(a) < min(b):
        return -1
    return 1 if min(a) > max(b) else 0
