"""`/v1/messages`: Anthropic's message objects and event sequence, as vLLM 0.32 fills them.

The first event comes with the first token: only the headers precede it.
"""

import secrets
from typing import Any

import orjson
from aiohttp import web

from ralb_sim import tokens
from ralb_sim.answers import Kind
from ralb_sim.server.anthropic_parse import read_messages
from ralb_sim.server.reply import json_answer, read_body
from ralb_sim.server.service import Choice, Job, Service, new_id
from ralb_sim.server.stream import EventStream

_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ORDER: tuple[Kind, ...] = ("reasoning", "content", "tool")


async def messages(request: web.Request, service: Service) -> web.StreamResponse:
    """Answer a messages request."""
    asked = read_messages(await read_body(request), reasons=service.config.reasoning_share > 0)
    with service.submit(asked) as job:
        if asked.stream:
            return await _stream(request, job)
        await job.finish()
        return await json_answer(request, _whole(job))


async def count_tokens(request: web.Request, service: Service) -> web.StreamResponse:
    """Answer a token count."""
    asked = read_messages(await read_body(request), reasons=service.config.reasoning_share > 0, counting=True)
    service.served(asked.model)
    return await json_answer(request, {"input_tokens": tokens.count(asked.prompts[0])})


def _stop_reason(choice: Choice) -> str:
    if choice.answer.tool is not None and choice.answer.finish_reason != "length":
        return "tool_use"
    return "stop_sequence" if choice.answer.stop_reason else _STOP[choice.answer.finish_reason]


def _usage(job: Job) -> dict[str, int]:
    created = job.usage()["prompt_tokens_details"]["created_cache_tokens"] or 0
    return {
        "input_tokens": job.prompt_tokens,
        "output_tokens": job.output_tokens,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": job.cached_tokens,
    }


def _arguments(choice: Choice) -> Any:
    try:
        return orjson.loads(choice.answer.text("tool"))
    except orjson.JSONDecodeError:
        return {}  # Cut short by the token limit.


def _whole(job: Job) -> dict[str, Any]:
    choice = job.choices[0]
    content: list[dict[str, Any]] = []
    if reasoning := choice.answer.text("reasoning"):
        content.append({"type": "thinking", "thinking": reasoning, "signature": secrets.token_hex(16)})
    if text := choice.answer.text("content"):
        content.append({"type": "text", "text": text})
    if choice.answer.tool is not None:
        name = choice.answer.tool.name
        content.append({"type": "tool_use", "id": new_id("chatcmpl-tool"), "name": name, "input": _arguments(choice)})
    answer: dict[str, Any] = {
        "id": new_id("chatcmpl"),
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": job.model,
        "stop_reason": _stop_reason(choice),
    }
    if choice.answer.stop_reason:
        answer["stop_sequence"] = choice.answer.stop_reason
    return {**answer, "usage": _usage(job)}


async def _stream(request: web.Request, job: Job) -> web.StreamResponse:
    async with EventStream(request) as events:
        blocks = _Blocks(events, job.choices[0])
        async for choice, begin, end, finished in job.progress():
            if not begin:
                message: dict[str, Any] = {
                    "id": new_id("chatcmpl"),
                    "type": "message",
                    "role": "assistant",
                    "content": [],
                    "model": job.model,
                    "stop_reason": None,
                    "stop_sequence": None,
                    "usage": {"input_tokens": job.prompt_tokens, "output_tokens": 0},
                }
                await events.named("message_start", {"type": "message_start", "message": message})
            for kind in _ORDER:
                if text := choice.answer.text(kind, begin, end):
                    await blocks.delta(kind, text)
            if finished:
                await blocks.close()
                delta = {"stop_reason": _stop_reason(choice), "stop_sequence": choice.answer.stop_reason}
                await events.named("message_delta", {"type": "message_delta", "delta": delta, "usage": _usage(job)})
        await events.named("message_stop", {"type": "message_stop"})
    return events.response


class _Blocks:
    """The content blocks of a stream: one open at a time, each announced before its first delta."""

    def __init__(self, events: EventStream, choice: Choice) -> None:
        self._events = events
        self._choice = choice
        self._open: Kind | None = None
        self._index = 0

    async def delta(self, kind: Kind, text: str) -> None:
        if kind != self._open:
            await self.close()
            self._open = kind
            await self._event("content_block_start", content_block=self._start(kind), index=self._index)
        delta = {
            "reasoning": {"type": "thinking_delta", "thinking": text},
            "content": {"type": "text_delta", "text": text},
            "tool": {"type": "input_json_delta", "partial_json": text},
        }[kind]
        await self._event("content_block_delta", delta=delta, index=self._index)

    async def close(self) -> None:
        if self._open is None:
            return
        if self._open == "reasoning":
            delta = {"type": "signature_delta", "signature": secrets.token_hex(16)}
            await self._event("content_block_delta", delta=delta, index=self._index)
        await self._event("content_block_stop", index=self._index)
        self._open = None
        self._index += 1

    def _start(self, kind: Kind) -> dict[str, Any]:
        if kind == "reasoning":
            return {"type": "thinking", "thinking": ""}
        if kind == "content" or self._choice.answer.tool is None:
            return {"type": "text", "text": ""}
        return {"type": "tool_use", "id": new_id("chatcmpl-tool"), "name": self._choice.answer.tool.name, "input": {}}

    async def _event(self, name: str, **payload: Any) -> None:
        await self._events.named(name, {"type": name, **payload})
