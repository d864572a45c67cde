"""Bodies of the two legs, as vLLM's NIXL connector expects them, and what a prefill pod answers. Pure.

The prefill leg is the same request with one token to generate, not streamed, and ``kv_transfer_params`` that ask the pod to keep
the prompt's KV blocks for another; its answer carries the ``kv_transfer_params`` that name them, which the decode pod is given
as they are: their fields differ between versions, so only what makes them usable is checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ralb_extproc.types import Api, Request

TRANSFER: Final = "kv_transfer_params"
# A million tokens are 62,500 blocks of 16, each a number of up to 8 digits.
MAX_ANSWER: Final = 1 << 20
_MAX_TOKENS: Final = 100_000_000
_ASK: Final = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
# Fields of a request that only shape the answer, which nobody reads here; some make the leg fail or its answer large.
_DROPPED: Final = (
    *("stream_options", "min_tokens", "min_completion_tokens", "logprobs", "top_logprobs", "ignore_eos", "stop"),
    *("stop_token_ids", "best_of"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a prefill leg.

    Attributes:
        params: ``kv_transfer_params`` for the decode pod.
        prompt_tokens / cached_tokens: of the prompt, as the pod counted; None = not said.
    """

    params: Mapping[str, Any]
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


def splittable(request: Request) -> bool:
    """Whether a request can be served in two legs: one prompt, one answer, and nothing asked about the prompt itself.

    Blocks are handed over once, so several answers, or several prompts, cannot share them.
    """
    body = request.body
    if request.api not in (Api.CHAT, Api.COMPLETIONS) or request.choices > 1 or request.longest_prompt:
        return False
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and type(prompt[0]) is not int:
        return False
    return not body.get("echo") and body.get("prompt_logprobs") is None and body.get("best_of") in (None, 1)


def leg_body(fields: Mapping[str, Any]) -> bytes:
    """The prefill leg's body from the body that would go upstream."""
    body = {name: value for name, value in fields.items() if name not in _DROPPED}
    body |= {"stream": False, "max_tokens": 1, "n": 1, TRANSFER: _ASK}
    if "max_completion_tokens" in body:
        body["max_completion_tokens"] = 1
    return orjson.dumps(body)


def decode_body(fields: Mapping[str, Any], params: Mapping[str, Any]) -> bytes:
    """The decode pod's body: as it would go upstream, with the blocks to fetch."""
    return orjson.dumps({**fields, TRANSFER: params})


def read_answer(data: bytes) -> Answer:
    """Read a prefill pod's answer.

    Raises:
        ValueError: it names no blocks to fetch, or in a way that cannot be passed on.
    """
    answer = orjson.loads(data)
    params = answer.get(TRANSFER) if isinstance(answer, dict) else None
    if not isinstance(params, dict):
        raise ValueError(f"no {TRANSFER}")
    host, port = params.get("remote_host"), params.get("remote_port")
    if params.get("do_remote_prefill") is not True or not params.get("remote_block_ids"):
        raise ValueError("no blocks to fetch")
    if not params.get("remote_engine_id") or not isinstance(host, str) or not host or type(port) is not int:
        raise ValueError("no engine to fetch blocks from")
    try:
        orjson.dumps(params)
    except orjson.JSONEncodeError as error:  # what can be read can be nested too deep to be written
        raise ValueError(str(error)) from None
    prompt, cached = _usage(answer.get("usage"))
    return Answer(params, prompt, cached)


def _usage(usage: Any) -> tuple[int | None, int | None]:
    if not isinstance(usage, dict):
        return None, None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return _count(usage.get("prompt_tokens")), _count(cached)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None
