"""From counters to rates: what a pod's readings, taken together, say of how fast it works.

Counters are compared with those of the reading before; means of times are sums over counts, both forgotten at one pace, so that
an interval counts by how much happened in it. Only the results are columns of the table: what is needed to compute them stays
here, since every column costs something with every decision. The trap is that pages come from outside: counters may fall, jump
or stand still, and two readings may be a moment apart. May not enter: what to make of the rates (``strategies``, ``speed``).
"""

from dataclasses import dataclass, field
from typing import Final

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Floats
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
_SINCE_START: Final = ("prefix_queries", "prompt_tokens", "generation_tokens")
# Counter, column of its rate, half-life.
_RATES: Final = (
    ("prefix_queries", col.QUERY_RATE, PREFIX_HALF_LIFE),
    ("prefix_hits", col.HIT_RATE, PREFIX_HALF_LIFE),
    ("preemptions", col.PREEMPTION_RATE, HALF_LIFE),
    ("prompt_tokens", col.PROMPT_RATE, HALF_LIFE),
    ("generation_tokens", col.GENERATION_RATE, HALF_LIFE),
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

    sample: PodSample
    rated: bool = False
    itl: _Mean = field(default_factory=_Mean)
    prefill: _Mean = field(default_factory=_Mean)
    accepted: _Mean = field(default_factory=_Mean)


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

    def take(self, data: Floats, slot: int, sample: PodSample) -> bool:
        """Take in a reading of a slot's pod and set its columns; returns whether its engine started anew since the last."""
        before = self._before.get(slot)
        if before is not None and _fell(before.sample, sample):
            data[list(_DERIVED), slot] = 0.0
            data[col.ACCEPTANCE, slot] = 1.0
            before, restarted = None, True
        else:
            restarted = False
        if before is None:
            self._before[slot] = _Before(sample)
            self._gauges(data, slot, sample, 0.0)
            return restarted
        seconds = sample.started - before.sample.started
        if seconds < MIN_SECONDS:
            return False
        keep = 0.5 ** (seconds / HALF_LIFE)
        self._gauges(data, slot, sample, keep)
        self._rates(data, slot, before, sample, seconds)
        self._means(data, slot, before, sample, keep)
        before.sample, before.rated = sample, True
        return False

    def _gauges(self, data: Floats, slot: int, sample: PodSample, keep: float) -> None:
        """What engines have averaged themselves."""
        if sample.generation_rate is not None:
            self._set(data, slot, col.GENERATION_RATE, sample.generation_rate, MAX_RATE, keep)
        if sample.acceptance is not None:
            self._set(data, slot, col.ACCEPTANCE, sample.acceptance, MAX_ACCEPTANCE, keep)

    def _set(self, data: Floats, slot: int, column: int, value: float, most: float, keep: float) -> None:
        if value > most:
            self.odd += 1
        else:
            data[column, slot] += (1.0 - keep) * (value - data[column, slot])

    def _rates(self, data: Floats, slot: int, before: _Before, sample: PodSample, seconds: float) -> None:
        for name, column, half_life in _RATES:
            more = _more(before.sample, sample, name)
            if more is None or (column == col.GENERATION_RATE and sample.generation_rate is not None):
                continue
            if not 0.0 <= more <= MAX_RATE * seconds:
                self.odd += 1
                continue
            keep = 0.5 ** (seconds / half_life) if before.rated else 0.0
            data[column, slot] += (1.0 - keep) * (more / seconds - data[column, slot])

    def _means(self, data: Floats, slot: int, before: _Before, sample: PodSample, keep: float) -> None:
        old = before.sample
        steps = _more(old, sample, "itl_steps")
        accepted = _more(old, sample, "spec_accepted")
        drafts = _more(old, sample, "spec_drafts")
        if accepted is not None and drafts is not None:
            # A step without a draft (none was found) gives one token like any other.
            mean = self._mean(before.accepted, accepted, max(drafts, steps or 0.0), keep, MAX_ACCEPTANCE - 1.0)
            if mean is not None:
                data[col.ACCEPTANCE, slot] = 1.0 + mean
        took = _more(old, sample, "itl_seconds")
        tokens = _more(old, sample, "itl_tokens")
        if tokens is None and steps is not None:
            tokens = _tokens(old, sample, steps, accepted)
        if took is not None and tokens is not None:
            mean = self._mean(before.itl, took, tokens, keep, MAX_ITL)
            if mean is not None:
                data[col.ITL, slot] = mean
        took, count = _more(old, sample, "prefill_seconds"), _more(old, sample, "prefill_count")
        if took is not None and count is not None:
            mean = self._mean(before.prefill, took, count, keep, MAX_PREFILL)
            if mean is not None:
                data[col.PREFILL_SECONDS, slot] = mean

    def _mean(self, mean: _Mean, total: float, count: float, keep: float, most: float) -> float | None:
        found = mean.add(total, count, keep, most)
        if found is None and (total or count):
            self.odd += 1
        return found


def _fell(old: PodSample, new: PodSample) -> bool:
    """Whether a counter fell that only a new process sets back."""
    for name in _SINCE_START:
        more = _more(old, new, name)
        if more is not None and more < 0.0:
            return True
    return False


def _more(old: PodSample, new: PodSample, name: str) -> float | None:
    """By how much a counter grew; None unless both readings have it."""
    before, after = getattr(old, name), getattr(new, name)
    return None if before is None or after is None else after - before


def _tokens(old: PodSample, new: PodSample, steps: float, accepted: float | None) -> float:
    """Tokens in so many outputs after the first of a request.

    A speculating engine puts several into one: they are all tokens but the first of each answer, or else one for each output
    and those accepted.
    """
    made, first = _more(old, new, "generation_tokens"), _more(old, new, "first_tokens")
    tokens = made - first if made is not None and first is not None else steps + (accepted or 0.0)
    return min(max(tokens, steps), steps * MAX_ACCEPTANCE)
