"""From counters to rates: what a pod's readings, taken together, say of how fast it works.

Counters are compared with those of the reading before; means of times are sums over counts, both forgotten at one pace, so that
an interval counts by how much happened in it. Only the results are columns of the table: what is needed to compute them stays
here, since every column costs something with every decision. The trap is that pages come from outside: counters may fall, jump
or stand still, and two readings may be a moment apart. May not enter: what to make of the rates (``strategies``, ``speed``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, NamedTuple

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Cells
from ralb_extproc.place.sample import PodSample

# Readings closer together than this are taken as one interval with the next.
MIN_SECONDS: Final = 0.05
HALF_LIFE: Final = 3.0
# Prefix counters move when requests are admitted, in jumps as large as a prompt.
PREFIX_HALF_LIFE: Final = 10.0
MAX_RATE: Final = 1e8  # per second
MAX_ITL: Final = 600.0  # seconds
MAX_ACCEPTANCE: Final = 65.0
MAX_PREFILL: Final = 3600.0  # seconds
# Rates: their place among the counters, their column, their half-life.
_RATES: Final = (
    (0, col.QUERY_RATE, PREFIX_HALF_LIFE),
    (1, col.HIT_RATE, PREFIX_HALF_LIFE),
    (2, col.PREEMPTION_RATE, HALF_LIFE),
    (3, col.PROMPT_RATE, HALF_LIFE),
    (4, col.GENERATION_RATE, HALF_LIFE),
)
_DERIVED: Final = (
    col.QUERY_RATE,
    col.HIT_RATE,
    col.PREEMPTION_RATE,
    col.PROMPT_RATE,
    col.GENERATION_RATE,
    col.ITL,
    col.PREFILL_SECONDS,
)


class _Grown(NamedTuple):
    """By how much each counter of a sample grew since the one before; None unless both have it."""

    prefix_queries: float | None
    prefix_hits: float | None
    preemptions: float | None
    prompt_tokens: float | None
    generation_tokens: float | None
    first_tokens: float | None
    itl_seconds: float | None
    itl_steps: float | None
    itl_tokens: float | None
    prefill_seconds: float | None
    prefill_count: float | None
    spec_drafts: float | None
    spec_accepted: float | None

    @property
    def restarted(self) -> bool:
        """Whether a counter fell that only a new process sets back."""
        return any(
            more is not None and more < 0.0
            for more in (self.prefix_queries, self.prompt_tokens, self.generation_tokens)
        )


_counters: Final[Callable[[PodSample], tuple[float | None, ...]]] = attrgetter(*_Grown._fields)


@dataclass(slots=True)
class _Mean:
    """A mean over the last seconds: a sum and a count, both fading."""

    total: float = 0.0
    count: float = 0.0

    def add(self, total: float, count: float, keep: float, most: float) -> float | None:
        """Take in an interval in which ``count`` things took ``total``; None if that cannot be, or nothing is known."""
        if total < 0.0 or count < 0.0 or (total > 0.0 and count == 0.0) or total > most * count:
            return None
        self.total = self.total * keep + total
        self.count = self.count * keep + count
        return self.total / self.count if self.count > 1e-9 else None


@dataclass(slots=True)
class _Before:
    """The reading that the next is compared with, and means in the making."""

    at: float
    counters: tuple[float | None, ...]
    rated: bool = False
    itl: _Mean = field(default_factory=_Mean)
    prefill: _Mean = field(default_factory=_Mean)
    accepted: _Mean = field(default_factory=_Mean)

    def grown(self, counters: tuple[float | None, ...]) -> _Grown:
        return _Grown._make(
            [
                None if before is None or after is None else after - before
                for before, after in zip(self.counters, counters, strict=True)
            ]
        )


class Observer:
    """Turns the readings of all pods into rates.

    Attributes:
        odd: counters that fell or jumped beyond reason, or times that cannot be; each was passed over.
    """

    def __init__(self) -> None:
        self.odd = 0
        self._before: dict[int, _Before] = {}

    def forget(self, slot: int) -> None:
        """The slot is another pod's from now on."""
        self._before.pop(slot, None)

    def take(self, cells: Cells, slot: int, sample: PodSample) -> bool:
        """Take in a reading of a slot's pod and set its columns; returns whether its engine started anew since the last."""
        before, counters = self._before.get(slot), _counters(sample)
        if before is None:
            self._start(cells, slot, sample, counters)
            return False
        grown = before.grown(counters)
        if grown.restarted:
            for column in _DERIVED:
                cells[column, slot] = 0.0
            cells[col.ACCEPTANCE, slot] = 1.0
            self._start(cells, slot, sample, counters)
            return True
        seconds = sample.started - before.at
        if seconds < MIN_SECONDS:
            return False
        keep = 0.5 ** (seconds / HALF_LIFE)
        self._gauges(cells, slot, sample, keep)
        self._rates(cells, slot, before, grown, seconds, counted=sample.generation_rate is None)
        self._means(cells, slot, before, grown, keep)
        before.at, before.counters, before.rated = sample.started, counters, True
        return False

    def _start(self, cells: Cells, slot: int, sample: PodSample, counters: tuple[float | None, ...]) -> None:
        self._before[slot] = _Before(sample.started, counters)
        self._gauges(cells, slot, sample, 0.0)

    def _gauges(self, cells: Cells, slot: int, sample: PodSample, keep: float) -> None:
        """What engines have averaged themselves."""
        if sample.generation_rate is not None:
            self._set(cells, slot, col.GENERATION_RATE, sample.generation_rate, MAX_RATE, keep)
        if sample.acceptance is not None:
            self._set(cells, slot, col.ACCEPTANCE, sample.acceptance, MAX_ACCEPTANCE, keep)

    def _set(self, cells: Cells, slot: int, column: int, value: float, most: float, keep: float) -> None:
        if value > most:
            self.odd += 1
        else:
            cells[column, slot] += (1.0 - keep) * (value - cells[column, slot])

    def _rates(self, cells: Cells, slot: int, before: _Before, grown: _Grown, seconds: float, *, counted: bool) -> None:
        for place, column, half_life in _RATES:
            more = grown[place]
            if more is None or (column == col.GENERATION_RATE and not counted):
                continue
            if not 0.0 <= more <= MAX_RATE * seconds:
                self.odd += 1
                continue
            keep = 0.5 ** (seconds / half_life) if before.rated else 0.0
            old = cells[column, slot]
            cells[column, slot] = old + (1.0 - keep) * (more / seconds - old)

    def _means(self, cells: Cells, slot: int, before: _Before, grown: _Grown, keep: float) -> None:
        accepted, drafts, steps = grown.spec_accepted, grown.spec_drafts, grown.itl_steps
        if accepted is not None and drafts is not None:
            # A step without a draft (none was found) gives one token like any other.
            mean = self._mean(before.accepted, accepted, max(drafts, steps or 0.0), keep, MAX_ACCEPTANCE - 1.0)
            if mean is not None:
                cells[col.ACCEPTANCE, slot] = 1.0 + mean
        tokens = grown.itl_tokens
        if tokens is None and steps is not None:
            tokens = _tokens(grown, steps)
        if grown.itl_seconds is not None and tokens is not None:
            mean = self._mean(before.itl, grown.itl_seconds, tokens, keep, MAX_ITL)
            if mean is not None:
                cells[col.ITL, slot] = mean
        if grown.prefill_seconds is not None and grown.prefill_count is not None:
            mean = self._mean(before.prefill, grown.prefill_seconds, grown.prefill_count, keep, MAX_PREFILL)
            if mean is not None:
                cells[col.PREFILL_SECONDS, slot] = mean

    def _mean(self, mean: _Mean, total: float, count: float, keep: float, most: float) -> float | None:
        found = mean.add(total, count, keep, most)
        if found is None and (total or count):
            self.odd += 1
        return found


def _tokens(grown: _Grown, steps: float) -> float:
    """Tokens in so many outputs after the first of a request.

    A speculating engine puts several into one: they are all tokens but the first of each answer, or else one for each output
    and those accepted.
    """
    made, first = grown.generation_tokens, grown.first_tokens
    tokens = made - first if made is not None and first is not None else steps + (grown.spec_accepted or 0.0)
    return min(max(tokens, steps), steps * MAX_ACCEPTANCE)
