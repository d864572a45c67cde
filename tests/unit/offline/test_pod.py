"""The leaping pod against the exact engine.

Both do the same steps, so wherever memory is no issue everything is equal but for the rounding of sums: 1e-9 of the time. The
pod counts memory in tokens; an engine with blocks of one token does too, so with unshared prompts pre-emption is the same as
well. With blocks of 16 an engine's requests hold 7 tokens more each on average, so it pre-empts a little earlier, and then all
that follows is another history: there only sums can be compared.
"""

import random
from dataclasses import replace
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_offline import BLOCK, Arrival, books_add_up, exactly, leaping, profile, sequence

from ralb_sim.engine.timing import StepShape, step_seconds
from ralb_sim.offline.pod import Seq, SimPod

ROOMY = profile(max_num_batched_tokens=96, max_num_seqs=6, kv_tokens=1 << 16)
TIGHT = profile(max_num_batched_tokens=96, max_num_seqs=6, kv_tokens=320)
gaps = st.one_of(st.just(0.0), st.floats(0.0, 0.05), st.floats(0.0, 3.0))


@st.composite
def workloads(draw, most_prompt=400, most_output=120, shared=True):
    """Requests whose prompts share beginnings: an id stands for its block and all before it. Nobody asks for another's answer."""
    now, out = 0.0, []
    for number in range(draw(st.integers(1, 14))):
        now += draw(gaps)
        prompt = draw(
            st.one_of(st.integers(1, most_prompt), st.integers(1, most_prompt // BLOCK).map(lambda n: n * BLOCK))
        )
        output = draw(st.one_of(st.just(1), st.integers(1, most_output)))
        ids: list[int] = []
        if shared:
            common = draw(st.integers(0, prompt // BLOCK))
            word = draw(st.integers(0, 1))
            ids = [word << 20 | depth for depth in range(common)]
            ids += [(number + 2) << 20 | depth for depth in range(common, (prompt + output) // BLOCK)]
        out.append(Arrival(now, prompt, output, ids))
    return out


def assert_same(exact, leapt):
    assert leapt.first == pytest.approx(exact.first, rel=1e-9)
    assert leapt.finish == pytest.approx(exact.finish, rel=1e-9)
    assert leapt.cached == exact.cached
    assert leapt.preempted == exact.preempted
    assert leapt.counters == exact.counters
    assert leapt.work == pytest.approx(exact.work, rel=1e-6)


@settings(deadline=None, max_examples=100)
@given(workloads())
def test_with_room_for_all_it_is_the_engine(arrivals):
    exact = exactly(arrivals, ROOMY)
    seen, pod = leaping(arrivals, ROOMY, books_add_up)
    assert_same(exact, seen)
    assert seen.counters[0] == 0
    assert pod.kv.used == 0
    assert pod.prompt_tokens == sum(arrival.prompt for arrival in arrivals)
    assert pod.generation_tokens == sum(arrival.output for arrival in arrivals)


@settings(deadline=None, max_examples=100)
@given(workloads(most_prompt=200, shared=False))
def test_without_room_it_is_an_engine_of_blocks_of_one_token(arrivals):
    exact = exactly(arrivals, TIGHT, block=1)
    seen, pod = leaping(arrivals, TIGHT, books_add_up)
    assert_same(exact, seen)
    gaps = [after - before for times in exact.tokens.values() for before, after in pairwise(times)]
    assert pod.itl_count == len(gaps)
    assert pod.itl_sum == pytest.approx(sum(gaps))
    assert pod.prompt_tokens == sum(arrival.prompt for arrival in arrivals)
    assert pod.generation_tokens == sum(arrival.output for arrival in arrivals)


@settings(deadline=None, max_examples=60)
@given(workloads(most_prompt=200))
def test_without_room_and_with_shared_prefixes_the_books_add_up_and_all_end(arrivals):
    seen, pod = leaping(arrivals, TIGHT, books_add_up)
    assert len(seen.finish) == len(arrivals)
    assert pod.kv.used == 0
    assert pod.generation_tokens == sum(arrival.output for arrival in arrivals)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=2, max_size=6), workloads())
def test_an_answer_is_found_by_the_next_turn(turns, others):
    arrivals, prompt = [], 0
    for number, (said, answered) in enumerate(turns):
        prompt += said
        arrivals.append(
            Arrival(1000.0 * number, prompt, answered, [99 << 20 | n for n in range((prompt + answered) // BLOCK)])
        )
        prompt += answered
    arrivals = sorted([*arrivals, *others], key=lambda arrival: arrival.at)
    exact = exactly(arrivals, ROOMY)
    seen, _ = leaping(arrivals, ROOMY, books_add_up)
    assert_same(exact, seen)
    last = len(arrivals) - 1
    said, answered = turns[-1]
    # Of the last answer the last token is never computed.
    assert seen.cached[last] == (prompt - answered - said - 1) // BLOCK * BLOCK


def crowd(seed, count=250, every=0.02, prompt=120, output=60, shared=0.5):
    """More than fits at once; some begin with one of four system prompts."""
    rng, now, out = random.Random(seed), 0.0, []
    for number in range(count):
        now += rng.expovariate(1 / every)
        tokens, answer = rng.randint(40, prompt), rng.randint(1, output)
        common = 2 if rng.random() < shared else 0
        begin, full = rng.randrange(4), (tokens + answer) // BLOCK
        ids = [(1 + begin) << 20 | n for n in range(common)] + [(9 + number) << 20 | n for n in range(common, full)]
        out.append(Arrival(now, tokens, answer, ids if shared else ()))
    return out


def test_many_preemptions_are_the_engines():
    arrivals = crowd(1, shared=0.0)
    exact = exactly(arrivals, TIGHT, block=1)
    seen, _ = leaping(arrivals, TIGHT, books_add_up)
    assert seen.counters[0] > 80
    assert_same(exact, seen)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_under_pressure_an_engine_of_blocks_of_16_does_much_the_same(seed):
    """Memory for 15 requests of 400 tokens: 7 tokens more each are 2 % of the throughput, which queues amplify."""
    pod = profile(max_num_batched_tokens=512, max_num_seqs=32, kv_tokens=6144)
    arrivals = crowd(seed, count=400, every=0.05, prompt=500, output=300)
    exact = exactly(arrivals, pod)
    seen, _ = leaping(arrivals, pod, books_add_up)
    assert exact.counters[0] > 100
    for had, has in ((exact.first, seen.first), (exact.finish, seen.finish)):
        waits = [mean(times[n] - a.at for n, a in enumerate(arrivals)) for times in (had, has)]
        assert waits[1] == pytest.approx(waits[0], rel=0.08)
    assert max(seen.finish.values()) == pytest.approx(max(exact.finish.values()), rel=0.025)
    assert seen.counters[0] == pytest.approx(exact.counters[0], rel=0.25)
    assert sum(seen.cached.values()) == pytest.approx(sum(exact.cached.values()), rel=0.05)


def test_a_page_in_the_middle_of_a_leap_shows_the_tokens_so_far():
    arrivals = [Arrival(0.01 * n, 50 + 20 * n, 100 + 50 * n) for n in range(5)]
    exact = exactly(arrivals, ROOMY)
    times = sorted(time for several in exact.tokens.values() for time in several)
    gaps = sorted((b, b - a) for several in exact.tokens.values() for a, b in pairwise(several))
    pages = []

    def look(pod, now):
        if now > arrivals[-1].at and pod.next_time < 1e9:
            for part in (0.01, 0.33, 0.5, 0.77, 0.99):
                at = now + part * (pod.next_time - now)
                if min(abs(at - time) for time in times) > 1e-6:
                    pages.append((at, pod.page(at), pod.work(at)))

    seen, pod = leaping(arrivals, ROOMY, look)
    assert sum(page.generation_tokens not in (0, pod.generation_tokens) for _, page, _ in pages) > 20
    for at, page, _ in pages:
        assert page.generation_tokens == sum(time < at for time in times)
        assert page.itl_count == sum(end < at for end, _ in gaps)
        assert page.itl_sum == pytest.approx(sum(gap for end, gap in gaps if end < at))
    works = [work for _, _, work in pages]
    assert works == sorted(works)
    assert 0 < works[0] < works[-1] < seen.work


def alone(prompt=100, output=200, **changes):
    pod = SimPod(replace(ROOMY, **changes), 0)
    pod.add(Seq(0, prompt, output), 0.0)
    pod.wake()
    return pod


def test_usage_grows_during_a_leap():
    pod = alone()
    begin, step = pod.next_time, step_seconds(ROOMY, StepShape(tokens=1, decode_context=100))
    start = step_seconds(ROOMY, StepShape(tokens=96, prefill_pairs=96 * 48)) + step_seconds(
        ROOMY, StepShape(tokens=4, prefill_pairs=4 * 98)
    )
    pod.wake()  # the second chunk
    used = [round(pod.page(start + (n + 0.5) * step).kv_usage * ROOMY.kv_tokens) for n in range(5)]
    assert used == [101, 102, 103, 104, 105]
    assert (
        begin
        < pod.next_time
        == pytest.approx(
            start + sum(step_seconds(ROOMY, StepShape(tokens=1, decode_context=100 + n)) for n in range(199))
        )
    )


def test_work_is_what_the_tokens_cost():
    """Two cards' worth of floor, host and weights, cost nothing; a slow pod's tokens cost more."""
    plain, floor = alone(), alone(t_w=50.0, h=9.0, r0=3.0)
    for pod in (plain, floor):
        pod.wake()
    assert plain.work(plain.next_time) == pytest.approx(floor.work(floor.next_time))
    expected = 299 * ROOMY.b + ROOMY.a_d * sum(range(100, 299)) / 1000 + ROOMY.a_p * (96 * 48 + 4 * 98)
    assert plain.work(plain.next_time) == pytest.approx(expected / 1000)
    slow = SimPod(ROOMY, 0)
    slow.pace(0.25, 0.0)
    slow.add(Seq(0, 100, 200), 0.0)
    slow.wake(), slow.wake()
    assert slow.work(slow.next_time) == pytest.approx(4 * expected / 1000)
    assert slow.next_time == pytest.approx(4 * plain.next_time)


def test_a_new_speed_holds_from_the_next_step():
    pod, other = alone(), alone()
    pod.wake(), other.wake()
    begin = pod._start
    step = step_seconds(ROOMY, StepShape(tokens=1, decode_context=100))
    pod.pace(0.1, begin + 2.5 * step)
    assert pod.next_time == pytest.approx(begin + 3 * step, rel=1e-5)
    pod.wake()
    assert pod.next_time - begin - 3 * step == pytest.approx(10 * (other.next_time - begin - 3 * step), rel=1e-5)


def test_who_comes_during_a_leap_waits_for_the_step_under_way():
    pod = alone()
    pod.wake()
    begin, far = pod._start, pod.next_time
    step = step_seconds(ROOMY, StepShape(tokens=1, decode_context=100))
    pod.add(Seq(1, 10, 5), begin + 7.5 * step)
    assert begin + 7.5 * step < pod.next_time < begin + 8.1 * step < far
    first, _ = pod.wake()
    assert not first
    assert pod.wake()[0][0].key == 1
    assert pod.page(pod.next_time).running == 2


@given(st.floats(0.0, 2.0), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_time_never_runs_backwards(at, others):
    """Wherever in a leap somebody comes, a step's very end included, the next event is not before that."""
    pod = alone(output=300)
    pod.wake()
    ends = [pod._start + pod._elapsed(n) for n in range(pod._steps)]
    for now in (at, min(ends, key=lambda end: abs(end - at))):
        if pod._start <= now < pod.next_time:
            for number in range(others):
                pod.add(Seq(number + 1 + int(now * 1e9) * 10, 10, 3), now)
                assert pod.next_time >= now


def test_what_fits():
    pod = SimPod(profile(kv_tokens=1000, max_model_len=900), 0)
    assert pod.fits(Seq(0, 890, 10))
    assert not pod.fits(Seq(0, 891, 10))
    assert not SimPod(profile(kv_tokens=899, max_model_len=900), 0).fits(Seq(0, 890, 10))
    with pytest.raises(ValueError, match="max_num_seqs"):
        SimPod(profile(max_num_seqs=100, max_num_batched_tokens=99), 0)


def test_as_large_as_the_memory():
    seen, pod = leaping([Arrival(0.0, 200, 120), Arrival(0.1, 1, 319), Arrival(0.2, 319, 1)], TIGHT, books_add_up)
    assert len(seen.finish) == 3
    assert pod.lost() == []


def test_what_a_dead_pod_had():
    pod = SimPod(TIGHT, BLOCK)
    for number in range(5):
        pod.add(sequence(number, Arrival(0.0, 150, 30)), 0.0)
    pod.wake()
    assert sorted(seq.key for seq in pod.lost()) == [0, 1, 2, 3, 4]
    assert pod.waiting
    assert pod.running
