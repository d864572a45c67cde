import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ralb_extproc.place import PodSample, columns
from ralb_extproc.place import columns as col
from ralb_extproc.place.observe import MAX_ITL, MIN_SECONDS, Observer
from ralb_extproc.place.speed import expected_token_seconds, step_seconds, token_seconds


class Pod:
    def __init__(self):
        self.data = columns.empty(4)
        self.cells = columns.cells(self.data)
        self.observer = Observer()

    def say(self, at, **counters):
        self.last = PodSample(at, 0.0, 0.0, **counters)
        return self.observer.take(self.cells, 1, self.last)

    def __getitem__(self, column):
        return float(self.data[column, 1])


def vllm(pod, seconds, *, step=0.02, accepted=0.0, drafts=1.0, sequences=4, every=0.5, **more):
    """An engine that decodes all the time; counters as vLLM has them."""
    for i in range(int(seconds / every) + 1):
        steps = sequences * i * every / step
        pod.say(
            i * every,
            itl_seconds=steps * step,
            itl_steps=steps,
            generation_tokens=steps * (1 + accepted) + 3 * i,
            first_tokens=3.0 * i,
            prompt_tokens=3000.0 * i,
            spec_drafts=steps * drafts,
            spec_accepted=steps * accepted,
            **more,
        )


def test_rates_of_tokens():
    pod = Pod()
    vllm(pod, 30)
    assert pod[col.GENERATION_RATE] == pytest.approx(4 / 0.02 + 6, rel=1e-6)
    assert pod[col.PROMPT_RATE] == pytest.approx(6000, rel=1e-6)
    assert pod[col.ITL] == pytest.approx(0.02)
    assert pod[col.ACCEPTANCE] == 1.0
    assert pod.observer.odd == 0


def test_a_speculating_vllm_is_as_much_faster_as_it_accepts():
    # Its histogram has steps of 30 ms; at 1.5 accepted of each draft a token takes 12.
    pod = Pod()
    vllm(pod, 30, step=0.03, accepted=1.5)
    assert pod[col.ACCEPTANCE] == pytest.approx(2.5)
    assert pod[col.ITL] == pytest.approx(0.012)


def test_steps_without_a_draft_give_one_token():
    # Half of the steps have a draft, of which 1 is accepted on average: 1.5 tokens per step, not 2.
    pod = Pod()
    vllm(pod, 10, accepted=0.5, drafts=0.5)
    assert pod[col.ACCEPTANCE] == pytest.approx(1.5)


def test_engines_that_count_tokens_are_not_divided_again():
    pod = Pod()
    for i in range(20):
        pod.say(float(i), itl_seconds=1.2 * i, itl_tokens=100.0 * i, acceptance=2.5)
    assert pod[col.ITL] == pytest.approx(0.012)
    assert pod[col.ACCEPTANCE] == pytest.approx(2.5)


def test_without_its_other_counters_a_step_is_what_was_accepted_and_one():
    pod = Pod()
    for i in range(5):
        pod.say(float(i), itl_seconds=1.0 * i, itl_steps=50.0 * i, spec_drafts=50.0 * i, spec_accepted=50.0 * i)
    assert pod[col.ITL] == pytest.approx(0.01)
    pod = Pod()
    for i in range(5):
        pod.say(float(i), itl_seconds=1.0 * i, itl_steps=50.0 * i)
    assert pod[col.ITL] == pytest.approx(0.02)


def test_rates_follow_within_seconds_and_idleness_is_not_speed():
    pod = Pod()
    vllm(pod, 10)
    last = pod.last
    for i in range(1, 40):
        pod.observer.take(pod.cells, 1, replace(last, started=last.started + i))
    assert pod[col.GENERATION_RATE] < 1.0
    assert pod[col.ITL] == pytest.approx(0.02), "how fast it was remains the best guess"
    busy = replace(last, started=last.started + 40, itl_seconds=last.itl_seconds + 5, itl_steps=last.itl_steps + 50)
    pod.observer.take(pod.cells, 1, replace(busy, generation_tokens=last.generation_tokens + 50))
    assert pod[col.ITL] == pytest.approx(0.1, rel=0.01), "what was long ago does not count"


def test_nothing_is_known_of_what_is_not_said():
    pod = Pod()
    for i in range(5):
        pod.say(float(i))
    assert [pod[column] for column in (col.ITL, col.GENERATION_RATE, col.PREFILL_SECONDS)] == [0, 0, 0]
    assert pod[col.ACCEPTANCE] == 1.0


def test_readings_a_moment_apart_are_one_interval():
    pod = Pod()
    pod.say(0.0, preemptions=0.0)
    pod.say(MIN_SECONDS / 100, preemptions=1.0)
    assert pod[col.PREEMPTION_RATE] == 0.0
    pod.say(1.0, preemptions=2.0)
    assert pod[col.PREEMPTION_RATE] == pytest.approx(2.0)
    pod.say(0.5, preemptions=3.0)
    assert pod[col.PREEMPTION_RATE] == pytest.approx(2.0), "a reading from before the last"


