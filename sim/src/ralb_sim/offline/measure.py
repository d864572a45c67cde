"""What a run was like: from the requests served to a row of figures. Pure functions.

An objective (SLO) is two limits: time to first token and time per output token. Without one given, `auto_slo` takes what a
lone request on an idle pod would get, times a generous factor, so that traces of short and of long prompts are each judged
by their own measure.

Trap: requests that were never served have no latencies, so percentiles leave them out; `failed` and `goodput` do not.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ralb_sim.engine.timing import StepShape, step_seconds
from ralb_sim.offline.trace import Row, Trace
from ralb_sim.profiles import Profile

if TYPE_CHECKING:
    from ralb_sim.offline.world import Run

_TTFT_FACTOR = 5.0
_TPOT_FACTOR = 8.0
_LEAST_TTFT = 0.2

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must meet to count as good, seconds. TPOT is not asked of answers of one token."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run, over its measured requests. Times in seconds; NaN where there is nothing to measure.

    Attributes:
        count: measured requests.
        failed: those of them that were never served whole.
        ttft_mean / ttft_p50 / ttft_p90 / ttft_p99: arrival to first token.
        tpot_p50: time per output token after the first.
        e2e_p50 / e2e_p99: arrival to last token.
        output_tok_s: answer tokens made per second of the measured span, whoever's: under overload less than is asked for.
        goodput: requests per second that met the objective.
        prefix_hit: share of the served prompt tokens that came from prefix caches.
        max_mean_work: seconds of work of the busiest pod over the mean of all; see ``SimPod.work``.
    """

    count: int
    failed: int
    ttft_mean: float
    ttft_p50: float
    ttft_p90: float
    ttft_p99: float
    tpot_p50: float
    e2e_p50: float
    e2e_p99: float
    output_tok_s: float
    goodput: float
    prefix_hit: float
    max_mean_work: float


def figures(run: "Run", slo: Slo) -> Figures:
    """The figures of a run under an objective."""
    measured = [request for request in run.requests if request.measured]
    served = [request for request in measured if request.first_token >= 0 and request.finished >= 0]
    times = np.array([(r.arrived, r.first_token, r.finished) for r in served], dtype=np.float64).reshape(-1, 3)
    tokens = np.array([(r.input, r.output, r.cached) for r in served], dtype=np.float64).reshape(-1, 3)
    ttft, e2e = times[:, 1] - times[:, 0], times[:, 2] - times[:, 0]
    gaps = tokens[:, 1] - 1
    several = gaps > 0
    tpot = np.divide(times[:, 2] - times[:, 1], gaps, out=np.zeros(len(served)), where=several)
    good = int(np.count_nonzero((ttft <= slo.ttft_s) & (tpot <= slo.tpot_s)))
    return Figures(
        count=len(measured),
        failed=len(measured) - len(served),
        ttft_mean=float(ttft.mean()) if len(served) else float("nan"),
        ttft_p50=percentile(ttft, 50),
        ttft_p90=percentile(ttft, 90),
        ttft_p99=percentile(ttft, 99),
        tpot_p50=percentile(tpot[several], 50),
        e2e_p50=percentile(e2e, 50),
        e2e_p99=percentile(e2e, 99),
        output_tok_s=_ratio(_tokens_within(run), run.span_s),
        goodput=_ratio(good, run.span_s),
        prefix_hit=_ratio(float(tokens[:, 2].sum()), float(tokens[:, 0].sum())),
        max_mean_work=_ratio(max(run.work, default=0.0) * len(run.work), sum(run.work)),
    )


def _tokens_within(run: "Run") -> float:
    """Answer tokens made during the measured span, those of requests that came before it too."""
    begin = min((request.arrived for request in run.requests if request.measured), default=0.0)
    made = [(r.first_token, r.finished, r.output - 1) for r in run.requests if r.first_token >= 0 and r.finished >= 0]
    first, last, gaps = np.array(made, dtype=np.float64).reshape(-1, 3).T
    end = begin + run.span_s
    inside = np.maximum(0.0, np.minimum(last, end) - np.maximum(first, begin))
    even = np.divide(inside * gaps, last - first, out=np.zeros(len(made)), where=last > first)
    return float(even.sum()) + int(np.count_nonzero((first >= begin) & (first <= end)))


def ttft_curve(run: "Run", points: int = 201) -> list[float]:
    """Quantiles 0 to 1, evenly spaced, of the measured TTFTs (s); empty when nothing was served."""
    ttft = [r.first_token - r.arrived for r in run.requests if r.measured and r.first_token >= 0 and r.finished >= 0]
    return np.quantile(ttft, np.linspace(0, 1, points)).tolist() if ttft else []


def percentile(values: Floats | Sequence[float], share: float) -> float:
    """The percentile, interpolated; NaN of nothing."""
    return float(np.percentile(values, share)) if len(values) else float("nan")


def auto_slo(trace: Trace, profile: Profile) -> Slo:
    """An objective from the trace itself: what idle pods of the profile would give, times a factor.

    TTFT: 5 x the 90th percentile, over all rows, of prefilling the tokens an endless prefix cache does not have, alone on a
    pod; at least 0.2 s. TPOT: 8 x a lone decode step at the mean context of all decode steps; the batch of
    a well used pod makes steps several times as long as a lone one's.
    """
    alone = [_prefill_seconds(profile, row.input - cached, cached) for row, cached in _endless_cache(trace)]
    answers = sum(row.output for row in trace.rows)
    context = sum(row.output * (row.input + row.output / 2) for row in trace.rows) / answers
    step = step_seconds(profile, StepShape(tokens=1, decode_context=round(context)))
    return Slo(max(_LEAST_TTFT, _TTFT_FACTOR * percentile(alone, 90)), _TPOT_FACTOR * step)


def _endless_cache(trace: Trace) -> Iterable[tuple[Row, int]]:
    """Each row with the prompt tokens that earlier prompts had, answers not counted; one token is always left to do."""
    seen: set[int] = set()
    for row in trace.rows:
        # Ids are chained: those seen before come first, so the first new one can be searched by halves.
        known = bisect_left(row.blocks, True, key=lambda block: block not in seen)
        seen.update(row.blocks[known:])
        yield row, min(known * trace.block_tokens, row.input - 1)


def _prefill_seconds(profile: Profile, new: int, computed: int) -> float:
    seconds = 0.0
    while new > 0:
        chunk = min(new, profile.max_num_batched_tokens)
        shape = StepShape()
        shape.add_prefill(chunk, computed)
        seconds += step_seconds(profile, shape)
        new -= chunk
        computed += chunk
    return seconds


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
