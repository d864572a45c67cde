"""What load 1.0 means: on made-up workloads, and on recorded ones where those are at hand."""

from pathlib import Path
from statistics import mean

import pytest
from support_offline import job, profile, stream

from ralb_sim.engine.timing import StepShape, step_seconds
from ralb_sim.offline.capacity import _throughput, capacity, resident
from ralb_sim.offline.fleet import Event, Kind
from ralb_sim.offline.pod import longest
from ralb_sim.offline.policies import REFERENCE
from ralb_sim.offline.policies.round_robin import RoundRobin
from ralb_sim.offline.simulate import Conditions, simulate
from ralb_sim.offline.trace import Row, Trace, read_trace
from ralb_sim.offline.world import Run

H100 = profile()
TRACES = Path(__file__).parents[4] / "shared" / "data" / "traces" / "norm"


def quarters(run: Run) -> list[float]:
    """Mean time to first token of the measured requests, by quarter in order of arrival."""
    rows = sorted((row for row in run.requests if row.measured), key=lambda row: row.arrived)
    size = len(rows) // 4
    return [mean(row.first_token - row.arrived for row in rows[n * size : (n + 1) * size]) for n in range(4)]


def test_what_fits_at_once() -> None:
    assert resident(1000.0, [H100, H100]) == 2 * 445
    assert resident(10.0, [H100]) == H100.max_num_seqs
    assert resident(400_000.0, [H100]) == 2.0  # one is served, one waits


def test_capacity_of_prefills_is_the_prefill_rate() -> None:
    """Answers of one token: the pod does nothing but fill its token budget again and again."""
    jobs = [job(float(n), 1024, 1) for n in range(2000)]
    budget = H100.max_num_batched_tokens
    step = step_seconds(H100, StepShape(tokens=budget, prefill_pairs=8 * 1024 * 512))
    assert capacity(jobs, 0, [H100]) == pytest.approx(8 / step, rel=0.02)
    assert capacity(jobs, 0, [H100] * 4) == pytest.approx(4 * 8 / step, rel=0.05)


def test_capacity_of_decodes_is_that_of_a_full_batch() -> None:
    jobs = [job(float(n), 10, 200 + n % 50) for n in range(3000)]
    pod = profile(max_num_seqs=64)
    step = step_seconds(pod, StepShape(tokens=64, decode_context=64 * 122))
    assert capacity(jobs, 0, [pod]) == pytest.approx(64 / (224 * step), rel=0.05)


