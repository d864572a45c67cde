"""The small endpoints: models, health, version, tokenize, metrics."""

import asyncio
import secrets

from aiohttp import web

from ralb_sim import __version__, tokens
from ralb_sim.config import MetricsDialect
from ralb_sim.server import fields
from ralb_sim.server.chat_parse import read_chat
from ralb_sim.server.errors import ApiError
from ralb_sim.server.faults import Faults
from ralb_sim.server.reply import plain_json, read_body
from ralb_sim.server.service import Service

_METRICS = {"Content-Type": "text/plain; version=1.0.0; charset=utf-8", "Server": "uvicorn"}


class _Misc:
    def __init__(self, service: Service, faults: Faults) -> None:
        self._service = service
        self._faults = faults
        self._stuck: bytes | None = None

    async def models(self, _request: web.Request) -> web.Response:
        return plain_json({"object": "list", "data": [self._model(name) for name in self._service.config.names]})

    def _model(self, name: str) -> dict[str, object]:
        created = self._service.created
        permission = {
            "id": f"modelperm-{secrets.token_hex(8)}",
            "object": "model_permission",
            "created": created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": self._service.config.profile.name,
            "parent": None,
            "max_model_len": self._service.config.max_model_len,
            "permission": [permission],
        }

    async def version(self, _request: web.Request) -> web.Response:
        return plain_json({"version": __version__})

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(headers={"Server": "uvicorn", "Vary": "Origin"})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        self._service.served(fields.text(body, "model"))
        if "messages" in body:
            sequence = read_chat(body, reasons=self._service.config.reasoning_share > 0).prompts[0]
        else:
            fields.required(body, "prompt")
            sequence = tokens.BOS + tokens.encode(fields.text(body, "prompt"))
        shown = tokens.strings(sequence) if fields.flag(body, "return_token_strs") else None
        return plain_json(
            {
                "count": tokens.count(sequence),
                "max_model_len": self._service.config.max_model_len,
                "tokens": tokens.ids(sequence),
                "token_strs": shown,
            }
        )

    async def reset_prefix_cache(self, _request: web.Request) -> web.Response:
        self._service.runner.reset_prefix_cache()
        return web.Response(headers={"Server": "uvicorn"})

    async def iterations(self, _request: web.Request) -> web.Response:
        return plain_json([])

    async def metrics(self, _request: web.Request) -> web.Response:
        match self._faults.metrics_mode:
            case "error":
                raise ApiError(500, "Injected fault: metrics fail.", "InternalServerError")
            case "hang":
                await asyncio.Event().wait()
            case "stuck":
                self._stuck = self._stuck or self._service.metrics.page()
            case _:
                self._stuck = None
        return web.Response(body=self._stuck or self._service.metrics.page(), headers=_METRICS)


def add_routes(app: web.Application, service: Service, faults: Faults) -> None:
    """Add the small endpoints to an application."""
    misc = _Misc(service, faults)
    app.router.add_get("/v1/models", misc.models)
    app.router.add_get("/version", misc.version)
    app.router.add_get("/health", misc.health)
    app.router.add_get("/ping", misc.health)
    app.router.add_post("/tokenize", misc.tokenize)
    app.router.add_post("/reset_prefix_cache", misc.reset_prefix_cache)
    if service.config.metrics is MetricsDialect.TENSORRT_LLM:
        # As trtllm-serve: statistics in JSON at one path, the exposition at the other.
        app.router.add_get("/metrics", misc.iterations)
        app.router.add_get("/prometheus/metrics", misc.metrics)
    else:
        app.router.add_get("/metrics", misc.metrics)
