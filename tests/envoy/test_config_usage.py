"""Token usage and times in the access log: right numbers for every API family, without a byte of an answer in Python."""

import asyncio
import io
import json
from typing import Any

import aiohttp
import pytest
from support_gateway import SSE_HEAD, Gateway, Step, chunk, events, json_response, response, sse_response
from support_net import wait_until

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

SMALL = "pool/default/small"
CHAT_USAGE = {
    "prompt_tokens": 591,
    "total_tokens": 603,
    "completion_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 512, "created_cache_tokens": 0, "multimodal_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 7},
}
RESPONSES_USAGE = {
    "input_tokens": 18,
    "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0, "input_tokens_per_turn": []},
    "output_tokens": 40,
    "output_tokens_details": {"reasoning_tokens": 30, "tool_output_tokens": 0},
    "total_tokens": 58,
}
MESSAGES_USAGE = {
    "input_tokens": 18,
    "output_tokens": 4,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 16,
}


def chat_chunk(content: str, **rest: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": None}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": choices, **rest}


def responses_event(kind: str, **rest: Any) -> dict[str, Any]:
    return {"type": kind, "sequence_number": 1, "response": {"id": "resp_1", "output": [], "usage": None, **rest}}


MESSAGES_STREAM = events(
    {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 18, "output_tokens": 0}}},
    {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "sti"}, "index": 0},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": MESSAGES_USAGE},
    {"type": "message_stop"},
    name=True,
)
CASES: dict[str, tuple[str, list[Step], dict[str, float]]] = {
    "chat": (
        "/v1/chat/completions",
        json_response(
            {"id": "c", "choices": [{"message": {"content": '"usage": {"prompt_tokens": 1}'}}], "usage": CHAT_USAGE}
        ),
        {"in": 591, "out": 12, "cached": 512, "reasoning": 7},
    ),
    "chat without details": (
        "/v1/chat/completions",
        json_response(
            {
                "usage": {
                    "prompt_tokens": 5,
                    "completion_tokens": 2,
                    "prompt_tokens_details": None,
                    "completion_tokens_details": None,
                }
            }
        ),
        {"in": 5, "out": 2},
    ),
    "chat in small pieces": (
        "/v1/chat/completions",
        [
            SSE_HEAD.replace(b"text/event-stream; charset=utf-8", b"application/json"),
            *(chunk(bytes([byte])) for byte in json.dumps({"usage": CHAT_USAGE}).encode()),
            chunk(b""),
        ],
        {"in": 591, "out": 12, "cached": 512, "reasoning": 7},
    ),
    "chat stream": (
        "/v1/chat/completions",
        sse_response(
            events(
                chat_chunk(""),
                chat_chunk("te", usage=None),
                chat_chunk("x"),
                {"choices": [], "usage": CHAT_USAGE},
                "[DONE]",
            )
        ),
        {"in": 591, "out": 12, "cached": 512, "reasoning": 7},
    ),
    "chat stream with continuous usage": (
        "/v1/chat/completions",
        sse_response(
            events(
                *(chat_chunk("x", usage={"prompt_tokens": 9, "completion_tokens": number}) for number in range(1, 6)),
                {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}},
                "[DONE]",
            )
        ),
        {"in": 9, "out": 5},
    ),
    "chat stream without usage": (
        "/v1/chat/completions",
        sse_response(events(chat_chunk("x"), "[DONE]")),
        {},
    ),
    "chat stream cut in the middle of everything": (
        "/v1/chat/completions",
        [
            SSE_HEAD,
            *(chunk(bytes([byte])) for byte in b"".join(events(chat_chunk("ü", usage=CHAT_USAGE), "[DONE]"))),
            chunk(b""),
        ],
        {"in": 591, "out": 12, "cached": 512, "reasoning": 7},
    ),
    "completions": (
        "/v1/completions",
        json_response({"choices": [{"text": "x"}], "usage": {"prompt_tokens": 4, "completion_tokens": 4}}),
        {"in": 4, "out": 4},
    ),
    "completions stream": (
        "/v1/completions",
        sse_response(
            events({"choices": [{"text": "x"}]}, {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 8}})
        ),
        {"in": 4, "out": 8},
    ),
    "embeddings": (
        "/v1/embeddings",
        json_response({"data": [{"embedding": [0.5] * 10}], "usage": {"prompt_tokens": 6, "completion_tokens": 0}}),
        {"in": 6, "out": 0},
    ),
    "responses": (
        "/v1/responses",
        json_response({"object": "response", "output": [], "usage": RESPONSES_USAGE}),
        {"in": 18, "out": 40, "cached": 16, "reasoning": 30},
    ),
    "responses stream, the last event of which repeats everything": (
        "/v1/responses",
        sse_response(
            events(
                responses_event("response.created", instructions="x" * 300_000),
                {"type": "response.output_text.delta", "delta": "hi"},
                responses_event(
                    "response.completed",
                    instructions="x" * 300_000,
                    output=[{"text": "y" * 300_000}],
                    usage=RESPONSES_USAGE,
                ),
                name=True,
            )
        ),
        {"in": 18, "out": 40, "cached": 16, "reasoning": 30},
    ),
    "messages": (
        "/v1/messages",
        json_response({"type": "message", "content": [], "usage": MESSAGES_USAGE}),
        {"in": 18, "out": 4, "cached": 16},
    ),
    "messages stream": ("/v1/messages", sse_response(MESSAGES_STREAM), {"in": 18, "out": 4, "cached": 16}),
    "messages stream that ends early": ("/v1/messages", sse_response(MESSAGES_STREAM[:3]), {"in": 18, "out": 0}),
    "not JSON": ("/v1/chat/completions", response(200, b"{nope"), {}),
    "other JSON": ("/v1/chat/completions", json_response(["usage", {"prompt_tokens": 1}]), {}),
    "hostile numbers": (
        "/v1/chat/completions",
        json_response({"usage": {"prompt_tokens": "many", "completion_tokens": {"a": 1}}}),
        {},
    ),
}


