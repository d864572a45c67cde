"""Whatever bytes come, parsing gives a Request or a ClientError, and understanding gives figures in range."""

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ralb_api.errors import ClientError
from ralb_extproc.request import PATHS, client_headers, parse
from ralb_extproc.request.tokens import estimate
from ralb_extproc.types import Api, Request, Turn
from ralb_extproc.understand import DEFAULT, INTENTS

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)
json = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = [
    "model", "messages", "prompt", "input", "system", "instructions", "stream", "tools", "tool_choice", "functions",
    "function_call", "response_format", "reasoning_effort", "reasoning", "thinking", "text", "n", "max_tokens",
    "max_completion_tokens", "max_output_tokens", "output_config", "output_format", "suffix", "prompt_cache_key",
]  # fmt: skip
PART_KEYS = [
    "type",
    "text",
    "role",
    "content",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "source",
    "data",
    "input",
]
types = st.sampled_from(
    ["text", "image_url", "input_audio", "file", "document", "function", "function_call", "tool_use", "tool_result",
     "function_call_output", "message", "refusal", "thinking", "json_object", "allowed_tools", "custom"]
)  # fmt: skip
# Objects that look like what belongs there, with anything at all in their fields.
parts = st.recursive(
    st.one_of(scalars, types),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PART_KEYS), st.one_of(inner, types), max_size=5)
    ),
    max_leaves=15,
)
bodies = st.dictionaries(st.sampled_from(KEYS), st.one_of(json, parts), max_size=8).map(
    lambda body: {"model": "m", **body}
)


def attempt(path: str, raw: bytes, headers: dict[str, str]) -> Request | ClientError:
    try:
        return parse(path, headers, raw)
    except ClientError as error:
        return error


def outcome(path: str, raw: bytes) -> Request | None:
    result = attempt(path, raw, {"content-type": "application/json"})
    if isinstance(result, Request):
        return result
    assert 400 <= result.status < 500
    assert result.code
    assert result.message
    for anthropic in (False, True):
        assert orjson.loads(result.body(anthropic=anthropic))["error"]["message"] == result.message
    return None


def check(request: Request) -> None:
    understanding = DEFAULT.understand(request)
    assert understanding.intent in INTENTS
    assert 0.0 <= understanding.complexity <= 1.0
    assert 0.0 <= understanding.confidence <= 1.0
    assert len(understanding.reasons) <= 5
    assert request.input_tokens >= 0
    assert orjson.loads(orjson.dumps(request.body)) == request.body


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PATHS), bodies)
def test_odd_bodies(path: str, body: dict[str, object]) -> None:
    request = outcome(path, orjson.dumps(body))
    if request is not None:
        check(request)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PATHS), st.binary(max_size=200))
@example("/v1/chat/completions", b"{")
def test_any_bytes(path: str, raw: bytes) -> None:
    outcome(path, raw)


GOOD = orjson.dumps(
    {
        "model": "auto",
        "stream": True,
        "messages": [
            {"role": "system", "content": "Be kind to café guests."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Что? 天气"}, {"type": "image_url", "image_url": {"url": "u"}}],
            },
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "ok"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "max_tokens": 100,
    }
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, 6))
def test_damaged_bodies(at: int, byte: int, cut: int) -> None:
    outcome("/v1/chat/completions", GOOD[:at] + bytes([byte]) + GOOD[at + cut :])


@pytest.mark.parametrize("length", range(0, len(GOOD), 13))
def test_truncated_bodies(length: int) -> None:
    assert outcome("/v1/chat/completions", GOOD[:length]) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=300)), max_size=8), st.text(max_size=50))
def test_any_headers_and_paths(pairs: list[tuple[str, str]], path: str) -> None:
    headers = client_headers(pairs)
    assert all(name == name.lower() for name in headers)
    for where in (path, "/v1/chat/completions"):
        result = attempt(where, GOOD, headers)
        if isinstance(result, Request):
            assert len(result.session) <= 256
        else:
            assert result.status in (404, 415)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.text(max_size=100))
def test_longer_texts_never_cost_less_by_much(text: str, more: str) -> None:
    # Runs of spaces and newlines merge, so the seam may save a little.
    assert estimate(text + more) >= estimate(text) - 2
    assert 0 <= estimate(text) <= 2 + 2.1 * len(text)


@settings(max_examples=120, deadline=None)
@given(
    st.text(max_size=3000),
    st.integers(0, 5),
    st.lists(st.sampled_from(["user", "assistant", "tool", "system", "x"]), max_size=6),
)
def test_any_text_is_understood(text: str, repeat: int, roles: list[str]) -> None:
    turns = tuple(Turn(role, text * repeat) for role in roles)
    check(Request(Api.CHAT, "m", False, turns, input_tokens=len(text)))
