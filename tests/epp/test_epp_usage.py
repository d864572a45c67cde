"""Reading usage off a passing body: the same however it is cut, bounded, and deaf to what only looks like it."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ralb_extproc.epp.usage import TAIL, Tokens, UsageReader

OPENAI = {"prompt_tokens": 40, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 16}}
CHAT = json.dumps({"id": "x", "choices": [{"message": {"content": "hi"}}], "usage": OPENAI}).encode()
SSE = (
    b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
    b'data: {"choices":[],"usage": {"prompt_tokens":40,"completion_tokens":9,'
    b'"prompt_tokens_details":{"cached_tokens":16}}}\n\ndata: [DONE]\n\n'
)
MESSAGES = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":40,'
    b'"cache_read_input_tokens":16,"output_tokens":1}}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":9}}\n\n'
)
RESPONSES = json.dumps(
    {
        "output": [],
        "usage": {
            "input_tokens": 40,
            "output_tokens": 9,
            "input_tokens_details": {"cached_tokens": 16},
            "output_tokens_details": {"reasoning_tokens": 4},
        },
        "user": None,
    },
    indent=2,
).encode()


def read(*parts: bytes) -> Tokens:
    reader = UsageReader()
    for part in parts:
        reader.feed(part)
    assert reader.size == sum(map(len, parts))
    return reader.tokens()


@pytest.mark.parametrize(
    ("body", "reasoning"),
    [(CHAT, None), (SSE, None), (MESSAGES, None), (RESPONSES, 4)],
    ids=["chat", "sse", "msg", "resp"],
)
def test_every_api_says_it(body: bytes, reasoning: int | None) -> None:
    assert read(body) == Tokens(40, 9, 16, reasoning)


@given(body=st.sampled_from([CHAT, SSE, MESSAGES, RESPONSES]), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_cuts_do_not_matter(body: bytes, cuts: list[int]) -> None:
    ends = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    assert read(*(body[a:b] for a, b in pairwise(ends))) == read(body)


def test_long_answers_before_it_do_not_matter() -> None:
    long = b"data: " + b"z" * 900 + b"\n\n"
    assert read(*[long] * 1000, SSE).output == 9
    assert read(MESSAGES[: MESSAGES.index(b"event: message_delta")], *[long] * 1000, MESSAGES[-80:]).input == 40
    assert read(b"y" * 10_000_000 + CHAT).output == 9


def test_what_is_kept_is_bounded() -> None:
    reader = UsageReader()
    for _ in range(500):
        reader.feed(b"x" * 10_000)
        assert len(reader._tail) <= 5 * TAIL


def test_text_that_looks_like_usage_is_none() -> None:
    content = 'he said "usage": {"completion_tokens": 5} and left'
    body = json.dumps({"choices": [{"message": {"content": content}}], "usage": OPENAI}).encode()
    assert read(body).output == 9
    assert read(json.dumps({"choices": [{"message": {"content": content}}]}).encode()) == Tokens()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"usage"',
        b'"usage":',
        b'"usage": {',
        b'"usage": {"completion_tokens": 1',
        b'"usage": null',
        b'"usage": []',
        b'"usage": {"completion_tokens": -1}',
        b'"usage": {"completion_tokens": 1.5}',
        b'"usage": {"completion_tokens": true}',
        b'"usage": {"completion_tokens": "9"}',
        b'"usage": {"completion_tokens": 99999999999999}',
        b'"usage": {"completion_tokens": {"a": 1}}',
        b'"usage": {broken}',
        b'"usage":' + b"{" * 10_000,
    ],
)
def test_broken_numbers_count_as_not_said(body: bytes) -> None:
    assert read(body) == Tokens()


@given(st.binary(max_size=200).map(lambda noise: b'"usage":{' + noise))
def test_noise_raises_nothing(body: bytes) -> None:
    read(body)