def test_more_in_flight_than_prefix_caches_bear_is_not_what_counts() -> None:
    """Conversations of 20,000 tokens: with as many as memory takes, each turn finds its cache gone."""
    jobs, size = [], 100
    for talk in range(60):
        for turn in range(12):
            begin = talk * 1000
            tokens = 15_000 + 800 * turn
            ids = tuple(range(begin, begin + (tokens + 200) // size))
            before = len(jobs) - 1 if turn else -1
            jobs.append(job(float(turn), tokens, 200, before, blocks=ids[: tokens // size], tail=ids[tokens // size :]))
    found = capacity(jobs, size, [H100])
    full = _throughput(jobs, size, [H100], round(resident(20_000, [H100])))
    assert found > 1.3 * full


def test_a_slower_pod_adds_less() -> None:
    jobs = stream(3000)
    fast, both = (capacity(jobs, 0, fleet) for fleet in ([H100], [H100, profile("llama-3-8b-l4")]))
    assert 1.02 * fast < both < 1.5 * fast


@pytest.mark.parametrize("count", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("output", [1, 50])
@pytest.mark.parametrize("session", ["", "one"])
def test_short_traces_have_a_capacity_too(count: int, output: int, session: str) -> None:
    """All at once, or all one after another, alike to a token: never endless, never nothing."""
    rows = tuple(Row(float(n), session, 500, output) for n in range(count))
    for fleet in ([H100], [H100] * 3):
        run = simulate(Trace("t", rows, 0), fleet, RoundRobin, Conditions(load=0.5, warmup=0.0))
        assert all(row.finished > 0 for row in run.requests)
        found = capacity([job(row.t, 500, output, n - 1 if session else -1) for n, row in enumerate(rows)], 0, fleet)
        alone = step_seconds(H100, StepShape(tokens=500, prefill_pairs=125_000)) + (output - 1) * 0.0095
        assert 0.8 / alone < found < 2.1 * count / alone
        if session:
            assert found == pytest.approx(1 / alone, rel=0.3)


@pytest.mark.parametrize(
    "rows", [(Row(0.0, "", 1, 1),), (Row(0.0, "", 9, 1),) * 50, (Row(0.0, "", 9, 1), Row(1e9, "", 9, 9))]
)
def test_traces_without_a_clock(rows: tuple[Row, ...]) -> None:
    """One request, all at once, and a gap of years: they come to an end."""
    run = simulate(Trace("t", rows, 0), [H100] * 2, REFERENCE["least-request"], Conditions(load=1.0))
    assert all(row.finished > 0 for row in run.requests)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"load": 0.0}, "load"), ({"load": float("nan")}, "load"), ({"staleness_s": 0.0}, "staleness"),
        ({"staleness_s": 61.0}, "staleness"), ({"replicas": 0}, "replica"), ({"events": [Event(0.0, 9, Kind.STOP)]}, "pods 0"),
    ],
)  # fmt: skip
def test_conditions_out_of_range(bad: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        simulate(Trace("t", (Row(0.0, "", 10, 10),), 0), [H100], RoundRobin, Conditions(**bad))  # type: ignore[arg-type]


def test_rows_too_long_are_counted_and_left_out() -> None:
    rows = (Row(0.0, "", 100, 10), Row(1.0, "", longest(H100), 1), Row(2.0, "", 100, 10))
    run = simulate(Trace("t", rows, 0), [H100], RoundRobin, Conditions())
    assert (run.left_out, len(run.requests)) == (1, 2)
    with pytest.raises(ValueError, match="no request fits"):
        simulate(Trace("t", rows[1:2], 0), [H100], RoundRobin, Conditions())


def test_load_is_the_rate_over_the_capacity() -> None:
    rows = tuple(Row(job.t, "", job.input, job.output) for job in stream(4000))
    trace = Trace("t", rows, 0)
    rates = {
        load: simulate(trace, [H100] * 2, RoundRobin, Conditions(load=load, requests=4000)).rate for load in (0.4, 0.8)
    }
    assert rates[0.8] / rates[0.4] == pytest.approx(2.0, rel=0.01)
    assert rates[0.4] == pytest.approx(
        0.4 * capacity([job(r.t, r.input, r.output) for r in rows], 0, [H100] * 2), rel=0.05
    )


@pytest.mark.parametrize("profile_name", ["llama-3-8b-h100", "llama-3-8b-l4"])
def test_half_the_load_leaves_queues_short_and_more_than_all_makes_them_grow(profile_name: str) -> None:
    rows = tuple(Row(one.t, "", one.input, one.output) for one in stream(6000, prompt=600, output=200))
    trace, fleet = Trace("t", rows, 0), [profile(profile_name)] * 2
    half, over = (simulate(trace, fleet, REFERENCE["oracle"], Conditions(load=load)) for load in (0.5, 1.15))
    assert max(quarters(half)) < 1.5 * min(quarters(half))
    assert quarters(over) == sorted(quarters(over))
    assert quarters(over)[3] > 10 * max(quarters(half))


def recorded(name: str) -> Trace:
    path = TRACES / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no recorded trace {path}")
    return read_trace(path, limit=6000 if name == "servegen_r1_dev" else 2500)


@pytest.mark.parametrize("name", ["azure_conv", "mooncake_synthetic", "agentic_dev", "servegen_r1_dev"])
def test_recorded_traces(name: str) -> None:
    """Half the load: nobody waits much longer than at a tenth. More than all: waits grow, or conversations slow down."""
    trace, fleet = recorded(name), [H100] * 2
    calm, half, over = (
        simulate(trace, fleet, REFERENCE["oracle"], Conditions(load=load, requests=6000)) for load in (0.1, 0.5, 1.25)
    )
    assert mean(quarters(half)) < 4 * mean(quarters(calm))
    assert mean(quarters(over)) > 4 * mean(quarters(half))
    assert all(row.finished > 0 for run in (calm, half, over) for row in run.requests)
