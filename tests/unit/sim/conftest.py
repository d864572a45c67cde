"""Fixtures: simulated pods over real HTTP, in this process, on free loopback ports."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from ralb_sim.config import ServerConfig
from ralb_sim.engine import EngineConfig
from ralb_sim.profiles import get_profile
from ralb_sim.server.app import SERVICE, build_app
from ralb_sim.server.faults import parse_rules
from ralb_sim.server.service import Service


@dataclass(slots=True)
class Pod:
    """A running pod and a client session bound to it."""

    session: aiohttp.ClientSession
    service: Service
    port: int

    async def post(
        self, path: str, body: Any, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.session.post(path, data=data, headers=headers) as response:
            return response.status, orjson.loads(await response.read()), dict(response.headers)

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.session.get(path) as response:
            return response.status, await response.read()

    async def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the JSON events of a whole stream; `[DONE]` becomes {"done": True}."""
        async with self.session.post(path, json={**body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            text = (await response.read()).decode()
        return parse_events(text)

    async def metric(self, name: str, **labels: str) -> float:
        """Return the one sample whose name and labels match."""
        _status, page = await self.get("/metrics")
        found = [line for line in page.decode().splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        wanted = [line for line in found if all(f'{key}="{value}"' in line for key, value in labels.items())]
        assert len(wanted) == 1, (name, labels, found)
        return float(wanted[0].rsplit(" ", 1)[1])


def parse_events(text: str) -> list[dict[str, Any]]:
    events = []
    for block in text.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                events.append({"done": True} if line == "data: [DONE]" else orjson.loads(line[6:]))
    return events


StartPod = Callable[..., Coroutine[Any, Any, Pod]]


@pytest.fixture
async def start_pod() -> AsyncIterator[StartPod]:
    """Return a function that starts a pod; keyword arguments are `ServerConfig` fields, `engine` ones, or `faults`."""
    async with AsyncExitStack() as stack:

        async def start(profile: str = "llama-3-8b-h100", faults: Any = (), **changes: Any) -> Pod:
            known = get_profile(profile)
            engine_fields = {
                name: changes.pop(name) for name in list(changes) if name in EngineConfig.__dataclass_fields__
            }
            engine = replace(EngineConfig.of(known), **engine_fields)
            defaults: dict[str, Any] = {
                "names": ("tiny", "ralb-small"),
                "max_model_len": min(4096, engine.kv_tokens // engine.block_size * engine.block_size),
                "time_scale": 0.02,
                "output_median": 12,
            }
            config = ServerConfig(profile=known, engine=engine, **(defaults | changes))
            app = build_app(config, parse_rules(list(faults)))
            runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port: int = runner.addresses[0][1]
            session = await stack.enter_async_context(
                aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(total=30))
            )
            return Pod(session, app[SERVICE], port)

        yield start


@pytest.fixture
async def pod(start_pod: StartPod) -> Pod:
    return await start_pod()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Coroutine[Any, Any, None]]:
    """Return a coroutine function that waits for a condition, at most ten seconds."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - conditions of foreign state set no event
                await asyncio.sleep(0.002)

    return wait


@pytest.fixture
def recorded() -> Path:
    """Return the folder of recorded vLLM answers, or skip."""
    root = os.environ.get("RALB_DATA")
    folder = Path(root) if root else Path(__file__).resolve().parents[4] / "shared" / "data"
    if not (folder / "vllm").is_dir():
        pytest.skip("recorded vLLM data is not here (set RALB_DATA)")
    return folder / "vllm"
