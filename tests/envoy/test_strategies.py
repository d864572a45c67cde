"""Strategies with real Envoy: those it runs itself keep a key on one pod and fail over; affinity never blocks."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support_net import wait_until
from support_stack import Stack, pool, running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

# So many keys one after another: each is within its share.
KEYS = [f"conversation-{number}" for number in range(12)]
NAMES = {
    "ring": {"strategy": "RingHash"},
    "maglev": {"strategy": "Maglev", "hash": {"header": "X-User"}},
    "turns": {"strategy": "RoundRobin"},
    "sticky": {"strategy": "SessionAffinity"},
}


def _pool(name: str, **balancing: Any) -> dict[str, Any]:
    return pool(name, f"{name}-8b", 3, spec={"balancing": {"slowStart": "0s", **balancing}})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack() -> AsyncIterator[Stack]:
    async with running_stack(*(_pool(name, **balancing) for name, balancing in NAMES.items())) as running:
        yield running


async def ask(stack: Stack, name: str, **headers: str) -> tuple[int, str]:
    """(status, decision id)."""
    body = {"model": f"{name}-8b", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 2}
    sent: Mapping[str, str] = {key.replace("_", "-"): value for key, value in headers.items()}
    async with stack.session.post(
        f"{stack.url}/v1/chat/completions", json=body, headers=sent, timeout=aiohttp.ClientTimeout(20)
    ) as answer:
        await answer.read()
        return answer.status, answer.headers["x-ralb-decision-id"]


async def served(stack: Stack, name: str, **headers: str) -> dict[str, Any]:
    """The record of a request that went well."""
    status, decision = await ask(stack, name, **headers)
    assert status == 200
    return await stack.record(decision)


async def pod_of(stack: Stack, name: str, **headers: str) -> str:
    return str((await served(stack, name, **headers))["outcome"]["endpoint"])


@pytest.mark.parametrize(("name", "header"), [("ring", "x_ralb_session"), ("maglev", "x_user")])
async def test_a_key_stays_and_keys_spread(stack: Stack, name: str, header: str) -> None:
    homes = {key: await pod_of(stack, name, **{header: key}) for key in KEYS}
    assert len(set(homes.values())) == 3
    for _ in range(2):
        assert {key: await pod_of(stack, name, **{header: key}) for key in KEYS} == homes
    record = await served(stack, name, **{header: KEYS[0]})
    assert record["placement"]["endpoint"] == ""
    assert record["placement"]["reason"] == "envoy"
    assert record["placement"]["strategy"] == {"ring": "RingHash", "maglev": "Maglev"}[name]


async def test_the_key_is_no_header(stack: Stack) -> None:
    """A client can not choose the pod by what the processor would set."""
    homes = [await pod_of(stack, "ring", x_ralb_session=KEYS[0], x_ralb_hash=key) for key in KEYS]
    assert len(set(homes)) == 1


async def test_round_robin_takes_turns(stack: Stack) -> None:
    seen = Counter([await pod_of(stack, "turns") for _ in range(30)])
    assert len(seen) == 3
    # Each of Envoy's worker threads takes turns of its own.
    assert max(seen.values()) - min(seen.values()) <= 2 * (os.cpu_count() or 1)


async def test_a_heavy_key_is_spread(stack: Stack) -> None:
    answers = [await ask(stack, "ring", x_ralb_session="everybody") for _ in range(160)]
    assert {status for status, _ in answers} == {200}
    pods = [str((await stack.record(decision))["outcome"]["endpoint"]) for _, decision in answers[-30:]]
    assert len(set(pods)) > 1


@pytest.mark.parametrize("name", ["ring", "sticky"])
async def test_a_breaking_pod_is_passed_over(stack: Stack, name: str) -> None:
    homes = {key: await pod_of(stack, name, x_ralb_session=key) for key in KEYS}
    victim = next(pod for pod in stack.pods(name) if pod["address"] == homes[KEYS[0]])
    # It takes connections and breaks them; one that is gone is the next test's.
    await stack.fault(victim["address"], {"kind": "reset"})
    try:
        answers = await asyncio.gather(*(ask(stack, name, x_ralb_session=key) for key in KEYS))
        assert [status for status, _ in answers] == [200] * len(KEYS)
        records = [await stack.record(decision) for _, decision in answers]
        assert victim["address"] not in {record["outcome"]["endpoint"] for record in records}
    finally:
        await stack.fault(victim["address"])


@pytest.mark.parametrize("name", ["maglev", "sticky"])
async def test_a_killed_pod_costs_nobody_an_answer(stack: Stack, name: str) -> None:
    header = {"maglev": "x_user", "sticky": "x_ralb_session"}[name]
    homes = {key: await pod_of(stack, name, **{header: key}) for key in KEYS}
    victim = next(pod for pod in stack.pods(name) if pod["address"] == homes[KEYS[0]])
    os.kill(victim["pid"], signal.SIGKILL)
    answers = [await ask(stack, name, **{header: key}) for key in KEYS * 2]
    assert [status for status, _ in answers] == [200] * len(answers)

    def again() -> bool:
        return any(
            pod["address"] == victim["address"] and pod["pid"] != victim["pid"] and pod["ready"] for pod in stack.pods()
        )

    await wait_until(again, 15, interval=0.05, what="the pod again")


async def test_affinity_stays_with_its_pod(stack: Stack) -> None:
    homes = {key: await pod_of(stack, "sticky", x_ralb_session=key) for key in KEYS}
    assert {key: await pod_of(stack, "sticky", x_ralb_session=key) for key in KEYS} == homes
    record = await served(stack, "sticky", x_ralb_session=KEYS[0])
    assert record["placement"]["strategy"] == "SessionAffinity"
    assert record["placement"]["endpoint"] == homes[KEYS[0]]
