"""The application: routes, the edge every request passes, start and stop."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from ralb_sim.config import ServerConfig
from ralb_sim.server import admin, misc
from ralb_sim.server.anthropic import count_tokens, messages
from ralb_sim.server.chat import chat_completions
from ralb_sim.server.completions import completions
from ralb_sim.server.embeddings import embeddings
from ralb_sim.server.errors import ApiError
from ralb_sim.server.faults import FaultRule, Faults
from ralb_sim.server.reply import plain_json
from ralb_sim.server.responses import responses
from ralb_sim.server.service import Service
from ralb_sim.server.stream import STRIKE, strike_now

MAX_BODY = 64 << 20
"""Largest request body, bytes."""

_UNCOUNTED = ("/metrics", "/prometheus/metrics", "/health", "/version", "/ping")

Handler = Callable[[web.Request, Service], Awaitable[web.StreamResponse]]
_INFERENCE: dict[str, Handler] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/v1/responses": responses,
    "/v1/messages": messages,
    "/v1/messages/count_tokens": count_tokens,
    "/v1/embeddings": embeddings,
}


class _Edge:
    """Errors to JSON, faults, and counting, around every handler."""

    def __init__(self, service: Service, faults: Faults) -> None:
        self._service = service
        self._faults = faults

    @web.middleware
    async def around(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        started = time.monotonic()
        anthropic = request.path.startswith("/v1/messages")
        try:
            if request.path in _INFERENCE and request.method == "POST":
                await self._strike(request)
            response = await handler(request)
        except ApiError as error:
            response = plain_json(error.body(anthropic=anthropic), error.status, error.headers)
        except ConnectionError as gone:
            # The client left while its answer was written: nobody is there to be told, and it is no error of ours.
            raise asyncio.CancelledError from gone
        except web.HTTPRequestEntityTooLarge:
            large = ApiError(413, f"The request body is over {MAX_BODY} bytes.", "RequestEntityTooLarge")
            response = plain_json(large.body(anthropic=anthropic), 413)
        except web.HTTPException as refused:
            allowed = {"Allow": refused.headers["Allow"]} if "Allow" in refused.headers else {}
            response = plain_json({"detail": refused.reason}, refused.status, allowed)
        self._count(request, response, started)
        return response

    async def _strike(self, request: web.Request) -> None:
        strike = self._faults.strike(request.path)
        request[STRIKE] = strike
        await strike_now(request, strike, -1)
        if strike.status is not None:
            headers = {} if strike.retry_after is None else {"Retry-After": str(strike.retry_after)}
            kind = "RateLimitError" if strike.status == 429 else "InternalServerError"
            raise ApiError(strike.status, f"Injected fault: status {strike.status}.", kind, headers=headers)

    def _count(self, request: web.Request, response: web.StreamResponse, started: float) -> None:
        resource = request.match_info.route.resource
        if resource is None or resource.canonical in _UNCOUNTED:
            return
        sent = response.content_length or 0
        self._service.metrics.http.observe(
            resource.canonical,
            request.method,
            response.status,
            time.monotonic() - started,
            request.content_length or 0,
            sent,
        )


def build_app(config: ServerConfig, rules: list[FaultRule] | None = None) -> web.Application:
    """Build the server of one simulated pod.

    Args:
        config: Its configuration.
        rules: Faults in force from the start.
    """
    service = Service(config)
    faults = Faults(random.Random(config.seed), rules or [])
    service.runner.slowdown = faults.slowdown
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_Edge(service, faults).around])

    def bound(handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def call(request: web.Request) -> web.StreamResponse:
            return await handler(request, service)

        return call

    for path, handler in _INFERENCE.items():
        app.router.add_post(path, bound(handler))
    misc.add_routes(app, service, faults)
    admin.add_routes(app, service, faults)
    app.router.add_post("/admin/kv", service.handoffs.give)

    async def engine(_app: web.Application) -> AsyncIterator[None]:
        async with publishing(service):
            service.runner.start()
            yield
            await service.handoffs.close()
        await service.runner.stop()

    app.cleanup_ctx.append(engine)
    app[SERVICE] = service
    return app


@contextlib.asynccontextmanager
async def publishing(service: Service) -> AsyncIterator[None]:
    """Publish what the cache does, if the configuration says so."""
    config, log, runner = service.config.kv_events, service.kv_log, service.runner
    if config is None or log is None:
        yield
        return
    from ralb_sim.server.kv_events import Publisher

    publisher = Publisher(config, service.config.engine.block_size)
    publisher.start()
    runner.stepped = lambda: publisher.publish(log.take())
    try:
        yield
    finally:
        runner.stepped = None
        await publisher.stop()


SERVICE = web.AppKey("service", Service)
"""The serving core of an application, for whoever embeds it."""


async def drain(app: web.Application, seconds: float) -> None:
    """Wait until nothing is running, at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(app[SERVICE].runner.idle.wait(), seconds)
