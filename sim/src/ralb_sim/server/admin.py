"""`/admin/faults`: see, replace and clear faults while the pod runs. Not part of vLLM's API."""

import orjson
from aiohttp import web

from ralb_sim.server.errors import ApiError
from ralb_sim.server.faults import Faults, parse_rules
from ralb_sim.server.reply import plain_json
from ralb_sim.server.service import Service


class _Admin:
    def __init__(self, service: Service, faults: Faults) -> None:
        self._service = service
        self._faults = faults

    async def show(self, _request: web.Request) -> web.Response:
        return plain_json({"rules": [rule.as_json() for rule in self._faults.rules]})

    async def replace(self, request: web.Request) -> web.Response:
        try:
            rules = parse_rules(orjson.loads(await request.read()))
        except ValueError as error:
            raise ApiError(400, f"faults: {error}", "BadRequestError", "faults") from None
        self._faults.replace(rules)
        self._service.runner.slowdown = self._faults.slowdown
        return await self.show(request)

    async def clear(self, request: web.Request) -> web.Response:
        self._faults.replace([])
        self._service.runner.slowdown = 1.0
        return await self.show(request)


def add_routes(app: web.Application, service: Service, faults: Faults) -> None:
    """Add the admin calls to an application."""
    handlers = _Admin(service, faults)
    app.router.add_get("/admin/faults", handlers.show)
    app.router.add_post("/admin/faults", handlers.replace)
    app.router.add_delete("/admin/faults", handlers.clear)
