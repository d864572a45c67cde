"""The figures of a run, by hand."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from ralb_sim.engine.timing import StepShape, step_seconds
from ralb_sim.offline.measure import Slo, auto_slo, figures, ttft_curve
from ralb_sim.offline.trace import Row, Trace
from ralb_sim.profiles import get_profile

PROFILE = get_profile("llama-3-8b-l4")
SLO = Slo(ttft_s=1.0, tpot_s=0.1)


@dataclass
class Asked:
    """As the world's Served."""

    arrived: float = 0.0
    first_token: float = 1.0
    finished: float = 2.0
    input: int = 100
    output: int = 11
    cached: int = 0
    measured: bool = True


@dataclass
class Played:
    """As the world's Run."""

    requests: list[Asked]
    work: list[float] = field(default_factory=lambda: [1.0])
    span_s: float = 10.0


def measured(requests: list[Asked], slo: Slo = SLO, **run: Any) -> Any:
    return figures(Played(requests, **run), slo)  # type: ignore[arg-type]


def test_times_count_from_arrival() -> None:
    result = measured(
        [Asked(arrived=5, first_token=5.5, finished=7.5), Asked(arrived=6, first_token=7.5, finished=9.5)]
    )
    assert (result.ttft_mean, result.ttft_p50) == (1.0, 1.0)
    assert (result.ttft_p90, result.ttft_p99) == (pytest.approx(1.4), pytest.approx(1.49))
    assert (result.e2e_p50, result.e2e_p99) == (3.0, pytest.approx(3.49 + 0.0, abs=0.02))
    assert result.tpot_p50 == pytest.approx(0.2)


def test_answers_of_one_token_have_no_tpot() -> None:
    one = Asked(first_token=1, finished=1, output=1)
    assert math.isnan(measured([one]).tpot_p50)
    assert measured([one, Asked(first_token=1, finished=3, output=5)]).tpot_p50 == pytest.approx(0.5)
    assert measured([one]).goodput == 0.1  # nor can it miss the objective


def test_goodput_needs_both_limits() -> None:
    good = Asked(first_token=1.0, finished=2.0)  # exactly at both
    late = Asked(first_token=1.01, finished=1.5)
    slow = Asked(first_token=0.5, finished=1.6)
    assert [measured([one]).goodput for one in (good, late, slow)] == [0.1, 0.0, 0.0]
    assert measured([good, late, slow, good], span_s=4.0).goodput == 0.5
    assert measured([late], slo=Slo(2.0, 0.1)).goodput == 0.1


def test_never_served_requests_are_failures() -> None:
    requests = [Asked(), Asked(first_token=-1, finished=-1), Asked(first_token=0.1, finished=-1)]
    result = measured(requests)
    assert (result.count, result.failed) == (3, 2)
    assert (result.ttft_mean, result.goodput, result.output_tok_s) == (1.0, 0.1, 1.1)


def test_what_is_not_measured_does_not_count() -> None:
    requests = [Asked(), Asked(first_token=50, finished=60, output=500, cached=100, measured=False)]
    assert measured(requests) == measured(requests[:1])
    assert ttft_curve(Played(requests)) == [1.0] * 201  # type: ignore[arg-type]


def test_throughput_hits_and_balance() -> None:
    requests = [Asked(input=300, cached=240, output=20), Asked(input=100, cached=0, output=10)]
    result = measured(requests, work=[3.0, 1.0, 2.0], span_s=5.0)
    assert (result.output_tok_s, result.prefix_hit, result.max_mean_work) == (6.0, 0.6, 1.5)


def test_throughput_is_what_was_made_in_the_span() -> None:
    before = Asked(arrived=0, first_token=1, finished=21, output=101, measured=False)  # half of it in the span
    after = Asked(arrived=11, first_token=19, finished=23, output=41)  # half of it, and its first token
    too_late = Asked(arrived=12, first_token=50, finished=60)
    assert measured([before, after, too_late]).output_tok_s == pytest.approx((50 + 21) / 10)


def test_nothing_served() -> None:
    result = measured([Asked(first_token=-1, finished=-1)], work=[0.0, 0.0])
    assert (result.count, result.failed, result.goodput, result.output_tok_s) == (1, 1, 0.0, 0.0)
    unknown = (
        result.ttft_mean,
        result.ttft_p90,
        result.tpot_p50,
        result.e2e_p99,
        result.prefix_hit,
        result.max_mean_work,
    )
    assert all(map(math.isnan, unknown))
    assert math.isnan(measured([], span_s=0.0).goodput)
    assert ttft_curve(Played([])) == []  # type: ignore[arg-type]


def test_curve_is_of_quantiles() -> None:
    requests = [Asked(first_token=float(n)) for n in range(101)]
    assert ttft_curve(Played(requests), points=5) == [0.0, 25.0, 50.0, 75.0, 100.0]  # type: ignore[arg-type]


def prefill(*chunks: tuple[int, int]) -> float:
    shapes = []
    for new, computed in chunks:
        shape = StepShape()
        shape.add_prefill(new, computed)
        shapes.append(shape)
    return sum(step_seconds(PROFILE, shape) for shape in shapes)


def test_objective_of_a_lone_request() -> None:
    slo = auto_slo(Trace("t", (Row(0.0, "", 5000, 200),), 0), PROFILE)
    assert slo.ttft_s == pytest.approx(5 * prefill((2048, 0), (2048, 2048), (904, 4096)))
    assert slo.tpot_s == pytest.approx(8 * step_seconds(PROFILE, StepShape(tokens=1, decode_context=5100)))


def test_objective_counts_only_new_tokens() -> None:
    rows = (
        Row(0.0, "", 1000, 1, tuple(range(62))),
        Row(1.0, "", 2000, 1, (*range(62), *range(100, 163))),
        Row(2.0, "", 1040, 1, (*range(62), 200, 201, 202)),
        Row(3.0, "", 992, 1, tuple(range(62))),
    )
    times = sorted([prefill((1000, 0)), prefill((1008, 992)), prefill((48, 992)), prefill((1, 991))])
    slo = auto_slo(Trace("t", rows, 16), PROFILE)
    assert slo.ttft_s == pytest.approx(5 * (times[2] + 0.7 * (times[3] - times[2])))


def test_objective_is_never_below_a_fifth_of_a_second() -> None:
    assert auto_slo(Trace("t", (Row(0.0, "", 1, 1),), 0), get_profile("llama-3-8b-h100")).ttft_s == 0.2


def test_context_is_that_of_decode_steps() -> None:
    rows = (Row(0.0, "", 10_000, 1), Row(0.0, "", 100, 999))
    mean = (1 * 10_000.5 + 999 * 599.5) / 1000
    expected = 8 * step_seconds(PROFILE, StepShape(tokens=1, decode_context=round(mean)))
    assert auto_slo(Trace("t", rows, 0), PROFILE).tpot_s == pytest.approx(expected)
