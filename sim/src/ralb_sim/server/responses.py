"""`/v1/responses`: JSON and the event stream.

Trap: `response.created` and `response.in_progress` go out at once, before the first token and even before admission, so the
first body byte of such a stream says nothing about time to first token. vLLM does the same.
"""

import secrets
from typing import Any

from aiohttp import web

from ralb_sim.answers import Kind
from ralb_sim.server import fields
from ralb_sim.server.fields import Body
from ralb_sim.server.reply import json_answer, read_body
from ralb_sim.server.responses_parse import read_response
from ralb_sim.server.service import Choice, Job, Service
from ralb_sim.server.stream import EventStream

_ORDER: tuple[Kind, ...] = ("reasoning", "content", "tool")
_PREFIX = {"content": "msg", "reasoning": "rs", "tool": "fc"}


async def responses(request: web.Request, service: Service) -> web.StreamResponse:
    """Answer a responses request."""
    body = await read_body(request)
    asked = read_response(body, reasons=service.config.reasoning_share > 0)
    with service.submit(asked) as job:
        response_id = f"resp_{secrets.token_hex(8)}"
        if asked.stream:
            return await _stream(request, body, job, response_id)
        await job.finish()
        output = [_Item(kind, place).final(job.choices[0]) for place, kind in enumerate(_kinds(job.choices[0]))]
        return await json_answer(request, _object(body, job, response_id, output, finished=True))


def _kinds(choice: Choice) -> list[Kind]:
    """Return the kinds of output items of an answer, in order; an answer without any text is one empty message."""
    present = {part.kind for part in choice.answer.segments}
    return [kind for kind in _ORDER if kind in present] or ["content"]


def _object(body: Body, job: Job, response_id: str, output: list[dict[str, Any]], *, finished: bool) -> dict[str, Any]:
    cut = finished and job.choices[0].answer.finish_reason == "length"
    return {
        "id": response_id,
        "created_at": job.created,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata"),
        "model": job.model,
        "object": "response",
        "output": output,
        "parallel_tool_calls": fields.flag(body, "parallel_tool_calls", True),
        "temperature": body.get("temperature", 1.0),
        "tool_choice": body.get("tool_choice") or ("auto" if body.get("tools") else "none"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "background": False,
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "previous_response_id": None,
        "prompt": None,
        "reasoning": body.get("reasoning"),
        "service_tier": "auto",
        "status": ("incomplete" if cut else "completed") if finished else "in_progress",
        "text": body.get("text"),
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": _usage(job) if finished else None,
        "user": body.get("user"),
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }


def _usage(job: Job) -> dict[str, Any]:
    created = job.usage()["prompt_tokens_details"]["created_cache_tokens"] or 0
    return {
        "input_tokens": job.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": job.cached_tokens,
            "cache_write_tokens": created,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        },
        "output_tokens": job.output_tokens,
        "output_tokens_details": {
            "reasoning_tokens": job.reasoning_tokens,
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        },
        "total_tokens": job.prompt_tokens + job.output_tokens,
    }


class _Item:
    """One output item: a message, a reasoning item or a function call."""

    def __init__(self, kind: Kind, place: int) -> None:
        self.kind = kind
        self.place = place
        self.id = f"{_PREFIX[kind]}_{secrets.token_hex(8)}"
        self._call_id = f"call_{secrets.token_hex(8)}"

    def part(self, text: str) -> dict[str, Any]:
        """Return the content part holding `text`."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}

    def shell(self, choice: Choice, text: str, status: str) -> dict[str, Any]:
        """Return the item with `text` (or no content yet) and a status."""
        parts = [self.part(text)] if text or status == "completed" else []
        match self.kind:
            case "content":
                return {
                    "id": self.id,
                    "content": parts,
                    "role": "assistant",
                    "status": status,
                    "type": "message",
                    "phase": None,
                }
            case "reasoning":
                return {
                    "id": self.id,
                    "summary": [],
                    "type": "reasoning",
                    "content": parts,
                    "encrypted_content": None,
                    "status": status,
                }
            case _:
                name = choice.answer.tool.name if choice.answer.tool else ""
                return {
                    "arguments": text,
                    "call_id": self._call_id,
                    "name": name,
                    "type": "function_call",
                    "id": self.id,
                    "status": status,
                }

    def final(self, choice: Choice) -> dict[str, Any]:
        """Return the finished item."""
        return self.shell(choice, choice.answer.text(self.kind), "completed")


class _Events:
    """Numbers events and keeps the item that is open."""

    def __init__(self, stream: EventStream, choice: Choice) -> None:
        self._stream = stream
        self._choice = choice
        self._number = 0
        self._item: _Item | None = None
        self.output: list[dict[str, Any]] = []

    async def send(self, event: str, /, **payload: Any) -> None:
        await self._stream.named(event, {"type": event, "sequence_number": self._number, **payload})
        self._number += 1

    async def delta(self, kind: Kind, text: str) -> None:
        item = self._item
        if item is None or item.kind != kind:
            await self.close()
            item = self._item = _Item(kind, len(self.output))
            shell = item.shell(self._choice, "", "in_progress")
            await self.send("response.output_item.added", output_index=item.place, item=shell)
            if kind != "tool":
                await self.send("response.content_part.added", **self._at(item), content_index=0, part=item.part(""))
        match kind:
            case "content":
                await self.send(
                    "response.output_text.delta", **self._at(item), content_index=0, delta=text, logprobs=[]
                )
            case "reasoning":
                await self.send("response.reasoning_text.delta", **self._at(item), content_index=0, delta=text)
            case _:
                await self.send("response.function_call_arguments.delta", **self._at(item), delta=text)

    async def close(self) -> None:
        item = self._item
        if item is None:
            return
        self._item = None
        text = self._choice.answer.text(item.kind)
        done = item.final(self._choice)
        match item.kind:
            case "content":
                await self.send("response.output_text.done", **self._at(item), content_index=0, text=text, logprobs=[])
            case "reasoning":
                await self.send("response.reasoning_text.done", **self._at(item), content_index=0, text=text)
            case _:
                await self.send(
                    "response.function_call_arguments.done", **self._at(item), name=done["name"], arguments=text
                )
        if item.kind != "tool":
            await self.send("response.content_part.done", **self._at(item), content_index=0, part=item.part(text))
        await self.send("response.output_item.done", output_index=item.place, item=done)
        self.output.append(done)

    @staticmethod
    def _at(item: _Item) -> dict[str, Any]:
        return {"output_index": item.place, "item_id": item.id}


async def _stream(request: web.Request, body: Body, job: Job, response_id: str) -> web.StreamResponse:
    async with EventStream(request) as stream:
        events = _Events(stream, job.choices[0])
        opening = _object(body, job, response_id, [], finished=False)
        await events.send("response.created", response=opening)
        await events.send("response.in_progress", response=opening)
        async for choice, begin, end, finished in job.progress():
            for kind in _ORDER:
                if text := choice.answer.text(kind, begin, end):
                    await events.delta(kind, text)
            if finished:
                await events.close()
        await events.send("response.completed", response=_object(body, job, response_id, events.output, finished=True))
    return stream.response
