"""Our picker behind a real Envoy that has been set up as a gateway would: what is picked is what happens."""

import asyncio
import io
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support_envoy import Envoy, running_envoy
from support_epp import CHAT
from support_epp_envoy import gateway_config
from support_gateway import ABORT, SSE_HEAD, Pods, chunk, events, json_response, response, sse_response
from support_http import Connection, call, request
from support_net import free_port, wait_until
from support_picker import Own, own_picker, pool

pytestmark = pytest.mark.envoy
PATH = "/v1/chat/completions"
NAMES = ("a", "b", "c")
USAGE = {"prompt_tokens": 12, "completion_tokens": 3}


@dataclass
class Gateway:
    own: Own
    pods: Pods
    envoy: Envoy
    port: int
    session: aiohttp.ClientSession

    async def post(self, body: Any = CHAT, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        headers = {"content-type": "application/json", **(headers or {})}
        async with self.session.post(f"http://127.0.0.1:{self.port}{PATH}", data=data, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    def address(self, name: str) -> str:
        return self.pods.addresses[name]

    def name(self, address: str) -> str:
        return next(name for name, one in self.pods.addresses.items() if one == address)


@pytest.fixture
def attempts() -> int:
    return 3


@pytest.fixture
async def gw(tmp_path: Path, attempts: int) -> AsyncIterator[Gateway]:
    pods = Pods()
    await pods.start(*NAMES)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ralb-epp-gw-") as folder:
        async with own_picker(tmp_path, pool(pods.addresses.values()), tls="self-signed") as own:
            config = gateway_config(port, own.address, list(pods.addresses.values()), attempts=attempts)
            async with (
                running_envoy(config, Path(folder), log_level="warning") as envoy,
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session,
            ):
                gateway = Gateway(own, pods, envoy, port, session)
                await wait_until(lambda: _healthy(envoy), what="the picker's health seen by Envoy")
                yield gateway
                await own.idle()
    await pods.stop()


async def _healthy(envoy: Envoy) -> bool:
    stats = await envoy.stats("cluster.picker.health_check.success")
    return any(stats.values())


def picks(gw: Gateway) -> list[list[str]]:
    return [[gw.name(endpoint) for _, endpoint in one["placement"]["attempts"]] for one in gw.own.records]


async def test_requests_land_where_told(gw: Gateway) -> None:
    for _ in range(9):
        status, _answer = await gw.post()
        assert status == 200
    await wait_until(lambda: len(gw.own.records) == 9)
    assert [attempt.pod for attempt in gw.pods.attempts] == [order[0] for order in picks(gw)]
    assert [settled.outcome.upstream for settled in gw.own.settled] == [
        gw.address(attempt.pod) for attempt in gw.pods.attempts
    ], "Envoy says who served, and it is learned"
    assert {settled.outcome.attempts for settled in gw.own.settled} == {1}
    assert all(json.loads(attempt.body) == CHAT for attempt in gw.pods.attempts)


async def test_a_lost_pod_is_followed_by_the_next_of_the_list(gw: Gateway) -> None:
    for name in NAMES[:2]:
        gw.pods.scripts[name] = [ABORT]
    for number in range(1, 7):
        status, answer = await gw.post()
        assert (status, answer["model"]) == (200, "c")
        await wait_until(lambda number=number: len(gw.own.records) == number)
        order = picks(gw)[-1]
        tried = order[: order.index("c") + 1]
        assert [attempt.pod for attempt in gw.pods.attempts[-len(tried) :]] == tried
        assert gw.own.settled[-1].outcome.attempts == len(tried)
    assert picks(gw)[-1][0] == "c", "pods that failed go last"


async def test_errors_and_refusals_of_pods_go_on_to_the_next(gw: Gateway) -> None:
    gw.pods.scripts["a"] = response(503, b"{}")
    gw.pods.scripts["b"] = response(500, b"{}")
    for _ in range(4):
        assert (await gw.post())[0] == 200
    assert gw.pods.attempts[-1].pod == "c"


async def test_all_pods_failing_is_the_last_ones_answer(gw: Gateway) -> None:
    for name in NAMES:
        gw.pods.scripts[name] = response(500, b'{"from": "pod"}')
    assert await gw.post() == (500, {"from": "pod"})
    await wait_until(lambda: gw.own.settled)
    assert gw.own.settled[0].outcome.attempts == 3
    assert sorted(attempt.pod for attempt in gw.pods.attempts) == list(NAMES)


async def test_streams_pass_as_they_come(gw: Gateway) -> None:
    step = asyncio.Event()
    parts = events({"choices": [{"delta": {"content": "a"}}]}, {"choices": [], "usage": USAGE}, "[DONE]")
    for name in NAMES:
        gw.pods.scripts[name] = [SSE_HEAD, chunk(parts[0]), step, *map(chunk, parts[1:]), chunk(b"")]
    async with gw.session.post(f"http://127.0.0.1:{gw.port}{PATH}", json={**CHAT, "stream": True}) as answer:
        assert answer.status == 200
        assert await answer.content.readany() == parts[0]
        assert gw.own.in_flight == 1, "not over before the answer is"
        decision = answer.headers["x-ralb-decision-id"]
        step.set()
        assert await answer.read() == b"".join(parts[1:])
    await wait_until(lambda: gw.own.settled)
    outcome = gw.own.settled[0].outcome
    assert (outcome.decision_id, outcome.output_tokens, outcome.aborted) == (decision, 3, False)


@pytest.mark.parametrize("size", [61_999, 62_000, 62_001, 65_536, 1_048_575, 1_048_577, 3_000_000, 10_000_000])
async def test_large_bodies_arrive_whole(gw: Gateway, size: int) -> None:
    frame = b'{"model":"base","messages":[{"role":"user","content":"%s"}]}'
    data = frame % (b"x" * (size - len(frame) + 2))
    assert len(data) == size
    answer = {"echo": "y" * size}
    for name in NAMES:
        gw.pods.scripts[name] = json_response(answer)
    assert await gw.post(data) == (200, answer)
    assert gw.pods.attempts[0].body == data


async def test_large_answers_in_many_parts(gw: Gateway) -> None:
    parts = [b"data: " + bytes([65 + number % 26]) * 70_000 + b"\n\n" for number in range(40)]
    for name in NAMES:
        gw.pods.scripts[name] = sse_response(parts)
    async with gw.session.post(f"http://127.0.0.1:{gw.port}{PATH}", json={**CHAT, "stream": True}) as answer:
        assert await answer.read() == b"".join(parts)


async def test_many_at_once(gw: Gateway) -> None:
    async def one(number: int) -> None:
        body = {"model": "base", "messages": [{"role": "user", "content": f"{number} " * 20_000}]}
        assert (await gw.post(body))[0] == 200

    async with asyncio.TaskGroup() as group:
        for number in range(60):
            group.create_task(one(number))
    sent = sorted(json.loads(attempt.body)["messages"][0]["content"].split()[0] for attempt in gw.pods.attempts)
    assert sent == sorted(map(str, range(60)))


async def test_gets_are_placed_too(gw: Gateway) -> None:
    async with gw.session.get(f"http://127.0.0.1:{gw.port}/v1/models") as answer:
        assert answer.status == 200
    assert gw.pods.attempts[0].path == "/v1/models"


@pytest.mark.parametrize("attempts", [1])  # with retries Envoy 1.40 sends the body of such a request twice
async def test_trailers_of_requests(gw: Gateway) -> None:
    data = json.dumps(CHAT).encode()
    raw = request(PATH, b"", "transfer-encoding: chunked", "trailer: x-sum")
    raw += chunk(data) + b"0\r\nx-sum: 1\r\n\r\n"
    answer = await call(gw.port, raw)
    assert answer.status == 200
    assert json.loads(gw.pods.attempts[0].body) == CHAT


async def test_subset_hints_are_kept_to(gw: Gateway) -> None:
    for name in NAMES:
        status, answer = await gw.post(headers={"x-test-subset": gw.address(name)})
        assert (status, answer["model"]) == (200, name)
    status, answer = await gw.post(headers={"x-test-subset": "192.0.2.1:1"})
    assert (status, answer["error"]["code"]) == (503, "no_endpoint")


async def test_refusals_reach_the_client(gw: Gateway) -> None:
    status, answer = await gw.post(b"{")
    assert (status, answer["error"]["code"]) == (400, "invalid_json")
    await gw.own.apply(pool(()))
    status, answer = await gw.post()
    assert (status, answer["error"]["code"]) == (503, "no_endpoint")


async def test_clients_that_leave_release_their_load(gw: Gateway) -> None:
    never = asyncio.Event()
    for name in NAMES:
        gw.pods.scripts[name] = [never]
    for begun in (False, True):
        if begun:
            for name in NAMES:
                gw.pods.scripts[name] = [SSE_HEAD, chunk(b"data: x\n\n"), never]
        async with Connection(gw.port) as connection:
            await connection.send(request(PATH, CHAT))
            await wait_until(lambda: gw.own.in_flight == 1)
            if begun:
                await connection.reader.readuntil(b"data: x")
        await gw.own.idle()
    await wait_until(lambda: len(gw.own.settled) == 2)
    assert all(settled.outcome.aborted for settled in gw.own.settled)
    never.set()


async def test_a_new_list_of_pods_is_used_at_once(gw: Gateway) -> None:
    await gw.own.apply(pool([gw.address("b")]))
    for _ in range(4):
        assert (await gw.post())[1]["model"] == "b"
