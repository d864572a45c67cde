"""The body that goes upstream: what the client sent, with the few fields the plan decides.

It is written anew from what was parsed, so the server reads exactly what was judged: no duplicate key, no odd encoding can mean
one thing here and another there.
"""

from typing import Any

import orjson

from ralb_extproc.prefill.body import TRANSFER
from ralb_extproc.types import Api, Plan, Request

# where each API family keeps the limit on answer tokens, current name first
_LIMITS: dict[Api, tuple[str, ...]] = {
    Api.CHAT: ("max_completion_tokens", "max_tokens"),
    Api.COMPLETIONS: ("max_tokens",),
    Api.RESPONSES: ("max_output_tokens",),
    Api.MESSAGES: ("max_tokens",),
    Api.EMBEDDINGS: (),
}


def upstream_body(request: Request, plan: Plan, model: str) -> bytes:
    """``upstream_fields`` as JSON."""
    return orjson.dumps(upstream_fields(request, plan, model))


def upstream_fields(request: Request, plan: Plan, model: str) -> dict[str, Any]:
    """The request's body for the first attempt.

    Args:
        request: as parsed; not changed.
        plan: output cap, reasoning effort and usage injection to apply.
        model: the name the first attempt's servers know.

    Returns:
        JSON object.
    """
    body: dict[str, Any] = {**request.body, "model": model}
    # Where a server fetches KV blocks from is never a client's to say: it is a host and port the server connects to.
    body.pop(TRANSFER, None)
    if plan.output_cap:
        _cap(body, _LIMITS[request.api], plan.output_cap)
    if plan.reasoning_effort and not request.reasoning_effort:
        _set_effort(body, request.api, plan.reasoning_effort)
    if plan.inject_usage and request.stream and request.api in (Api.CHAT, Api.COMPLETIONS):
        options = body.get("stream_options")
        body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return body


def _cap(body: dict[str, Any], names: tuple[str, ...], cap: int) -> None:
    said = [name for name in names if body.get(name) is not None]
    for name in said:
        body[name] = min(body[name], cap)
    if names and not said:
        body[names[0]] = cap


def _set_effort(body: dict[str, Any], api: Api, effort: str) -> None:
    if api is Api.CHAT:
        body["reasoning_effort"] = effort
    elif api is Api.RESPONSES:
        reasoning = body.get("reasoning")
        body["reasoning"] = {**(reasoning if isinstance(reasoning, dict) else {}), "effort": effort}
