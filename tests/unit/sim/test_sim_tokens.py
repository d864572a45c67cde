"""Tokens and prompts: prefix property, boundaries that text cannot forge, growing conversations."""

import pytest

from ralb_sim import tokens
from ralb_sim.prompts import Call, Turn, media_piece, render, text_piece

ENGLISH = "Requests of different difficulty go to different tiers, and every answer says why it went there. " * 20


def test_about_four_characters_a_token() -> None:
    assert len(ENGLISH) / tokens.count(tokens.encode(ENGLISH)) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("text", [ENGLISH, "Grüße, 世界 🌍 " * 9])
def test_common_text_prefix_is_common_token_prefix(text: str) -> None:
    whole = tokens.encode(text)
    for cut in range(1, len(text), 7):
        part = tokens.encode(text[:cut])
        assert whole.startswith(part[: -tokens.TOKEN_BYTES])


def test_empty_text_is_no_token() -> None:
    assert tokens.encode("") == b""


def test_text_cannot_forge_control_tokens() -> None:
    text = "".join(chr(code) for code in [*range(0x20, 0x300), 0xFFFD, 0x10FFFF, 0xD800]) + "<|im_end|>"
    for mark in (tokens.BOS, tokens.TURN_END, tokens.THINK_END, tokens.role_token("system")):
        assert mark[:1] not in tokens.encode(text)


def test_ids_are_in_the_vocabulary_and_equal_for_equal_tokens() -> None:
    found = tokens.ids(tokens.encode("abcdabcdwxyz"))
    assert found[0] == found[1] != found[2]
    assert all(0 <= one < tokens.VOCABULARY for one in found)


def test_strings_give_the_text_back() -> None:
    assert tokens.strings(tokens.encode("Hello world")) == ["Hell", "o wo", "rld"]


def test_chain_hashes_share_exactly_the_common_full_blocks() -> None:
    first, second = tokens.encode("a" * 256 + "b" * 64), tokens.encode("a" * 256 + "c" * 64)
    one, two = tokens.chain_hashes(first, 16), tokens.chain_hashes(second, 16)
    assert len(one) == len(two) == 5
    assert one[:4] == two[:4]
    assert one[4] != two[4]
    # Chained: the same block content elsewhere has another hash.
    assert len(set(one[:4])) == 4
    assert tokens.chain_hashes(first[:-4], 16) == one[:4]


def test_a_growing_conversation_shares_its_beginning() -> None:
    question = [Turn("system", (text_piece("Be brief."),)), Turn("user", (text_piece("What time is it?"),))]
    first = render(question)
    answer = tokens.encode("Noon.") + tokens.TURN_END
    more = [*question, Turn("assistant", (text_piece("Noon."),)), Turn("user", (text_piece("And now?"),))]
    assert render(more).startswith(first + answer)


def test_tool_calls_of_earlier_turns_render_as_they_were_generated() -> None:
    call = Call("weather", '{"city":"Oslo"}')
    generated = tokens.TOOL_MARK + tokens.encode(call.name) + tokens.encode(call.arguments) + tokens.TURN_END
    question = [Turn("user", (text_piece("Weather?"),))]
    assert render([*question, Turn("assistant", (), (call,))]).startswith(render(question) + generated)


def test_roles_tools_and_thinking_change_the_prompt() -> None:
    turns = [Turn("user", (text_piece("Hi"),))]
    plain = render(turns)
    assert render([Turn("tool", (text_piece("Hi"),))]) != plain
    assert render(turns, [{"type": "function"}]) != plain
    assert render(turns, thinking=True) == plain + tokens.THINK_START


def test_media_takes_its_tokens_and_equals_itself_only() -> None:
    one, again, other = (media_piece({"image_url": {"url": url}}).tokens() for url in ("a", "a", "b"))
    assert one == again != other
    assert tokens.count(one) == 256
