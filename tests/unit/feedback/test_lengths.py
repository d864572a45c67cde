"""Expected answer lengths: by the narrowest of what was asked that is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ralb_extproc.feedback import Lengths


def learn(lengths, pool, intent, tokens, size=0, effort="", adapter="", times=1):
    for _ in range(times):
        lengths.learn(pool, intent, effort, adapter, stream=False, output_tokens=tokens, response_bytes=size)


def test_by_intent_then_pool_then_default():
    lengths = Lengths()
    assert lengths.expected_output("p", "code") == 256
    learn(lengths, "p", "code", 1000)
    assert lengths.expected_output("p", "code") == 1000
    assert lengths.expected_output("p", "chat") == 1000
    assert lengths.expected_output("q", "code") == 256
    learn(lengths, "p", "chat", 10)
    assert lengths.expected_output("p", "chat") == 10
    assert lengths.expected_output("p", "code", limit=50) == 50


def test_by_effort_then_intent():
    lengths = Lengths()
    learn(lengths, "p", "maths", 200, effort="low", times=50)
    learn(lengths, "p", "maths", 8000, effort="high", times=50)
    assert lengths.expected_output("p", "maths", "low") == 200
    assert lengths.expected_output("p", "maths", "high") == 8000
    assert 200 < lengths.expected_output("p", "maths", "medium") < 8000
    assert lengths.expected_output("p", "maths", "medium") == lengths.expected_output("p", "maths")
    learn(lengths, "p", "chat", 30, times=400)
    assert lengths.expected_output("p", "maths", "high") == 8000
    assert lengths.expected_output("p", "", "high") == 30  # no intent, no effort of it: the pool


def test_by_adapter_then_effort():
    lengths = Lengths()
    learn(lengths, "p", "chat", 100, effort="low", adapter="brief", times=20)
    learn(lengths, "p", "chat", 900, effort="low", times=400)
    assert lengths.expected_output("p", "chat", "low", "brief") == 100
    assert lengths.expected_output("p", "chat", "low", "other") == lengths.expected_output("p", "chat", "low")
    assert lengths.expected_output("p", "chat", "low") == pytest.approx(900, abs=10)


def test_efforts_nobody_knows_are_as_if_not_said():
    lengths = Lengths()
    for number in range(100):
        learn(lengths, "p", "chat", 50, effort=f"x{number}")
    assert len(lengths._output.values) == 2
    assert lengths.expected_output("p", "chat", "extreme") == 50


def test_the_first_answers_count_alike():
    lengths = Lengths()
    for tokens in (4000, 100, 100, 200):
        learn(lengths, "p", "code", tokens)
    assert lengths.expected_output("p", "code") == 1100


def test_mean_follows():
    lengths = Lengths()
    learn(lengths, "p", "code", 400, times=300)
    learn(lengths, "p", "code", 100, times=300)
    assert lengths.expected_output("p", "code") == 100


def test_bounded():
    lengths = Lengths()
    for number in range(20_000):
        learn(lengths, f"p{number}", "x", 5, 5)
    assert len(lengths._output.values) <= 16_384
    assert len(lengths._bytes.values) <= 16_384
    assert lengths.expected_output("p0", "x") == 5
    assert lengths.expected_output("p19999", "x") == 256


def test_empty_answers_say_nothing():
    lengths = Lengths()
    learn(lengths, "p", "x", 0, 100)
    assert lengths.expected_output("p", "x") == 256


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(["", "low", "?"]), st.integers(1, 10**8))))
def test_expected_is_between_what_was_seen(answers):
    lengths = Lengths()
    for intent, effort, tokens in answers:
        learn(lengths, "p", intent, tokens, effort=effort)
    seen = [tokens for *_, tokens in answers] or [256]
    for intent in ("", "a", "c"):
        for effort in ("", "low", "high"):
            assert min(seen) <= lengths.expected_output("p", intent, effort) <= max(seen)
