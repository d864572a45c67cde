"""Answers: deterministic, of the asked shape and length, and cut cleanly."""

import json
import random
from typing import Any

import pytest

from ralb_sim import tokens
from ralb_sim.answers import AnswerOptions, Tool, compose
from ralb_sim.schema_values import MAX_NODES, value_for

PROMPT = tokens.encode("What is the load of a pod?")


def options(**changes: Any) -> AnswerOptions:
    defaults: dict[str, Any] = {"model": "tiny", "output_median": 40, "limit": 1000}
    return AnswerOptions(**(defaults | changes))


def test_same_prompt_same_answer_and_other_prompt_or_salt_another() -> None:
    first = compose(PROMPT, options())
    assert compose(PROMPT, options()) == first
    assert compose(PROMPT + tokens.BOS, options()) != first
    assert compose(PROMPT, options(salt=1)) != first


def test_natural_end_stops_with_an_end_token() -> None:
    answer = compose(PROMPT, options())
    assert answer.finish_reason == "stop"
    assert answer.tokens.endswith(tokens.TURN_END)
    assert answer.text("content").startswith("This is a simulated answer from tiny. ")


def test_limit_cuts_and_the_cut_text_is_a_prefix() -> None:
    whole, cut = compose(PROMPT, options(min_tokens=60)), compose(PROMPT, options(min_tokens=60, limit=20))
    assert (cut.finish_reason, cut.length) == ("length", 20)
    assert cut.text("content") == whole.text("content")[:80]
    assert whole.tokens.startswith(cut.tokens)


def test_lengths_spread_around_the_median() -> None:
    lengths = sorted(compose(tokens.encode(str(number)), options(limit=10_000)).length for number in range(400))
    assert lengths[200] == pytest.approx(40, rel=0.25)
    assert lengths[0] < 20 < 80 < lengths[-1]


@pytest.mark.parametrize("limit", [1, 7, 300])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_ignore_eos_gives_exactly_the_limit(limit: int, share: float) -> None:
    answer = compose(PROMPT, options(limit=limit, ignore_eos=True, reasoning_share=share))
    assert (answer.length, answer.finish_reason) == (limit, "length")


def test_reasoning_takes_its_share_and_comes_first() -> None:
    answer = compose(PROMPT, options(min_tokens=100, reasoning_share=0.7))
    assert answer.reasoning_tokens / answer.length == pytest.approx(0.7, abs=0.03)
    assert [part.kind for part in answer.segments] == ["reasoning", "content"]
    assert answer.text("reasoning")


def test_a_limit_within_the_reasoning_leaves_no_content() -> None:
    answer = compose(PROMPT, options(min_tokens=100, reasoning_share=0.7, limit=10))
    assert answer.text("content") == ""
    assert answer.reasoning_tokens == 10


def test_text_by_token_ranges_adds_up() -> None:
    answer = compose(PROMPT, options(min_tokens=50, reasoning_share=0.4))
    for kind in ("reasoning", "content"):
        pieces = [answer.text(kind, at, at + 3) for at in range(0, answer.length, 3)]
        assert "".join(pieces) == answer.text(kind)


def test_effort_scales_the_length() -> None:
    low, high = (compose(PROMPT, options(effort=effort, limit=10_000)).length for effort in ("low", "high"))
    assert high > 2.5 * low


def test_stop_string_ends_before_it_and_is_named() -> None:
    answer = compose(PROMPT, options(stop=("zzz", "simulated")))
    assert answer.text("content") == "This is a "
    assert (answer.finish_reason, answer.stop_reason) == ("stop", "simulated")


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "kind": {"enum": ["a", "ü"]},
        "count": {"type": "integer", "minimum": 3, "maximum": 5},
        "items": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/item"}},
    },
    "required": ["ok", "kind", "count", "items"],
    "$defs": {"item": {"type": "object", "properties": {"name": {"type": "string", "minLength": 12}}}},
}


def test_json_schema_answers_satisfy_the_schema() -> None:
    for salt in range(20):
        value = json.loads(compose(PROMPT, options(json_schema=SCHEMA, salt=salt)).text("content"))
        assert set(value) == {"ok", "kind", "count", "items"}
        assert isinstance(value["ok"], bool)
        assert value["kind"] in ("a", "ü")
        assert 3 <= value["count"] <= 5
        assert len(value["items"]) == 2
        assert all(len(one["name"]) >= 12 for one in value["items"])


def test_json_object_answers_are_objects() -> None:
    assert isinstance(json.loads(compose(PROMPT, options(json_schema={})).text("content")), dict)


def test_tool_calls_have_valid_arguments() -> None:
    tool = Tool("look_up", {"type": "object", "properties": {"q": {"type": "string"}}})
    answer = compose(PROMPT, options(tool=tool))
    assert answer.finish_reason == "tool_calls"
    assert set(json.loads(answer.text("tool"))) == {"q"}
    assert compose(PROMPT, options(tool=tool, named_tool=True)).finish_reason == "stop"


def test_hostile_schemas_stay_small() -> None:
    loop: dict[str, Any] = {"$ref": "#"}
    assert value_for(loop, random.Random(0)) is None
    tree: dict[str, Any] = {"type": "array", "minItems": 10**9, "items": {"$ref": "#"}}
    assert len(json.dumps(value_for(tree, random.Random(0)))) < MAX_NODES * 20
    odd: dict[str, Any] = {
        "type": ["object"],
        "properties": {"a": 3, "b": {"type": 5}, "c": {"enum": []}, "d": {"minLength": -4}},
    }
    assert set(value_for(odd, random.Random(0))) == {"a", "b", "c", "d"}


def test_a_huge_length_with_a_small_limit_builds_little() -> None:
    answer = compose(PROMPT, options(output_median=1_000_000, reasoning_share=0.5, limit=5))
    assert answer.length == 5