def test_a_restart_starts_everything_anew():
    pod = Pod()
    vllm(pod, 10, accepted=1.0)
    assert pod.say(11.0, prompt_tokens=0.0, generation_tokens=0.0) is True
    columns_ = (col.ITL, col.GENERATION_RATE, col.PROMPT_RATE, col.PREEMPTION_RATE)
    assert [pod[column] for column in columns_] == [0, 0, 0, 0]
    assert pod[col.ACCEPTANCE] == 1.0
    assert pod.say(12.0, prompt_tokens=50.0, generation_tokens=7.0) is False
    assert pod[col.GENERATION_RATE] == pytest.approx(7.0)


def test_another_pod_in_the_slot_is_not_compared_with_the_last():
    pod = Pod()
    pod.say(0.0, generation_tokens=1000.0)
    pod.observer.forget(1)
    assert pod.say(1.0, generation_tokens=5.0) is False
    assert pod[col.GENERATION_RATE] == 0.0


def test_gauges_of_the_engine_itself():
    pod = Pod()
    for i in range(20):
        pod.say(float(i), generation_rate=500.0, generation_tokens=1.0 * i)
    assert pod[col.GENERATION_RATE] == pytest.approx(500)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"preemptions": 5.0}, {"preemptions": 4.0}),
        ({"prompt_tokens": 0.0}, {"prompt_tokens": 1e18}),
        ({"itl_seconds": 0.0, "itl_tokens": 0.0}, {"itl_seconds": MAX_ITL * 10 + 1, "itl_tokens": 10.0}),
        ({"itl_seconds": 0.0, "itl_tokens": 0.0}, {"itl_seconds": 10.0, "itl_tokens": 0.0}),
        ({"itl_seconds": 5.0, "itl_tokens": 0.0}, {"itl_seconds": 4.0, "itl_tokens": 9.0}),
        ({"spec_drafts": 0.0, "spec_accepted": 0.0}, {"spec_drafts": 1.0, "spec_accepted": 1e9}),
        ({"generation_rate": 1.0}, {"generation_rate": 1e18}),
        ({"acceptance": 1.0}, {"acceptance": 1e6}),
    ],
)
def test_what_cannot_be_is_passed_over_and_counted(first, second):
    pod = Pod()
    pod.say(0.0, **first)
    before = pod.data.copy()
    pod.say(1.0, **second)
    assert (pod.data == before).all()
    assert pod.observer.odd == 1


NUMBERS = st.none() | st.floats(0, 1e18) | st.sampled_from([0.0, 1.0, 1e-300, 1e18])
FIELDS = (
    "prefix_queries", "prefix_hits", "preemptions", "prompt_tokens", "generation_tokens", "generation_rate", "first_tokens",
    "itl_seconds", "itl_steps", "itl_tokens", "prefill_seconds", "prefill_count", "spec_drafts", "spec_accepted", "acceptance",
)  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 1e6), st.fixed_dictionaries({name: NUMBERS for name in FIELDS})), max_size=8))
def test_whatever_pods_say_the_columns_stay_within_reason(readings):
    pod = Pod()
    for at, fields in readings:
        if fields["acceptance"] is not None:
            fields = {**fields, "acceptance": max(1.0, fields["acceptance"])}
        pod.say(at, **fields)
    row = pod.data[[col.ITL, col.ACCEPTANCE, col.GENERATION_RATE, col.PROMPT_RATE, col.PREEMPTION_RATE], 1]
    assert all(math.isfinite(value) and value >= 0.0 for value in row)
    assert row[0] <= MAX_ITL * (1 + 1e-9)
    assert 1.0 <= row[1] <= 65.0 * (1 + 1e-9)
    assert (row[2:] <= 1e8 * (1 + 1e-9)).all()


class TestSpeed:
    def test_steps_and_tokens(self):
        itl, acceptance = np.array([0.01, 0.0, 0.02]), np.array([2.0, 3.0, 1.0])
        assert step_seconds(itl, acceptance).tolist() == [0.02, 0.0, 0.02]
        assert token_seconds(0.06, acceptance).tolist() == pytest.approx([0.03, 0.02, 0.06])

    def test_a_pod_that_has_not_said_steps_like_the_others_and_accepts_as_it_says(self):
        itl, acceptance = np.array([0.01, 0.0, 0.02, 0.0]), np.array([2.0, 4.0, 1.0, 1.0])
        assert expected_token_seconds(itl, acceptance, 9.0).tolist() == pytest.approx([0.01, 0.005, 0.02, 0.02])

    def test_where_nobody_has_said(self):
        assert expected_token_seconds(np.zeros(2), np.array([1.0, 2.0]), 0.03).tolist() == pytest.approx([0.03, 0.015])
