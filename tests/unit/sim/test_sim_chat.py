"""`/v1/chat/completions` over real HTTP."""

import asyncio
import json
from typing import Any

import orjson
import pytest

from .conftest import Pod, StartPod

CHAT = "/v1/chat/completions"
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}},
    }
    for name in ("search", "weather")
]


def ask(text: str = "Hello there", **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


async def test_json_answer(pod: Pod) -> None:
    status, body, headers = await pod.post(CHAT, ask(max_tokens=5))
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    choice = body["choices"][0]
    assert choice["finish_reason"] == "length"
    assert len(choice["message"]["content"]) == 20
    assert body["usage"]["completion_tokens"] == 5
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 5
    assert body["system_fingerprint"].startswith("vllm-0.32.0-")


async def test_stream_spells_the_json_answer(pod: Pod) -> None:
    _status, whole, _headers = await pod.post(CHAT, ask())
    events = await pod.stream(CHAT, ask())
    assert events[-1] == {"done": True}
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert "system_fingerprint" in events[-2]
    assert all("system_fingerprint" not in event and "usage" not in event for event in events[:-2])


async def test_stream_with_usage_ends_with_a_usage_chunk(pod: Pod) -> None:
    events = await pod.stream(CHAT, ask(max_tokens=4, stream_options={"include_usage": True}))
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 4
    assert "system_fingerprint" in events[-2]
    assert "system_fingerprint" not in events[-3]


async def test_continuous_usage_is_on_every_chunk(pod: Pod) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = await pod.stream(CHAT, ask(max_tokens=4, stream_options=options))
    counts = [event["usage"]["completion_tokens"] for event in events[:-1]]
    assert counts == sorted(counts)
    assert counts[-1] == 4


async def test_stream_headers_precede_queueing(start_pod: StartPod) -> None:
    # Steps of many real seconds: nothing can be answered while this test runs.
    pod = await start_pod(time_scale=1000.0, max_num_seqs=1)
    responses = [await pod.session.post(CHAT, json=ask(str(number), stream=True)) for number in range(3)]
    assert [response.status for response in responses] == [200] * 3
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(responses[0].content.readany(), 0.05)
    for response in responses:
        response.close()


async def test_leaving_clients_free_their_blocks(start_pod: StartPod, until: Any) -> None:
    pod = await start_pod(time_scale=1.0)
    stream = await pod.session.post(CHAT, json=ask(stream=True, max_tokens=4000, ignore_eos=True))
    plain = asyncio.create_task(pod.post(CHAT, ask("other", max_tokens=4000, ignore_eos=True)))
    await until(lambda: pod.service.metrics.stats.running == 2)
    assert pod.service.metrics.stats.kv_usage > 0
    stream.close()
    plain.cancel()
    await until(lambda: pod.service.runner.open == 0)
    await until(lambda: pod.service.metrics.stats.running == 0)
    assert pod.service.metrics.stats.kv_usage == 0
    assert await pod.metric("vllm:request_success_total", finished_reason="abort") == 2


async def test_clients_that_vanish_in_mid_stream_leave_no_trace(
    start_pod: StartPod, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pod = await start_pod()

    async def vanish(number: int) -> None:
        async with pod.session.post(
            CHAT, json=ask(str(number), stream=True, max_tokens=2000, ignore_eos=True)
        ) as response:
            await response.content.readany()
            response.close()

    await asyncio.gather(*(vanish(number) for number in range(30)))
    await until(lambda: pod.service.runner.open == 0)
    assert pod.service.metrics.stats.kv_usage == 0
    assert caplog.records == []


async def test_growing_conversation_hits_prompt_and_answer(pod: Pod) -> None:
    system = {"role": "system", "content": "You are a careful planner. " * 40}
    first = [system, {"role": "user", "content": "What time is it?"}]
    _status, one, _headers = await pod.post(CHAT, {"messages": first, "max_tokens": 40, "min_tokens": 40})
    assert one["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    answer = {"role": "assistant", "content": one["choices"][0]["message"]["content"]}
    _status, two, _headers = await pod.post(
        CHAT, {"messages": [*first, answer, {"role": "user", "content": "And now?"}]}
    )
    known = one["usage"]["prompt_tokens"] + one["usage"]["completion_tokens"] - 1
    assert two["usage"]["prompt_tokens_details"]["cached_tokens"] == known // 16 * 16


async def test_reasoning_is_a_field_of_its_own(start_pod: StartPod) -> None:
    pod = await start_pod(reasoning_share=0.5, output_median=40)
    _status, body, _headers = await pod.post(CHAT, ask())
    message = body["choices"][0]["message"]
    assert message["reasoning"]
    assert message["content"]
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    deltas = [event["choices"][0]["delta"] for event in (await pod.stream(CHAT, ask()))[1:-1]]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == message["reasoning"]
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]


@pytest.mark.parametrize("off", [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}])
async def test_reasoning_can_be_turned_off(start_pod: StartPod, off: dict[str, Any]) -> None:
    pod = await start_pod(reasoning_share=0.5)
    _status, body, _headers = await pod.post(CHAT, ask(**off))
    assert body["choices"][0]["message"]["reasoning"] is None


async def test_required_tool_call(pod: Pod) -> None:
    _status, body, _headers = await pod.post(CHAT, ask(tools=TOOLS, tool_choice="required"))
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    call = choice["message"]["tool_calls"][0]
    assert call["type"] == "function"
    assert call["function"]["name"] in ("search", "weather")
    assert set(json.loads(call["function"]["arguments"])) == {"q"}


async def test_named_tool_call_streams(pod: Pod) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    events = await pod.stream(CHAT, ask(tools=TOOLS, tool_choice=named))
    calls = [call for event in events[:-1] for call in event["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "weather"
    assert calls[0]["id"].startswith("chatcmpl-tool-")
    assert all("id" not in call for call in calls[1:])
    assert set(json.loads("".join(call["function"]["arguments"] for call in calls))) == {"q"}


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
async def test_auto_tool_choice_follows_the_configured_share(
    start_pod: StartPod, probability: float, expected: bool
) -> None:
    pod = await start_pod(tool_call_probability=probability)
    _status, body, _headers = await pod.post(CHAT, ask(tools=TOOLS))
    assert ("tool_calls" in body["choices"][0]["message"]) is expected


async def test_json_schema(pod: Pod) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    format_ = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    _status, body, _headers = await pod.post(CHAT, ask(response_format=format_))
    assert isinstance(json.loads(body["choices"][0]["message"]["content"])["ok"], bool)
    _status, body, _headers = await pod.post(CHAT, ask(response_format={"type": "json_object"}))
    assert isinstance(json.loads(body["choices"][0]["message"]["content"]), dict)


async def test_n_choices(pod: Pod) -> None:
    _status, body, _headers = await pod.post(CHAT, ask(n=3, max_tokens=20, min_tokens=20))
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 3
    assert body["usage"]["completion_tokens"] == 60
    events = await pod.stream(CHAT, ask(n=3, max_tokens=20))
    finished = [event["choices"][0]["index"] for event in events[:-1] if event["choices"][0]["finish_reason"]]
    assert sorted(finished) == [0, 1, 2]
    assert ["system_fingerprint" in event for event in events[:-1]] == [False] * (len(events) - 2) + [True]


async def test_logprobs(pod: Pod) -> None:
    _status, body, _headers = await pod.post(CHAT, ask(max_tokens=3, logprobs=True, top_logprobs=2))
    rows = body["choices"][0]["logprobs"]["content"]
    assert len(rows) == 3
    assert "".join(row["token"] for row in rows) == body["choices"][0]["message"]["content"]
    assert all(row["logprob"] < 0 and len(row["top_logprobs"]) == 2 for row in rows)


async def test_seed_changes_the_answer(pod: Pod) -> None:
    texts = {(await pod.post(CHAT, ask(seed=seed)))[1]["choices"][0]["message"]["content"] for seed in (1, 2)}
    assert len(texts) == 2


async def test_alias_answers_under_its_own_name(pod: Pod) -> None:
    _status, body, _headers = await pod.post(CHAT, ask() | {"model": "ralb-small"})
    assert body["model"] == "ralb-small"


async def test_load_header_only_on_demand_and_in_both_forms(pod: Pod) -> None:
    _status, _body, headers = await pod.post(CHAT, ask())
    assert "endpoint-load-metrics" not in headers
    _status, _body, headers = await pod.post(CHAT, ask(), {"endpoint-load-metrics-format": "JSON"})
    form, _space, payload = headers["endpoint-load-metrics"].partition(" ")
    assert form == "JSON"
    assert set(json.loads(payload)["named_metrics"]) == {"num_requests_waiting", "kv_cache_usage_perc"}
    _status, _body, headers = await pod.post(CHAT, ask(), {"endpoint-load-metrics-format": "text"})
    assert headers["endpoint-load-metrics"].startswith("TEXT named_metrics.num_requests_waiting=0.0, ")


BAD: list[tuple[Any, str]] = [
    (b"{", "body.1"),
    (b"\xff\xfe", "body.0"),
    (b"[1]", "body"),
    ({"model": "tiny"}, "body.messages"),
    ({"messages": "x"}, "body.messages"),
    ({"messages": [3]}, "body.messages.0"),
    ({"messages": [{"content": "x"}]}, "body.messages.0.role"),
    ({"messages": [{"role": "user", "content": 3}]}, "body.messages.0.content"),
    (ask() | {"model": 3}, "body.model"),
    (ask(max_tokens="many"), "body.max_tokens"),
    (ask(max_tokens=0), "max_tokens"),
    (ask(n=10**9), "n"),
    (ask(temperature=-1), "temperature"),
    (ask(stream="yes"), "body.stream"),
    (ask(stream_options={"include_usage": True}), "body"),
    (ask(tools=[{"type": "function"}]), "body.tools.0.function"),
    (ask(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "none"}}), "body"),
    (ask(tool_choice="required"), "body"),
    (ask(response_format={"type": "xml"}), "body.response_format.type"),
    (ask(stop=[1]), "body.stop.0"),
    (ask(reasoning_effort="enormous"), "body.reasoning_effort"),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=[f"{number}-{param}" for number, (_body, param) in enumerate(BAD)])
async def test_bad_bodies_are_400_naming_the_field(pod: Pod, body: Any, param: str) -> None:
    status, answer, _headers = await pod.post(CHAT, body)
    assert status == 400
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, 400)
    assert pod.service.runner.open == 0


