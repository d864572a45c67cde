"""Prompts computed on another pod, as vLLM's NIXL connector and a routing sidecar have it.

``kv_transfer_params`` with ``do_remote_decode`` asks this pod to keep a prompt's KV blocks for another; its answer names them.
With ``do_remote_prefill`` they name blocks of another pod: they are fetched from its ``/admin/kv`` (in place of NIXL's side
channel and RDMA), which takes the time a transfer would, and the prompt counts as computed. Blocks are given once and kept for a
while; what cannot be had is computed here, as with ``kv_load_failure_policy: recompute``.

As a sidecar (``--sidecar yes``) the pod asks the pod in ``x-prefiller-host-port`` first, and fails the request if that fails.
"""

import asyncio
import itertools
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson
from aiohttp import web

from ralb_sim import tokens
from ralb_sim.server import fields
from ralb_sim.server.errors import ApiError
from ralb_sim.server.fields import Body

PREFILLER: Final = "x-prefiller-host-port"
KEEP_S: Final = 480.0
"""Simulated seconds blocks are kept for a pod that does not fetch them: vLLM's own default."""

_MAX_KEPT = 10_000
_MAX_ANSWER = 4 << 20
# An 8B model's KV cache is 128 KiB a token; a 100 Gbit/s link takes 10 microseconds for it.
_TRANSFER_BASE_S = 0.004
_TRANSFER_TOKEN_S = 1e-5
_FETCH_S = 2.0
_LEG_S = 60.0
_NOTHING: dict[str, None] = dict.fromkeys(("remote_engine_id", "remote_block_ids", "remote_host", "remote_port"))


@dataclass(frozen=True, slots=True)
class Leg:
    """What a request's transfer parameters come to.

    Attributes:
        keep: Keep the prompt's blocks and name them in the answer.
        received: Prompt tokens whose blocks came from another pod.
    """

    keep: bool = False
    received: int = 0


@dataclass(frozen=True, slots=True)
class _Kept:
    prompt: int  # fingerprint
    tokens: int
    until: float


class Handoffs:
    """Blocks kept for others, and those fetched from others.

    Args:
        block_size: Tokens per block.
        time_scale: Real seconds per simulated second.
        sidecar: Ask the prefill pod that a request names by header.
    """

    def __init__(self, block_size: int, time_scale: float, *, sidecar: bool = False) -> None:
        self._block_size = block_size
        self._scale = time_scale
        self._sidecar = sidecar
        self._engine = secrets.token_hex(8)
        self._next = itertools.count(1)
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End connections to other pods."""
        if self._session is not None:
            await self._session.close()

    # ---- what other pods get ----

    def keep(self, request: web.Request, prompt: bytes) -> dict[str, Any]:
        """Keep a prompt's blocks; return the `kv_transfer_params` that name them."""
        count = tokens.count(prompt)
        blocks = max(1, count // self._block_size)
        first = next(self._next)
        for _ in range(blocks - 1):
            next(self._next)
        if len(self._kept) >= _MAX_KEPT:
            self._kept.popitem(last=False)
        self._kept[first] = _Kept(tokens.fingerprint(prompt), count, time.monotonic() + KEEP_S * self._scale)
        name = request.transport.get_extra_info("sockname") if request.transport is not None else ("127.0.0.1", 0)
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": list(range(first, first + blocks)),
            "remote_engine_id": self._engine,
            "remote_host": name[0],
            "remote_port": name[1],
            "tp_size": 1,
        }

    async def give(self, request: web.Request) -> web.Response:
        """Answer `POST /admin/kv`: hand blocks to another pod, once."""
        asked = fields.parse_object(await request.read())
        kept = self._kept.pop(fields.whole(asked, "block", 0, least=0) or 0, None)
        known = kept is not None and time.monotonic() < kept.until and asked.get("engine") == self._engine
        if kept is None or not known or asked.get("prompt") != str(kept.prompt):
            raise ApiError(404, "No such blocks.", "NotFoundError", "block")
        return web.json_response({"tokens": kept.tokens})

    # ---- what this pod gets ----

    async def arrive(self, request: web.Request, body: Body, prompts: tuple[bytes, ...]) -> Leg:
        """Do what a request's transfer parameters, or its header, say; wait for its blocks.

        Raises:
            ApiError: 400 for parameters of a wrong type, 502 when the sidecar's prefill pod fails.
        """
        params: Body | None = fields.mapping(body, "kv_transfer_params")
        where = request.headers.get(PREFILLER)
        if not params and where and self._sidecar:
            params = await self._ask(where, request, body)
        if not params or len(prompts) != 1:
            return Leg()
        if params.get("do_remote_decode"):
            return Leg(keep=True)
        return Leg(received=await self._fetch(params, prompts[0]) if params.get("do_remote_prefill") else 0)

    async def _fetch(self, params: Body, prompt: bytes) -> int:
        blocks, host, port = params.get("remote_block_ids"), params.get("remote_host"), params.get("remote_port")
        if not isinstance(blocks, list) or not blocks or not isinstance(host, str) or not isinstance(port, int):
            return 0
        wanted = {
            "engine": params.get("remote_engine_id"),
            "block": blocks[0],
            "prompt": str(tokens.fingerprint(prompt)),
        }
        try:
            status, answer = await self._post(f"http://{host}:{port}/admin/kv", wanted, _FETCH_S, {})
            count = int(orjson.loads(answer)["tokens"]) if status == 200 else 0
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError):
            return 0
        if count:
            await asyncio.sleep((_TRANSFER_BASE_S + _TRANSFER_TOKEN_S * count) * self._scale)
        return count

    async def _ask(self, where: str, request: web.Request, body: Body) -> Body:
        leg = {name: value for name, value in body.items() if name not in ("stream_options", "min_tokens")}
        leg |= {"stream": False, "max_tokens": 1}
        if "max_completion_tokens" in leg:
            leg["max_completion_tokens"] = 1
        leg["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False} | _NOTHING
        headers = {name: request.headers[name] for name in ("x-request-id",) if name in request.headers}
        try:
            status, answer = await self._post(f"http://{where}{request.path}", leg, _LEG_S, headers)
            params = orjson.loads(answer).get("kv_transfer_params") if status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, AttributeError) as error:
            raise ApiError(502, f"The prefill pod {where} failed: {error!r}", "BadGateway") from None
        if not isinstance(params, dict):
            raise ApiError(502, f"The prefill pod {where} answered {status}.", "BadGateway")
        return params

    async def _post(self, url: str, body: Any, limit: float, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        timeout = aiohttp.ClientTimeout(total=limit)
        headers = {"Content-Type": "application/json"} | headers
        async with self._session.post(url, data=orjson.dumps(body), headers=headers, timeout=timeout) as answer:
            data = bytearray()
            async for part in answer.content.iter_any():
                data += part
                if len(data) > _MAX_ANSWER:
                    raise ValueError("the answer is too long")
            return answer.status, bytes(data)