async def call(gw: Gateway, path: str) -> tuple[bytes, Any]:
    """The answer's body and the access log's entry."""
    gw.processor.order = [(SMALL, gw.pods.addresses["small-0"]), (SMALL, gw.pods.addresses["small-1"])]
    async with (
        aiohttp.ClientSession() as session,
        session.post(gw.url + path, data=io.BytesIO(b'{"model":"auto"}')) as answer,
    ):
        assert answer.status == 200
        return await answer.read(), await gw.processor.log(answer.headers["x-request-id"])


def usage_of(entry: Any) -> dict[str, float]:
    found = entry.common_properties.metadata.filter_metadata
    return dict(found["ralb.usage"]) if "ralb.usage" in found else {}


@pytest.mark.parametrize("case", CASES)
async def test_usage(gw: Gateway, case: str) -> None:
    path, script, expected = CASES[case]
    gw.pods.scripts["small-0"] = script
    _, entry = await call(gw, path)
    assert usage_of(entry) == expected
    assert gw.processor.kinds == {"request_headers": 1, "request_body": 1}


async def test_usage_is_that_of_the_attempt_that_answered(gw: Gateway) -> None:
    gw.pods.scripts["small-0"] = response(503, json.dumps({"usage": {"prompt_tokens": 1}}).encode())
    gw.pods.scripts["small-1"] = json_response({"usage": {"prompt_tokens": 2, "completion_tokens": 3}})
    _, entry = await call(gw, "/v1/chat/completions")
    assert usage_of(entry) == {"in": 2, "out": 3}


async def test_reading_usage_does_not_fill_the_log(gw: Gateway) -> None:
    before = gw.envoy.log.read_text()
    for path, script, _ in CASES.values():
        gw.pods.scripts["small-0"] = script
        await call(gw, path)
    assert gw.envoy.log.read_text() == before


async def test_time_to_first_token_is_that_of_the_token_and_not_of_the_headers(gw: Gateway) -> None:
    go = asyncio.Event()
    gw.pods.scripts["small-0"] = [SSE_HEAD, go, chunk(events(chat_chunk("x"))[0]), 0.2, chunk(b"")]
    task = asyncio.create_task(call(gw, "/v1/chat/completions"))
    await wait_until(lambda: bool(gw.pods.attempts), what="request at the pod")
    await asyncio.sleep(0.3)  # what the pod takes to its first token; the headers went at once
    go.set()
    _, entry = await task
    tags = {name: int(value) for name, value in entry.common_properties.custom_tags.items()}
    assert 0.3e6 <= tags["ttft_us"] < 0.5e6
    assert 0.3e6 <= tags["server_ttft_us"] <= tags["ttft_us"]
    total = entry.common_properties.time_to_last_downstream_tx_byte
    assert total.ToMicroseconds() >= tags["ttft_us"] + 0.2e6


async def test_entry_says_who_served_and_what_was_decided(gw: Gateway) -> None:
    gw.processor.decision = {"id": "d-7", "tier": "easy"}
    gw.pods.scripts["small-0"] = response(503, b"{}")
    _, entry = await call(gw, "/v1/chat/completions")
    common = entry.common_properties
    assert common.upstream_cluster == SMALL
    assert common.upstream_request_attempt_count == 2
    remote = common.upstream_remote_address.socket_address
    assert f"{remote.address}:{remote.port_value}" == gw.pods.addresses["small-1"]
    assert dict(common.metadata.filter_metadata["ralb.decision"]) == {"id": "d-7", "tier": "easy"}
    assert entry.response.response_code.value == 200
    assert entry.request.path == "/v1/chat/completions"


async def test_entry_of_a_client_that_left(gw: Gateway) -> None:
    gw.processor.order = [(SMALL, gw.pods.addresses["small-0"])]
    gw.pods.scripts["small-0"] = [SSE_HEAD, chunk(events(chat_chunk("x"))[0]), asyncio.Event()]
    async with aiohttp.ClientSession() as session:
        answer = await session.post(gw.url + "/v1/chat/completions", data=io.BytesIO(b'{"model":"auto"}'))
        await answer.content.readany()
        request_id = answer.headers["x-request-id"]
        answer.close()
    entry = await gw.processor.log(request_id)
    assert entry.common_properties.response_flags.downstream_connection_termination
    assert "ttft_us" in entry.common_properties.custom_tags