async def test_deeply_nested_json_is_refused(pod: Pod) -> None:
    status, answer, _headers = await pod.post(CHAT, b'{"messages":' + b"[" * 100_000)
    assert (status, answer["error"]["code"]) == (400, 400)


async def test_unknown_model_and_context_overflow(pod: Pod) -> None:
    status, body, _headers = await pod.post(CHAT, ask() | {"model": "nope"})
    assert (status, body["error"]["type"], body["error"]["param"]) == (404, "NotFoundError", "model")
    status, body, _headers = await pod.post(CHAT, ask("x" * 20_000))
    assert (status, body["error"]["param"]) == (400, "input_tokens")
    assert "contains at least 4097 input tokens" in body["error"]["message"]
    status, body, _headers = await pod.post(CHAT, ask("x" * 8000, max_tokens=4000))
    assert status == 400
    assert "you requested 4000 output tokens" in body["error"]["message"]


async def test_attachments_take_tokens_and_are_bounded(pod: Pod) -> None:
    def with_images(number: int) -> dict[str, Any]:
        images = [{"type": "image_url", "image_url": {"url": f"http://x/{index}"}} for index in range(number)]
        return {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, *images]}],
            "max_tokens": 1,
        }

    _status, none, _headers = await pod.post(CHAT, with_images(0))
    _status, two, _headers = await pod.post(CHAT, with_images(2))
    assert two["usage"]["prompt_tokens"] == none["usage"]["prompt_tokens"] + 512
    status, body, _headers = await pod.post(CHAT, with_images(5000))
    assert (status, body["error"]["param"]) == (400, "messages")


