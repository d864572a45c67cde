"""A provider's key from a Secret of the cluster to the provider, through everything that is real, and to nowhere else.

The Secret is edited, taken away and given back with kubectl's means while requests come in.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support_cluster import ControlPlane
from support_net import wait_until
from support_provider import NAME, Authority, external
from support_stack import policy, tier
from support_world import World, running_gateway, running_world

pytestmark = [pytest.mark.envoy, pytest.mark.cluster, pytest.mark.usefixtures("crds")]

FIRST, SECOND = "sk-first-1f0c8a7be2", "sk-second-93ab44d0c7"


@dataclass
class Provider:
    """An HTTPS server of OpenAI's API; ``keys`` are those it was shown."""

    address: str = ""
    keys: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("authorization", ""))
        body = await request.json()
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        answer = {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}
        return web.json_response(answer)


@asynccontextmanager
async def running_provider(authority: Authority, folder: Path) -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server(folder)).start()
        provider.address = f"127.0.0.1:{runner.addresses[0][1]}"
        yield provider
    finally:
        await runner.cleanup()


async def put_secret(world: World, name: str, **data: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": world.namespace},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }
    path = f"/api/v1/namespaces/{world.namespace}/secrets/{name}"
    await asyncio.to_thread(world.plane.api.apply, path, body)


async def ask(session: aiohttp.ClientSession, world: World) -> tuple[int, Any]:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
    async with session.post(f"{world.url}/v1/chat/completions", json=body) as answer:
        return answer.status, await answer.json()


async def ready(world: World) -> dict[str, Any]:
    """Conditions of the pool by type."""
    found = await world.get(world.path("ModelPool", "cloud"))
    return {each["type"]: each for each in found.get("status", {}).get("conditions", [])}


async def everything_written(world: World) -> bytes:
    """All that operator and gateway say or keep where people and machines look."""
    assert world.gateway is not None
    replica = world.replicas[0]
    texts = [replica.process.log.read_text(), json.dumps(await replica.metrics())]
    texts += [await world.gateway.envoy.get(page) for page in ("/config_dump?include_eds", "/stats", "/clusters")]
    texts += [world.gateway.envoy.log.read_text(), world.gateway.records.read_text()]
    for plural in ("modelpools", "modeltiers", "routingpolicies"):
        texts.append(json.dumps(await world.get(f"/apis/ralb.dev/v1alpha1/{plural}")))
    texts.append(json.dumps(await world.get(f"/apis/events.k8s.io/v1/namespaces/{world.namespace}/events")))
    texts.append(json.dumps(await world.get("/apis/coordination.k8s.io/v1/leases")))
    return "\n".join(texts).encode()


async def test_a_key_goes_from_the_cluster_to_the_provider_and_nowhere_else(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    authority = Authority()
    async with (
        running_provider(authority, tmp_path) as provider,
        running_world(control_plane, replicas=1) as world,
        aiohttp.ClientSession(headers={"authorization": "Bearer of-the-client"}) as session,
    ):
        await put_secret(world, "ca", **{"ca.crt": authority.pem})
        await world.apply(external("cloud", provider.address), tier("main", 1, {"name": "cloud"}))
        await world.apply(policy("auto", "main"))
        await world.all_ready()
        async with running_gateway(world):
            # Without its key the pool is there, and nothing is sent.
            await wait_until(
                lambda: _reason(world, "ResolvedRefs", "RefNotFound"), 20, what="the missing Secret is told"
            )
            status, answer = await ask(session, world)
            assert (status, answer["error"]["code"]) == (503, "no_endpoint")
            assert provider.keys == []

            await put_secret(world, "key", apiKey=FIRST)
            await wait_until(lambda: _answers(session, world), 20, what="an answer")
            await wait_until(lambda: _reason(world, "ResolvedRefs", "ResolvedRefs"), 20, what="all is well")
            assert set(provider.keys) == {f"Bearer {FIRST}"}

            # Requests come in all the while the key is changed.
            async with _asking(session, world) as answers:
                await put_secret(world, "key", apiKey=SECOND)
                await wait_until(lambda: provider.keys[-1] == f"Bearer {SECOND}", 20, what="the new key")
                since = len(provider.keys)
                await wait_until(lambda: len(provider.keys) > since + 10, 20, what="more requests")
            assert set(answers) == {200}
            assert set(provider.keys[since:]) == {f"Bearer {SECOND}"}

            path = f"/api/v1/namespaces/{world.namespace}/secrets/key"
            await asyncio.to_thread(world.plane.api.request, "DELETE", path)
            await wait_until(lambda: _reason(world, "ResolvedRefs", "RefNotFound"), 20, what="the lost Secret is told")
            since = len(provider.keys)
            status, _ = await ask(session, world)
            assert status == 503
            assert len(provider.keys) == since

            written = await everything_written(world)
            for secret in (FIRST, SECOND, base64.b64encode(FIRST.encode()).decode()):
                assert secret.encode() not in written
            assert NAME.encode() in written


async def _reason(world: World, type_: str, reason: str) -> bool:
    return (await ready(world)).get(type_, {}).get("reason") == reason


async def _answers(session: aiohttp.ClientSession, world: World) -> bool:
    return (await ask(session, world))[0] == 200


@asynccontextmanager
async def _asking(session: aiohttp.ClientSession, world: World) -> AsyncIterator[list[int]]:
    """One request after another; the statuses of their answers."""
    answers: list[int] = []

    async def go() -> None:
        while True:
            answers.append((await ask(session, world))[0])

    task = asyncio.create_task(go())
    try:
        yield answers
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert answers
