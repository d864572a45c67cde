"""Draining a real Envoy: running streams end by themselves, keep-alive connections are closed, and nothing waits for ever."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support_envoy import Envoy, running_envoy
from support_net import free_port, wait_until

from ralb_extproc.companion import add_arguments, options_of
from ralb_extproc.drain import ACTIVE_STAT, Drain, DrainServer

pytestmark = pytest.mark.envoy

TYPE = "type.googleapis.com/"


class Upstream:
    """Streams one event at once and the second when told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.running = 0
        self.port = 0

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        await response.write(b"data: 1\n\n")
        await self.go_on.wait()
        await response.write(b"data: 2\n\n")
        await response.write_eof()
        self.running -= 1
        return response

    async def quick(self, request: web.Request) -> web.Response:
        return web.Response(text="quick")


def config(port: int, upstream: int) -> dict[str, Any]:
    manager = {
        "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        # As the operator's compiler calls it; tests/unit/trust/test_drain.py compares the two.
        "stat_prefix": ACTIVE_STAT.split(".")[1],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": TYPE + "envoy.extensions.filters.http.router.v3.Router"}}
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    up = {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}
    return {
        "static_resources": {
            "listeners": [{"name": "main", "address": address, "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": "up",
                    "load_assignment": {
                        "cluster_name": "up",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": up}}]}],
                    },
                }
            ],
        }
    }


@asynccontextmanager
async def draining(
    folder: Path, *, least: float = 0.0, most: float = 60.0
) -> AsyncIterator[tuple[Envoy, Upstream, str, DrainServer]]:
    upstream = Upstream()
    app = web.Application()
    app.router.add_get("/stream", upstream.stream)
    app.router.add_get("/quick", upstream.quick)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = free_port()
    try:
        start = config(port, runner.addresses[0][1])
        # As in the gateway pod: Envoy's own time is longer than the drain.
        async with running_envoy(start, folder, extra_args=("--drain-strategy", "immediate"), drain_time_s=60) as envoy:
            drain = Drain(envoy.admin.removeprefix("http://"), least=least, most=most, poll=0.05)
            server = DrainServer(drain, "127.0.0.1", 0)
            await server.start()
            try:
                yield envoy, upstream, f"http://127.0.0.1:{port}", server
            finally:
                upstream.go_on.set()
                await server.stop()
    finally:
        await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as opened:
        yield opened


async def ask(session: aiohttp.ClientSession, server: DrainServer, method: str = "GET") -> tuple[int, dict[str, Any]]:
    async with session.request(method, f"http://127.0.0.1:{server.port}/drain") as answer:
        return answer.status, json.loads(await answer.text())


async def test_streams_end_by_themselves_and_then_it_is_over(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with draining(tmp_path) as (envoy, upstream, url, server):
        streams = [await session.get(url + "/stream") for _ in range(3)]
        assert [await stream.content.readuntil(b"\n\n") for stream in streams] == [b"data: 1\n\n"] * 3
        async with session.get(url + "/quick") as kept:
            assert kept.headers.get("connection") != "close"
        asked = [asyncio.create_task(ask(session, server, method)) for method in ("GET", "POST", "GET")]

        async def unready() -> bool:
            async with session.get(envoy.admin + "/ready") as answer:
                return answer.status == 503

        await wait_until(unready)
        # Who still comes is served, on connections old and new, and told not to come back.
        async with aiohttp.ClientSession() as other:
            for client in (session, other):
                async with client.get(url + "/quick") as late:
                    assert (late.status, late.headers["connection"]) == (200, "close")
        assert (await envoy.stats(ACTIVE_STAT))[ACTIVE_STAT] == 3
        assert not any(task.done() for task in asked)
        upstream.go_on.set()
        for stream in streams:
            assert await stream.read() == b"data: 2\n\n"
        answers = await asyncio.gather(*asked)
        assert all(status == 200 and body == answers[0][1] for status, body in answers)
        assert answers[0][1]["result"] == "drained"
        assert answers[0][1]["active"] == 0
        assert (await envoy.stats(ACTIVE_STAT))[ACTIVE_STAT] == 0
        # Asked again, it says how it was.
        assert await ask(session, server) == answers[0]
        assert envoy.process.returncode is None


async def test_time_limit(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with draining(tmp_path, most=0.5) as (_, upstream, url, server):
        stream = await session.get(url + "/stream")
        await stream.content.readuntil(b"\n\n")
        status, body = await ask(session, server)
        assert (status, body["result"], body["active"]) == (200, "timeout", 1)
        # Nothing was cut.
        upstream.go_on.set()
        assert await stream.read() == b"data: 2\n\n"


async def test_quiet_envoy_takes_the_least_time(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with draining(tmp_path, least=0.7) as (_, _, _, server):
        status, body = await ask(session, server)
        assert (status, body["result"]) == (200, "drained")
        assert body["seconds"] >= 0.7


async def test_caller_that_leaves_does_not_end_the_drain(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with draining(tmp_path) as (envoy, upstream, url, server):
        stream = await session.get(url + "/stream")
        await stream.content.readuntil(b"\n\n")
        first = asyncio.create_task(ask(session, server))
        await drain_begun(session, envoy)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(ask(session, server))
        upstream.go_on.set()
        assert (await second)[1]["result"] == "drained"
        assert await stream.read() == b"data: 2\n\n"


async def drain_begun(session: aiohttp.ClientSession, envoy: Envoy) -> None:
    """Wait until Envoy says that it drains."""

    async def begun() -> bool:
        async with session.get(envoy.admin + "/ready") as answer:
            return "DRAINING" in await answer.text()

    await wait_until(begun)


async def test_envoy_that_ends_meanwhile(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with draining(tmp_path) as (envoy, _, url, server):
        stream = await session.get(url + "/stream")
        await stream.content.readuntil(b"\n\n")
        asked = asyncio.create_task(ask(session, server))
        await drain_begun(session, envoy)
        envoy.process.kill()
        status, body = await asked
        assert (status, body["result"], body["active"]) == (200, "gone", None)
        stream.close()


async def test_no_envoy(session: aiohttp.ClientSession) -> None:
    drain = Drain(f"127.0.0.1:{free_port()}", least=0.2, most=60, poll=0.05)
    server = DrainServer(drain, "127.0.0.1", 0)
    await server.start()
    try:
        status, body = await ask(session, server)
        assert (status, body["result"]) == (502, "unreachable")
    finally:
        await server.stop()


async def test_admin_that_does_not_understand(session: aiohttp.ClientSession) -> None:
    """Something else listens there: no crash, and the time limit holds."""
    app = web.Application()

    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text='{"stats": [{"name": "' + ACTIVE_STAT + '", "value": "many"}]}')

    app.router.add_route("*", "/{any:.*}", nonsense)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    server = DrainServer(Drain(f"{host}:{port}", least=0.0, most=0.3, poll=0.05), "127.0.0.1", 0)
    await server.start()
    try:
        status, body = await ask(session, server)
        assert (status, body["result"], body["active"]) == (200, "timeout", None)
    finally:
        await server.stop()
        await runner.cleanup()


async def test_processor_told_to_end_gives_the_drain_up(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with draining(tmp_path) as (envoy, _, url, server):
        stream = await session.get(url + "/stream")
        await stream.content.readuntil(b"\n\n")
        asked = asyncio.create_task(ask(session, server))
        await drain_begun(session, envoy)
        await server.stop()
        status, body = await asked
        assert (status, body["result"]) == (503, "stopped")
        stream.close()


async def test_processor_drains_and_serves_until_it_is_told_to_end(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """The order in a pod: the kubelet asks for the drain, ends Envoy, and then the processor."""
    async with draining(tmp_path) as (envoy, upstream, url, _):
        port, admin, socket = free_port(), free_port(), tmp_path / "p.sock"
        command = [
            *(sys.executable, "-m", "ralb_extproc.main", "--listen", f"unix:{socket}", "--records", ""),
            *("--operator", f"unix:{tmp_path}/nobody.sock", "--admin-port", str(admin)),
            *("--drain-port", str(port), "--drain-min", "0", "--envoy-admin", envoy.admin.removeprefix("http://")),
        ]
        with (tmp_path / "p.log").open("wb") as log:
            processor = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:

            async def answers(path: str) -> str:
                async with session.get(f"http://127.0.0.1:{admin}{path}") as answer:
                    return await answer.text()

            await wait_until(lambda: answers("/healthz"), 30)
            assert "no snapshot" in await answers("/readyz")
            stream = await session.get(url + "/stream")
            await stream.content.readuntil(b"\n\n")
            asked = asyncio.create_task(session.get(f"http://127.0.0.1:{port}/drain"))

            async def drained() -> bool:
                return "drained" in await answers("/readyz")

            await wait_until(drained)
            assert not asked.done()
            # It goes on serving all the while.
            _, writer = await asyncio.open_unix_connection(str(socket))
            writer.close()
            upstream.go_on.set()
            assert await stream.read() == b"data: 2\n\n"
            async with await asked as answer:
                assert (await answer.json())["result"] == "drained"
            await envoy.stop()
            assert processor.returncode is None
            processor.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(processor.wait(), 20) == 0
        finally:
            if processor.returncode is None:
                processor.kill()
                await processor.wait()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--drain-port", "70000"], "--drain-port must be 0 to 65535"),
        (["--drain-min", "10", "--drain-timeout", "5"], "must be 0 to --drain-timeout"),
        (["--drain-port", "9402", "--envoy-admin", "localhost"], "--envoy-admin must be host:port"),
    ],
)
def test_flags_that_make_no_sense(flags: list[str], says: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(ValueError, match=says):
        options_of(parser.parse_args(flags))
