"""What became of requests, and what is learned from it: of a pod's health, its speed, its cache."""

from typing import Final

from ralb_extproc.place import columns as col
from ralb_extproc.place.facts import Facts
from ralb_extproc.place.ledger import Flight

_PREFILL_RATE_MIN: Final = 100.0
_PREFILL_RATE_MAX: Final = 1e6
_PREFILL_LEARN_TOKENS: Final = 256
_LEARN: Final = 0.05
_TRUST_MIN: Final = 0.05


def fail(facts: Facts, slot: int, now: float, *, refused: bool, begun: float) -> None:
    """A request failed on the pod."""
    key = facts.roster.member(slot)
    if key is not None and begun >= facts.roster.cells[col.FIRST_SEEN, slot]:
        facts.ward.failed(key.pool, slot, refused=refused)
        facts.put_last(slot, key.pool, now)


def succeed(facts: Facts, slot: int, now: float) -> None:
    """A request was served."""
    key = facts.roster.member(slot)
    if key is not None:
        if facts.roster.cells[col.FAILURES, slot]:
            facts.came_back(slot, key.pool, now)
        facts.ward.served(key.pool, slot)


def limit(facts: Facts, slot: int, seconds: float | None, now: float) -> None:
    """The pod wants no work for a while."""
    key = facts.roster.member(slot)
    if key is not None:
        facts.ward.limited(key.pool, slot, seconds, now)
        facts.stale(key.pool)


def learn_times(
    facts: Facts, flight: Flight, *, ttft: float | None, duration: float, output: int, cached: float | None
) -> None:
    """Learn how fast a pod is, and its pool."""
    key, slot = facts.roster.member(flight.slot), flight.slot
    if key is None or key.generation != flight.generation:
        return
    uncached = flight.uncached if cached is None else max(0.0, flight.info.input_tokens - cached)
    facts.ward.timed(flight, key.pool, ttft=ttft, duration=duration, output=output, uncached=uncached)
    model = facts.models.get(key.pool)
    if model is not None and flight.note is not None:
        cells = facts.roster.cells
        ratio = model.served(flight.note, cells[col.INFLIGHT, slot], ttft, duration, output, cached)
        if ratio is not None:
            facts.clock.served(cells, slot, ratio)


def learn_prefill(facts: Facts, flight: Flight, ttft: float) -> None:
    """Correct the prefill rate of a pool."""
    tokens = flight.ahead + flight.uncached
    key, data = facts.roster.member(flight.slot), facts.roster.data
    if ttft <= 0.0 or tokens < _PREFILL_LEARN_TOKENS or key is None or key.generation != flight.generation:
        return
    rate = min(max(tokens / ttft, _PREFILL_RATE_MIN), _PREFILL_RATE_MAX)
    old = float(data[col.PREFILL_RATE, flight.slot])
    data[col.PREFILL_RATE, facts.roster.views[key.pool].select] = old ** (1.0 - _LEARN) * rate**_LEARN


def learn_hits(facts: Facts, slot: int, expected: float, actual: float) -> None:
    """Correct the trust in expected prefix hits of a pod."""
    if expected > 0.0 and facts.roster.member(slot) is not None:
        cells = facts.roster.cells
        trust = cells[col.HIT_TRUST, slot]
        came_true = min(max(actual * min(1.0, trust / col.DOUBT) / expected, 0.0), 1.0)
        cells[col.HIT_TRUST, slot] = max(_TRUST_MIN, trust + _LEARN * (came_true - trust))
