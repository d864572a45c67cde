"""`/v1/chat/completions`: JSON and streams with the keys, order and placement vLLM 0.32 uses."""

from typing import Any

from aiohttp import web

from ralb_sim.server.chat_parse import read_chat
from ralb_sim.server.generation import Generation
from ralb_sim.server.logprobs import chat_logprobs
from ralb_sim.server.reply import json_answer, read_body, with_load
from ralb_sim.server.service import Choice, Job, Service, new_id
from ralb_sim.server.stream import EventStream


async def chat_completions(request: web.Request, service: Service) -> web.StreamResponse:
    """Answer a chat completion."""
    body = await read_body(request)
    asked = read_chat(body, reasons=service.config.reasoning_share > 0)
    leg = await service.handoffs.arrive(request, body, asked.prompts)
    with service.submit(asked, leg.received) as job:
        if asked.stream:
            return await _stream(request, service, asked, job)
        await job.finish()
        kept = service.handoffs.keep(request, asked.prompts[0]) if leg.keep else None
        return await json_answer(request, _whole(service, asked, job, kept), with_load(request, service))


def _whole(service: Service, asked: Generation, job: Job, kept: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": job.created,
        "model": job.model,
        "choices": [_choice(choice, asked) for choice in job.choices],
        "service_tier": None,
        "system_fingerprint": service.fingerprint,
        "usage": job.usage(),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": kept,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _choice(choice: Choice, asked: Generation) -> dict[str, Any]:
    answer = choice.answer
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text("content") or None,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if answer.tool is not None:
        message["tool_calls"] = [
            {
                "id": new_id("chatcmpl-tool"),
                "type": "function",
                "function": {"name": answer.tool.name, "arguments": answer.text("tool")},
            }
        ]
    elif message["content"] is None and not answer.reasoning_tokens:
        message["content"] = ""
    message["reasoning"] = answer.text("reasoning") or None
    return {
        "index": choice.index,
        "message": message,
        "logprobs": None if asked.top_logprobs is None else chat_logprobs(answer, 0, answer.length, asked.top_logprobs),
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
        "token_ids": None,
        "routed_experts": None,
    }


async def _stream(request: web.Request, service: Service, asked: Generation, job: Job) -> web.StreamResponse:
    head = {"id": new_id("chatcmpl"), "object": "chat.completion.chunk", "created": job.created, "model": job.model}
    left = len(job.choices)
    async with EventStream(request) as events:
        async for choice, begin, end, finished in job.progress():
            extra = {"usage": job.usage(sparse=True)} if asked.continuous_usage else {}
            if not begin:
                role = {
                    "index": choice.index,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                }
                await events.data({**head, "choices": [role], "prompt_token_ids": None, "prompt_text": None, **extra})
            deltas = _deltas(choice, begin, end)
            left -= finished
            for number, delta in enumerate(deltas or ([{"content": ""}] if finished else [])):
                last = finished and number >= len(deltas) - 1
                piece: dict[str, Any] = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
                if asked.top_logprobs is not None and "content" in delta:
                    piece["logprobs"] = chat_logprobs(choice.answer, begin, end, asked.top_logprobs)
                if last:
                    piece["finish_reason"] = choice.answer.finish_reason
                    piece["stop_reason"] = choice.answer.stop_reason
                piece["token_ids"] = None
                chunk = {**head, "choices": [piece], **extra}
                if last and not left and not asked.include_usage:
                    chunk["system_fingerprint"] = service.fingerprint
                await events.data(chunk)
        if asked.include_usage:
            usage = job.usage(sparse=True)
            await events.data({**head, "choices": [], "usage": usage, "system_fingerprint": service.fingerprint})
        await events.done()
    return events.response


def _deltas(choice: Choice, begin: int, end: int) -> list[dict[str, Any]]:
    """Return the deltas for output tokens `begin` to `end`: text and reasoning together, a tool call's name by itself."""
    answer = choice.answer
    deltas: list[dict[str, Any]] = []
    plain: dict[str, Any] = {}
    if reasoning := answer.text("reasoning", begin, end):
        plain["reasoning"] = reasoning
    if content := answer.text("content", begin, end):
        plain["content"] = content
    if plain:
        deltas.append(plain)
    if answer.tool is not None and (arguments := answer.text("tool", begin, end)):
        if begin <= next(part.start for part in answer.segments if part.kind == "tool"):
            function = {"name": answer.tool.name, "arguments": ""}
            opening = {"id": new_id("chatcmpl-tool"), "type": "function", "index": 0, "function": function}
            deltas.append({"tool_calls": [opening]})
        deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]})
    return deltas
