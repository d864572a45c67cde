"""The other endpoints over real HTTP: completions, responses, messages, embeddings, and the small ones."""

import base64
import json
import math
import struct
from typing import Any

import pytest

from .conftest import Pod, StartPod

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}


async def test_completion_and_its_stream(pod: Pod) -> None:
    asked = {"prompt": "Once upon a time", "max_tokens": 6, "min_tokens": 6}
    _status, whole, _headers = await pod.post("/v1/completions", asked)
    assert whole["object"] == "text_completion"
    assert whole["usage"]["completion_tokens"] == 6
    events = await pod.stream("/v1/completions", asked | {"stream_options": {"include_usage": True}})
    assert "".join(event["choices"][0]["text"] for event in events[:-2]) == whole["choices"][0]["text"]
    assert events[-2]["usage"]["completion_tokens"] == 6


async def test_completion_takes_lists_and_token_ids(pod: Pod) -> None:
    for prompt, choices in ((["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)):
        _status, body, _headers = await pod.post("/v1/completions", {"prompt": prompt, "max_tokens": 2})
        assert [choice["index"] for choice in body["choices"]] == list(range(choices))


async def test_completion_default_limit_and_logprobs(pod: Pod) -> None:
    _status, body, _headers = await pod.post("/v1/completions", {"prompt": "x", "min_tokens": 50, "logprobs": 2})
    choice = body["choices"][0]
    assert body["usage"]["completion_tokens"] == 16
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert choice["logprobs"]["text_offset"][1] == 4
    assert len(choice["logprobs"]["top_logprobs"][0]) == 2


@pytest.mark.parametrize("prompt", [None, [], [[]], [1, "x"], ["x", 1], {"a": 1}, [-1], ["x"] * 300])
async def test_bad_prompts_are_400(pod: Pod, prompt: Any) -> None:
    status, body, _headers = await pod.post("/v1/completions", {"prompt": prompt})
    assert (status, body["error"]["code"]) == (400, 400)


async def test_responses_stream_spells_the_json_answer(start_pod: StartPod) -> None:
    pod = await start_pod(reasoning_share=0.4, output_median=30)
    asked = {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
        "instructions": "Be brief.",
    }
    _status, whole, _headers = await pod.post("/v1/responses", asked)
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    assert whole["status"] == "completed"
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    events = await pod.stream("/v1/responses", asked)
    names = [event["type"] for event in events]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == whole["output"][1]["content"][0]["text"]
    final = events[-1]["response"]
    assert final["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert [item["type"] for item in final["output"]] == ["reasoning", "message"]
    assert final["id"] == events[0]["response"]["id"]
    opened = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    assert opened == [item["id"] for item in final["output"]]


async def test_responses_announce_themselves_before_the_first_token(start_pod: StartPod) -> None:
    pod = await start_pod(time_scale=1000.0)
    async with pod.session.post("/v1/responses", json={"input": "hi", "stream": True}) as response:
        text = b""
        while b"response.in_progress" not in text:
            text += await response.content.readany()
        assert b"delta" not in text


async def test_responses_function_call_and_its_history(pod: Pod) -> None:
    tools = [{"type": "function", "name": "look", "parameters": SCHEMA}, {"type": "web_search"}]
    asked = {"input": "hi", "tools": tools, "tool_choice": "required"}
    _status, body, _headers = await pod.post("/v1/responses", asked)
    call = body["output"][0]
    assert (call["type"], call["name"]) == ("function_call", "look")
    assert set(json.loads(call["arguments"])) == {"q"}
    names = [event["type"] for event in await pod.stream("/v1/responses", asked)]
    assert "response.function_call_arguments.delta" in names
    history = [
        {"role": "user", "content": "hi"},
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "42"},
    ]
    status, _body, _headers = await pod.post("/v1/responses", {"input": history})
    assert status == 200


async def test_cut_responses_are_incomplete_and_unknown_previous_is_404(pod: Pod) -> None:
    _status, body, _headers = await pod.post("/v1/responses", {"input": "hi", "max_output_tokens": 2})
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    status, body, _headers = await pod.post("/v1/responses", {"input": "hi", "previous_response_id": "resp_x"})
    assert status == 404
    status, body, _headers = await pod.post("/v1/responses", {"input": [3]})
    assert (status, body["error"]["param"]) == (400, "body.input.0")


def message(**more: Any) -> dict[str, Any]:
    return {"max_tokens": 200, "messages": [{"role": "user", "content": "Hello"}], **more}


async def test_messages_stream_spells_the_json_answer(start_pod: StartPod) -> None:
    pod = await start_pod(reasoning_share=0.4, output_median=30)
    _status, whole, _headers = await pod.post("/v1/messages", message(system="Be brief."))
    assert [block["type"] for block in whole["content"]] == ["thinking", "text"]
    assert whole["stop_reason"] == "end_turn"
    events = await pod.stream("/v1/messages", message(system="Be brief."))
    names = [event["type"] for event in events]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("content_block_start") == names.count("content_block_stop") == 2
    text = "".join(event["delta"]["text"] for event in events if event.get("delta", {}).get("type") == "text_delta")
    assert text == whole["content"][1]["text"]
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1]


async def test_messages_tool_use_and_its_history(pod: Pod) -> None:
    asked = message(tools=[{"name": "look", "input_schema": SCHEMA}], tool_choice={"type": "tool", "name": "look"})
    _status, body, _headers = await pod.post("/v1/messages", asked)
    assert body["stop_reason"] == "tool_use"
    block = body["content"][0]
    assert (block["type"], block["name"], set(block["input"])) == ("tool_use", "look", {"q"})
    events = await pod.stream("/v1/messages", asked)
    parts = [
        event["delta"]["partial_json"] for event in events if event.get("delta", {}).get("type") == "input_json_delta"
    ]
    assert json.loads("".join(parts)) == block["input"]
    result = {"type": "tool_result", "tool_use_id": block["id"], "content": [{"type": "text", "text": "42"}]}
    history = [*asked["messages"], {"role": "assistant", "content": [block]}, {"role": "user", "content": [result]}]
    _status, more, _headers = await pod.post(
        "/v1/messages", asked | {"messages": history, "tool_choice": {"type": "auto"}}
    )
    assert more["usage"]["input_tokens"] > body["usage"]["input_tokens"]
    assert more["usage"]["cache_read_input_tokens"] > 0


async def test_messages_limits_and_errors(pod: Pod) -> None:
    _status, body, _headers = await pod.post("/v1/messages", message(max_tokens=2))
    assert body["stop_reason"] == "max_tokens"
    _status, body, _headers = await pod.post("/v1/messages", message(stop_sequences=["simulated"]))
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "simulated")
    status, body, _headers = await pod.post("/v1/messages", message() | {"model": "nope"})
    assert (status, body["type"], body["error"]["type"]) == (404, "error", "NotFoundError")
    bodies: list[dict[str, Any]] = [
        {"messages": []},
        message(messages=[{"role": "x", "content": ""}]),
        message(tool_choice={"type": "x"}),
        message(system=[3]),
        message(messages=[{"role": "user", "content": [{"text": "x"}]}]),
    ]
    for bad in bodies:
        status, body, _headers = await pod.post("/v1/messages", bad)
        assert (status, body["type"]) == (400, "error")


async def test_message_tokens_are_counted_without_an_answer(pod: Pod) -> None:
    asked = message()
    del asked["max_tokens"]
    _status, counted, _headers = await pod.post("/v1/messages/count_tokens", asked)
    _status, body, _headers = await pod.post("/v1/messages", message())
    assert counted == {"input_tokens": body["usage"]["input_tokens"]}


async def test_embeddings(pod: Pod) -> None:
    _status, body, _headers = await pod.post("/v1/embeddings", {"input": ["a", "b", "a"], "dimensions": 8})
    one, two, again = (row["embedding"] for row in body["data"])
    assert one == again != two
    assert math.hypot(*one) == pytest.approx(1)
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == 6
    _status, body, _headers = await pod.post(
        "/v1/embeddings", {"input": "a", "dimensions": 8, "encoding_format": "base64"}
    )
    assert struct.unpack("<8f", base64.b64decode(body["data"][0]["embedding"])) == pytest.approx(one, abs=1e-6)
    status, _body, _headers = await pod.post("/v1/embeddings", {"input": "a", "encoding_format": "hex"})
    assert status == 400


async def test_small_endpoints(pod: Pod) -> None:
    status, page = await pod.get("/v1/models")
    models = json.loads(page)["data"]
    assert [model["id"] for model in models] == ["tiny", "ralb-small"]
    assert models[0]["max_model_len"] == 4096
    assert await pod.get("/health") == (200, b"")
    assert await pod.get("/version") == (200, b'{"version":"0.32.0"}')
    status, body, _headers = await pod.post("/tokenize", {"model": "tiny", "prompt": "Hello world"})
    assert (status, body["count"], len(body["tokens"])) == (200, 4, 4)
    chat = {"messages": [{"role": "user", "content": "Hello world"}]}
    _status, counted, _headers = await pod.post("/tokenize", chat)
    _status, answered, _headers = await pod.post("/v1/chat/completions", chat)
    assert counted["count"] == answered["usage"]["prompt_tokens"]
    status, _page = await pod.get("/nowhere")
    assert status == 404
    status, _page = await pod.get("/v1/chat/completions")
    assert status == 405
