"""What a request cost, and what it would have cost had it gone to the most able tier its policy can reach."""

from typing import TYPE_CHECKING

from ralb.v1.snapshot_pb2 import Pool

if TYPE_CHECKING:  # they stand above ``place``, which asks for prices
    from ralb_extproc.feedback import Usage
    from ralb_extproc.table import RoutingTable


def price(pool: Pool, uncached: float, cached: float, output: float) -> float:
    """US dollars of so many prompt and answer tokens at a pool's prices."""
    cost = pool.cost
    total = (
        uncached * cost.input_per_million + cached * cost.cached_input_per_million + output * cost.output_per_million
    )
    return float(total / 1e6)


def dollars(pool: Pool, usage: "Usage") -> float:
    """US dollars of a usage at a pool's prices; cached prompt tokens at their own price."""
    return price(pool, max(usage.input - usage.cached, 0), usage.cached, usage.output)


def top_tier_dollars(table: "RoutingTable", policy: str, usage: "Usage") -> float | None:
    """US dollars of the same tokens on the first pool of the policy's highest tier; None without a policy.

    The same number of tokens is assumed: a more able model may well write more, so this errs on the low side.
    """
    entry = next((entry for entry in table.policies if entry.id == policy), None)
    if entry is None or not entry.tiers:
        return None
    candidates = table.tier_candidates.get(entry.tiers[0], ())
    pool = table.pools.get(candidates[0].pool) if candidates else None
    return None if pool is None else dollars(pool, usage)
