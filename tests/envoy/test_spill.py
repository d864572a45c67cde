"""A tier whose only pod is at its cap leaves requests to its neighbour, and only while it is."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support_net import wait_until
from support_stack import Stack, policy, pool, running_stack, tier

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

_ONE = {"balancing": {"slowStart": "0s", "concurrencyPerReplica": 1}}
OBJECTS = (
    pool("home", "home-8b", 1, spec=_ONE),
    pool("near", "near-8b", 1, spec=_ONE),
    tier("easy", 1, {"name": "home"}, spillTier="hard"),
    tier("hard", 2, {"name": "near"}),
    policy("auto", "easy"),
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack() -> AsyncIterator[Stack]:
    async with running_stack(*OBJECTS) as running:
        yield running


def ask(
    stack: Stack, tokens: int, headers: dict[str, str] | None = None
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    body = {
        "model": "auto",
        "stream": True,
        "messages": [{"role": "user", "content": "Name a colour."}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    return stack.session.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers)


async def short(stack: Stack, **headers: str) -> dict[str, Any]:
    """The record of a short request, once it is answered."""
    async with ask(stack, 2, {name.replace("_", "-"): value for name, value in headers.items()}) as answer:
        assert answer.status == 200
        text = await answer.text()
        assert "[DONE]" in text
        chunk = json.loads(text.split("\n", 1)[0].removeprefix("data: "))
        record = await stack.record(answer.headers["x-ralb-decision-id"])
    assert answer.headers["x-ralb-pool"] == record["outcome"]["pool"]
    assert chunk["model"] == f"{record['outcome']['pool'].removeprefix('default/')}-8b", (
        "the pool's own name is asked for"
    )
    return record


async def spilled(stack: Stack) -> str:
    async with stack.session.get(f"http://127.0.0.1:{stack.ready['admin_port']}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next((line for line in lines if line.startswith("ralb_spilled_total{")), "")


async def idle(stack: Stack, *pools: str) -> None:
    """Wait until the processor knows that the pods, of these pools or all, are free, from the log and from the pods."""

    async def free() -> bool:
        async with stack.session.get(f"http://127.0.0.1:{stack.ready['admin_port']}/debug/pods") as answer:
            pods = (await answer.json())["pods"]
        return all(
            pod["in_flight"] == pod["running"] == pod["waiting"] == 0
            for pod in pods
            if pod["pool"] in pools or not pools
        )

    await wait_until(free, 15, interval=0.05, what="the pods to be free")


async def test_it_spills_while_its_pod_is_busy_and_comes_back(stack: Stack) -> None:
    before = await short(stack)
    assert before["outcome"]["pool"] == "default/home"
    assert "spilled" not in before["placement"]
    await idle(stack)
    async with ask(stack, 100_000) as held:
        assert held.headers["x-ralb-pool"] == "default/home"
        for count in (1, 2):
            other = await short(stack)
            assert other["outcome"]["pool"] == "default/near"
            assert other["placement"]["reason"] == "spilled"
            assert other["placement"]["spilled"] == {"from": "default/easy", "to": "default/hard"}
            assert [pool for pool, _ in other["placement"]["attempts"]] == ["default/near", "default/home"]
            labels = 'from_tier="default/easy",to_tier="default/hard"'
            assert await spilled(stack) == f"ralb_spilled_total{{{labels}}} {count}.0"
            await idle(stack, "default/near")
        assert not held.content.at_eof()
    await idle(stack)
    assert (await short(stack))["outcome"]["pool"] == "default/home"


async def test_the_clients_limit_keeps_it_at_home(stack: Stack) -> None:
    await idle(stack)
    async with ask(stack, 100_000) as held:
        assert held.headers["x-ralb-pool"] == "default/home"
        record = await short(stack, x_ralb_max_tier="easy")
        assert record["outcome"]["pool"] == "default/home"
        assert (record["placement"]["reason"], "spilled" in record["placement"]) == ("saturated", False)


async def test_a_saturated_neighbour_is_left_alone(stack: Stack) -> None:
    await idle(stack)
    async with ask(stack, 100_000) as first, ask(stack, 100_000) as second:
        assert [held.headers["x-ralb-pool"] for held in (first, second)] == ["default/home", "default/near"]
        record = await short(stack)
        assert record["outcome"]["pool"] == "default/home"
        assert record["placement"]["reason"] == "saturated"
