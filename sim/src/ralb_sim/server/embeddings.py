"""`/v1/embeddings`: deterministic unit vectors; the work in the engine is the prefill of every input."""

import base64
import math
import random
import struct
from typing import Any

from aiohttp import web

from ralb_sim import tokens
from ralb_sim.server import fields
from ralb_sim.server.completions import read_prompts
from ralb_sim.server.errors import invalid_field
from ralb_sim.server.reply import json_answer, read_body
from ralb_sim.server.service import Service, new_id


async def embeddings(request: web.Request, service: Service) -> web.StreamResponse:
    """Answer an embeddings request."""
    body = await read_body(request)
    prompts = read_prompts(fields.required(body, "input"), "input")
    encoding = fields.text(body, "encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise invalid_field("literal_error", "encoding_format", "Input should be 'float' or 'base64'", encoding)
    size = fields.whole(body, "dimensions", least=1, most=4096) or service.config.embedding_size
    with service.pool(fields.text(body, "model"), prompts) as job:
        await job.finish()
    data = [
        {"index": index, "object": "embedding", "embedding": _encoded(vector(prompt, size), encoding)}
        for index, prompt in enumerate(prompts)
    ]
    usage = {
        "prompt_tokens": job.prompt_tokens,
        "total_tokens": job.prompt_tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }
    payload = {
        "id": new_id("embd"),
        "object": "list",
        "created": job.created,
        "model": job.model,
        "data": data,
        "usage": usage,
    }
    return await json_answer(request, payload)


def vector(sequence: bytes, size: int) -> list[float]:
    """Return a unit vector of `size` numbers, the same for the same token sequence."""
    rng = random.Random(tokens.fingerprint(sequence))
    raw = [rng.gauss(0, 1) for _ in range(size)]
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return [value / norm for value in raw]


def _encoded(values: list[float], encoding: str) -> Any:
    return values if encoding == "float" else base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
