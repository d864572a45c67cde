"""Bodies in and JSON answers out, as uvicorn's headers have them."""

from typing import Any

import orjson
from aiohttp import web

from ralb_sim.server.fields import Body, parse_object
from ralb_sim.server.metrics import orca_header
from ralb_sim.server.service import Service
from ralb_sim.server.stream import STRIKE, strike_now

_HEADERS = {"Content-Type": "application/json", "Server": "uvicorn", "Vary": "Origin"}
LOAD_FORMAT = "endpoint-load-metrics-format"
LOAD = "endpoint-load-metrics"


async def read_body(request: web.Request) -> Body:
    """Read and parse the request's JSON object.

    Raises:
        ApiError: 400 when it is not one.
        web.HTTPRequestEntityTooLarge: It is over the server's limit.
    """
    return parse_object(await request.read())


def with_load(request: web.Request, service: Service) -> dict[str, str]:
    """Return the ORCA load header when the client asked for it in a known form, as of the end of the answer."""
    wanted = request.headers.get(LOAD_FORMAT)
    value = orca_header(service.metrics.stats, wanted) if wanted else None
    return {LOAD: value} if value else {}


def plain_json(payload: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response."""
    return web.Response(body=orjson.dumps(payload), status=status, headers=_HEADERS | (headers or {}))


async def json_answer(request: web.Request, payload: Any, headers: dict[str, str] | None = None) -> web.Response:
    """Return the JSON answer of an inference request, unless a fault strikes a stream that is none."""
    strike = request.get(STRIKE)
    if strike is not None:
        await strike_now(request, strike, 1 << 62)
    return plain_json(payload, headers=headers)
