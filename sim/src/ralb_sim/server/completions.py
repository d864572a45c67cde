"""`/v1/completions`: prompts as text or token ids, JSON and streams."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from ralb_sim import tokens
from ralb_sim.server import fields, generation
from ralb_sim.server.errors import invalid_field, refused_parameter
from ralb_sim.server.fields import Body
from ralb_sim.server.generation import Generation
from ralb_sim.server.logprobs import completion_logprobs
from ralb_sim.server.reply import json_answer, read_body, with_load
from ralb_sim.server.service import Choice, Job, Service, new_id
from ralb_sim.server.stream import EventStream

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 256


async def completions(request: web.Request, service: Service) -> web.StreamResponse:
    """Answer a text completion."""
    body = await read_body(request)
    asked = read_completion(body)
    leg = await service.handoffs.arrive(request, body, asked.prompts)
    with service.submit(asked, leg.received) as job:
        if asked.stream:
            return await _stream(request, service, asked, job)
        await job.finish()
        kept = service.handoffs.keep(request, asked.prompts[0]) if leg.keep else None
        return await json_answer(request, _whole(service, asked, job, kept), with_load(request, service))


def read_completion(body: Body) -> Generation:
    """Read a text completion request.

    Raises:
        ApiError: 400 with vLLM's wording for whatever is wrong first.
    """
    prompts = read_prompts(fields.required(body, "prompt"), "prompt")
    stream, include, continuous = generation.stream_options(body)
    generation.check_sampling(body)
    return Generation(
        model=fields.text(body, "model"),
        prompts=prompts,
        max_tokens=fields.whole(body, "max_tokens", DEFAULT_MAX_TOKENS, least=1),
        min_tokens=fields.whole(body, "min_tokens", least=0) or 0,
        n=fields.whole(body, "n", least=1, most=generation.MAX_CHOICES) or 1,
        stream=stream,
        include_usage=include,
        continuous_usage=continuous,
        stop=fields.strings(body, "stop"),
        ignore_eos=fields.flag(body, "ignore_eos"),
        top_logprobs=fields.whole(body, "logprobs", least=0, most=20),
        json_schema=generation.schema_of(fields.mapping(body, "response_format"), "response_format"),
        # A plain completion has no chat template and so no reasoning mark to open.
        thinking=False,
        salt=fields.whole(body, "seed", 0, least=-(1 << 63), most=1 << 63) or 0,
    )


def read_prompts(value: Any, where: str) -> tuple[bytes, ...]:
    """Read a text, a list of texts, a list of token ids or a list of such lists into token sequences.

    Raises:
        ApiError: 400 for anything else, an empty list, or more than `MAX_PROMPTS`.
    """
    if isinstance(value, str):
        return (tokens.BOS + tokens.encode(value),)
    listed = fields.as_list(value, where)
    if not listed:
        raise refused_parameter(where, f"{where} must not be empty.", 0)
    if isinstance(listed[0], int):
        return (_from_ids(listed, where),)
    if len(listed) > MAX_PROMPTS:
        raise refused_parameter(
            where, f"{where} may hold at most {MAX_PROMPTS} entries, got {len(listed)}.", len(listed)
        )
    return tuple(_one(entry, fields.at(where, index)) for index, entry in enumerate(listed))


def _one(entry: Any, where: str) -> bytes:
    if isinstance(entry, str):
        return tokens.BOS + tokens.encode(entry)
    if isinstance(entry, list):
        return _from_ids(entry, where)
    raise invalid_field("string_type", where, "Input should be a valid string", entry)


def _from_ids(listed: Sequence[Any], where: str) -> bytes:
    if not listed:
        raise refused_parameter(where, f"{where} must not be empty.", 0)
    for index, one in enumerate(listed):
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < 1 << 32:
            raise invalid_field("int_type", fields.at(where, index), "Input should be a valid integer", one)
    return b"".join(one.to_bytes(tokens.TOKEN_BYTES, "little") for one in listed)


def _logprobs(choice: Choice, begin: int, end: int, asked: Generation) -> dict[str, Any] | None:
    return None if asked.top_logprobs is None else completion_logprobs(choice.answer, begin, end, asked.top_logprobs)


def _whole(service: Service, asked: Generation, job: Job, kept: dict[str, Any] | None) -> dict[str, Any]:
    choices = [
        {
            "index": choice.index,
            "text": choice.answer.text("content"),
            "logprobs": _logprobs(choice, 0, choice.answer.length, asked),
            "finish_reason": choice.answer.finish_reason,
            "stop_reason": choice.answer.stop_reason,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }
        for choice in job.choices
    ]
    return {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": job.created,
        "model": job.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": service.fingerprint,
        "usage": job.usage(),
        "kv_transfer_params": kept,
        "ec_transfer_params": None,
        "metrics": None,
    }


async def _stream(request: web.Request, service: Service, asked: Generation, job: Job) -> web.StreamResponse:
    head = {"id": new_id("cmpl"), "object": "text_completion", "created": job.created, "model": job.model}
    left = len(job.choices)
    async with EventStream(request) as events:
        async for choice, begin, end, finished in job.progress():
            left -= finished
            piece = {
                "index": choice.index,
                "text": choice.answer.text("content", begin, end),
                "logprobs": _logprobs(choice, begin, end, asked),
                "finish_reason": choice.answer.finish_reason if finished else None,
                "stop_reason": choice.answer.stop_reason if finished else None,
                "prompt_token_ids": None,
                "token_ids": None,
            }
            chunk: dict[str, Any] = {**head, "choices": [piece]}
            if asked.continuous_usage:
                chunk["usage"] = job.usage(sparse=True)
            if not left and not asked.include_usage:
                chunk["system_fingerprint"] = service.fingerprint
            await events.data(chunk)
        if asked.include_usage:
            usage = job.usage(sparse=True)
            await events.data({**head, "choices": [], "usage": usage, "system_fingerprint": service.fingerprint})
        await events.done()
    return events.response