async def test_sequences_of_one_request_are_bounded(pod: Pod) -> None:
    status, body, _headers = await pod.post("/v1/completions", {"prompt": ["x"] * 100, "n": 64})
    assert (status, body["error"]["param"]) == (400, "n")


async def test_a_full_queue_is_503_and_counted(start_pod: StartPod, until: Any) -> None:
    pod = await start_pod(max_queued=2, time_scale=1000.0)
    held = [await pod.session.post(CHAT, json=ask(str(number), stream=True)) for number in range(2)]
    status, body, headers = await pod.post(CHAT, ask("third"))
    assert (status, headers["Retry-After"]) == (503, "1")
    assert body["error"]["code"] == 503
    assert await pod.metric("vllm:admission_rejections_total", reason="max_num_queued_reqs") == 1
    for response in held:
        response.close()
    await until(lambda: pod.service.runner.open == 0)


async def test_many_at_once_are_all_answered(pod: Pod) -> None:
    answers = await asyncio.gather(*(pod.post(CHAT, ask(f"question {number}", max_tokens=8)) for number in range(40)))
    assert all(status == 200 for status, _body, _headers in answers)
    streams = await asyncio.gather(*(pod.stream(CHAT, ask(f"stream {number}", max_tokens=8)) for number in range(20)))
    assert all(events[-1] == {"done": True} for events in streams)
    assert orjson.dumps(pod.service.runner.open) == b"0"
