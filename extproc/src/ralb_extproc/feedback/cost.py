"""What a request cost, from its tokens and the pool's prices."""

from typing import Final

from ralb.v1.snapshot_pb2 import Cost
from ralb_extproc.feedback.learn import Usage

_PER: Final = 1e-6


def dollars(usage: Usage, cost: Cost) -> float:
    """US dollars. Cached input costs its own price, or the plain input price where the pool names none."""
    cached_price = cost.cached_input_per_million or cost.input_per_million
    fresh = max(0, usage.input - usage.cached)
    total = fresh * cost.input_per_million + usage.cached * cached_price + usage.output * cost.output_per_million
    return total * _PER
