"""Bodies of the two legs, and answers of prefill pods that are not what they should be."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_routing import HEADERS

from ralb_extproc.answer import rewritten, upstream_body
from ralb_extproc.prefill.body import decode_body, leg_body, read_answer, splittable
from ralb_extproc.request import parse
from ralb_extproc.types import Candidate, Plan, Request

CHAT = "/v1/chat/completions"
PLAN = Plan("", "", "", "", (Candidate("ns/d", "m", "", 0, 1),))
PARAMS = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [1, 2, 3],
    "remote_engine_id": "engine-1",
    "remote_host": "10.0.0.1",
    "remote_port": 5600,
    "tp_size": 2,
    "something_newer": {"x": [1]},
}


def request(path: str = CHAT, **body: Any) -> Request:
    if path == CHAT:
        body = {"messages": [{"role": "user", "content": "hi"}], **body}
    return parse(path, HEADERS, orjson.dumps({"model": "m", **body}))


def test_the_prefill_leg() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function"}],
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 500,
        "max_completion_tokens": 600,
        "min_tokens": 10,
        "top_logprobs": 5,
        "logprobs": True,
        "stop": ["x"],
    }
    assert orjson.loads(leg_body(body)) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function"}],
        "temperature": 0.5,
        "stream": False,
        "n": 1,
        "max_tokens": 1,
        "max_completion_tokens": 1,
        "kv_transfer_params": {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "remote_engine_id": None,
            "remote_block_ids": None,
            "remote_host": None,
            "remote_port": None,
        },
    }
    assert body["stream"], "the decode leg is made from the same"


def test_a_limit_that_was_not_said_is_not_said_twice() -> None:
    assert "max_completion_tokens" not in orjson.loads(leg_body({"model": "m"}))


def test_the_decode_leg_is_the_request_and_the_blocks_as_they_were_named() -> None:
    fields = {"model": "m", "messages": [], "stream": True, "max_tokens": 500}
    assert orjson.loads(decode_body(fields, PARAMS)) == fields | {"kv_transfer_params": PARAMS}


@pytest.mark.parametrize(
    ("path", "body", "can"),
    [
        (CHAT, {}, True),
        (CHAT, {"n": 1}, True),
        (CHAT, {"n": 2}, False),
        (CHAT, {"prompt_logprobs": 1}, False),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, True),
        ("/v1/completions", {"prompt": "text"}, True),
        ("/v1/completions", {"prompt": ["text"]}, True),
        ("/v1/completions", {"prompt": [1, 2, 3]}, True),
        ("/v1/completions", {"prompt": ["one", "two"]}, False),
        ("/v1/completions", {"prompt": [[1], [2]]}, False),
        ("/v1/completions", {"prompt": "text", "echo": True}, False),
        ("/v1/completions", {"prompt": "text", "best_of": 3}, False),
        ("/v1/embeddings", {"input": "text"}, False),
        ("/v1/responses", {"input": "text"}, False),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}, False),
    ],
)
def test_what_can_be_split(path: str, body: dict[str, Any], can: bool) -> None:
    assert splittable(request(path, **body)) is can


def test_what_clients_say_about_blocks_never_reaches_a_pod() -> None:
    asked = request(kv_transfer_params=PARAMS)
    assert "kv_transfer_params" not in orjson.loads(upstream_body(asked, PLAN, "m"))


def test_later_attempts_have_no_blocks_to_fetch() -> None:
    body = orjson.dumps({"model": "m", "kv_transfer_params": PARAMS})
    assert orjson.loads(rewritten(body, "n").request_body.response.body_mutation.body) == {"model": "n"}


def answer(**changes: Any) -> bytes:
    usage = {"prompt_tokens": 900, "prompt_tokens_details": {"cached_tokens": 300}}
    return orjson.dumps({"id": "x", "kv_transfer_params": PARAMS, "usage": usage} | changes)


def test_a_good_answer() -> None:
    found = read_answer(answer())
    assert (found.params, found.prompt_tokens, found.cached_tokens) == (PARAMS, 900, 300)


@pytest.mark.parametrize(
    "usage", [None, 5, {}, {"prompt_tokens": -1, "prompt_tokens_details": 3}, {"prompt_tokens": 1e9}]
)
def test_usage_is_not_needed(usage: Any) -> None:
    found = read_answer(answer(usage=usage))
    assert (found.prompt_tokens, found.cached_tokens) == (None, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        b"[]",
        b'"text"',
        b"{}",
        answer(kv_transfer_params=None),
        answer(kv_transfer_params=[]),
        answer(kv_transfer_params={}),
        *(
            answer(kv_transfer_params=PARAMS | change)
            for change in (
                {"do_remote_prefill": False},
                {"do_remote_prefill": "yes"},
                {"remote_block_ids": []},
                {"remote_block_ids": None},
                {"remote_engine_id": None},
                {"remote_host": ""},
                {"remote_host": 5},
                {"remote_port": "5600"},
                {"remote_port": True},
            )
        ),
        answer().replace(b'{"x":[1]}', b"[" * 500 + b"]" * 500),
    ],
)
def test_an_answer_that_is_of_no_use(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_answer(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.fixed_dictionaries({name: json_values for name in PARAMS}), json_values)
def test_whatever_a_pod_says_is_passed_on_whole_or_refused(params: dict[str, Any], usage: Any) -> None:
    try:
        found = read_answer(orjson.dumps({"kv_transfer_params": params, "usage": usage}))
    except ValueError:
        return
    assert orjson.loads(decode_body({"model": "m"}, found.params))["kv_transfer_params"] == orjson.loads(
        orjson.dumps(params)
    )


@given(st.binary(max_size=200))
def test_bytes_are_refused_and_never_raise_anything_else(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_answer(data)
