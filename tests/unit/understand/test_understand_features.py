"""What is seen in a request."""

from typing import Any

import pytest
from support_routing import ask, chat, parsed

from ralb_extproc.types import Turn
from ralb_extproc.understand import Features, observe
from ralb_extproc.understand.words import _FAMILIES as FAMILIES
from ralb_extproc.understand.words import FAMILY, PHRASES, STEMS


def seen(text: str, **fields: Any) -> Features:
    return observe(ask(turns=(Turn("user", text),), **fields))


def test_no_word_is_in_two_families() -> None:
    listed = [word for words in FAMILIES.values() for word in words.split()]
    assert sorted(listed) == sorted(set(listed))
    assert len(listed) == len(FAMILY)


def test_words_can_be_met() -> None:
    for word in FAMILY:
        assert word == word.lower()
        assert seen(word).families.get(FAMILY[word]), word
    for phrase, family in PHRASES:
        assert seen(f"x {phrase} y").families.get(family), phrase
    for stem, family in STEMS:
        assert seen(f"{stem}。").families.get(family), stem


def test_structure() -> None:
    request = parsed(
        chat(
            {"role": "system", "content": "Classify the ticket."},
            "look it up",
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "result"},
            tools=[{"type": "function", "function": {"name": "f"}}, {"type": "web_search"}],
            tool_choice="required",
            response_format={"type": "json_object"},
            reasoning_effort="low",
            max_tokens=50,
        )
    )
    found = observe(request)
    assert (found.tools, found.forced, found.tool_turns, found.last_is_tool) == (2, True, 2, True)
    assert (found.user_turns, found.structured, found.effort, found.max_output) == (1, True, "low", 50)
    assert found.system["classify"] == 1


def test_tools_that_must_not_be_used_are_not_offered() -> None:
    assert seen("x", tools=("f",), tool_choice="none").tools == 0


def test_shape_of_the_text() -> None:
    text = "Is 3 + 4 = 7? And 12^2?\n- one\n- two\n1. three\n```python\ndef f(x):\n    return x;\n```\nπ ≤ 4"
    found = seen(text)
    assert found.questions == 2
    assert found.numbers == 7
    assert found.symbols == 4
    assert found.code_blocks == 1
    assert found.code_lines == 2
    assert found.list_items == 3


def test_pasted_agent_transcripts_count_as_steps() -> None:
    step = "Thought: look.\nAction: search[x]\nObservation: nothing\n"
    assert seen(step * 5).tool_turns == 10


def test_only_the_last_user_turn_states_the_task() -> None:
    turns = (
        Turn("user", "Prove the theorem."),
        Turn("assistant", "Done: " + "proof " * 50),
        Turn("user", "thanks a lot"),
    )
    assert observe(ask(turns=turns)).families == {"greeting": 1, "filler": 1}


@pytest.mark.parametrize("answer", ["yes, go on", "continue", "do the second one", "继续"])
def test_a_short_answer_goes_on_with_the_turn_before(answer: str) -> None:
    turns = (Turn("user", "Prove the theorem."), Turn("assistant", "Shall I use induction?"), Turn("user", answer))
    assert observe(ask(turns=turns)).families.get("proof") == 2


def test_words_of_the_material_do_not_state_the_task() -> None:
    article = "The committee presented its strategy and a roadmap for the distributed architecture. " * 4
    assert set(seen(f"Summarize this article: {article}").families) <= {"compress", "vague", "filler"}
    assert seen(f"Comment on the article: {article}").families["design"] > 2


def test_of_long_texts_head_and_tail_are_read() -> None:
    noise = "lorem ipsum dolor sit amet " * 4000
    assert seen(f"Prove this. {noise}").families.get("proof")
    assert seen(f"{noise} Prove this.").families.get("proof")
    assert not seen(f"{noise} Prove this. {noise}").families.get("proof")
    assert seen(noise).words < 400


def test_a_short_first_or_last_line_of_a_long_text_is_the_task_and_the_rest_material() -> None:
    material = "The plan explains why the design review of the distributed system failed. " * 400
    for text in (f"Summarise in three sentences:\n{material}", f"{material}\nSummarise in three sentences."):
        features = seen(text)
        assert set(features.families) <= {"compress", "brief", "vague", "filler"}
        assert features.words < 10
    assert seen(material).families.get("plan")


def test_scripts_without_spaces_have_words_too() -> None:
    assert 10 <= seen("请总结下面这篇关于城市交通规划的文章的要点。").words <= 14


def test_nothing_at_all() -> None:
    assert observe(ask(turns=())).words == 0
    assert observe(ask(turns=(Turn("system", "x"),))).user_turns == 0
