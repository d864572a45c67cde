"""Prompts computed by a Prefill pool, behind real Envoy: by the processor, by a sidecar, and what happens when that goes wrong.

One `ralb up` for all; each test leaves it as it found it.
"""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support_net import wait_until
from support_stack import Stack, pool, running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

# Longer than Envoy waits for a processor that does not ask for more time.
LEG_TIMEOUT = 7
HANG = {"kind": "hang"}
_numbers = itertools.count()


def _roles(name: str, model: str, prefill: str, **how: Any) -> list[dict[str, Any]]:
    options = {"sidecar": "yes"} if how.get("connector") == "Sidecar" else {}
    decode = pool(name, model, 2, **options, spec={"role": "Decode", "disaggregation": {"prefillPool": prefill, **how}})
    return [decode, pool(prefill, model, 1, spec={"role": "Prefill"})]


OBJECTS = [
    *_roles("nixl", "nixl-8b", "nixl-prefill", minPromptTokens=1000, timeout=f"{LEG_TIMEOUT}s"),
    *_roles("side", "side-8b", "side-prefill", minPromptTokens=1000, connector="Sidecar"),
]


@dataclass(slots=True)
class Answer:
    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def cached(self) -> int:
        return int(self.body["usage"]["prompt_tokens_details"]["cached_tokens"])

    @property
    def computed(self) -> int:
        """Prompt tokens the answering pod had to compute."""
        return int(self.body["usage"]["prompt_tokens"]) - self.cached

    @property
    def attempts(self) -> int:
        return int(self.headers["x-ralb-attempts"])


def _story(words: int) -> str:
    return f"Story {next(_numbers)}: " + "once upon a time there was a king; " * (words // 8)


LONG, SHORT = 2400, 80


async def _ask(stack: Stack, model: str, content: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 8, **more}
    timeout = aiohttp.ClientTimeout(30)
    async with stack.session.post(
        f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=timeout
    ) as answer:
        return Answer(answer.status, await answer.json(content_type=None), dict(answer.headers))


async def _handoff(stack: Stack, answer: Answer) -> dict[str, Any]:
    record = await stack.record(answer.headers["x-ralb-decision-id"])
    found: dict[str, Any] = record["placement"]["handoff"]
    return found


async def _metrics(stack: Stack) -> dict[str, float]:
    url = f"http://127.0.0.1:{stack.ready['admin_port']}/metrics"
    async with stack.session.get(url, timeout=aiohttp.ClientTimeout(5)) as answer:
        lines = (await answer.text()).splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


async def _handoffs(stack: Stack, name: str, outcome: str) -> float:
    return (await _metrics(stack)).get(f'ralb_handoffs_total{{outcome="{outcome}",pool="default/{name}"}}', 0.0)


async def _works(stack: Stack, model: str) -> None:
    """Wait until prompts are handed over (again)."""

    async def handed() -> bool:
        answer = await _ask(stack, model, _story(LONG))
        assert answer.status == 200
        return bool((await _handoff(stack, answer))["reason"] == "remote" and answer.computed == 1)

    await wait_until(handed, 30, interval=0.2, what="a prompt handed over")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack() -> AsyncIterator[Stack]:
    async with running_stack(*OBJECTS) as running:
        yield running


@pytest.mark.parametrize("model", ["nixl-8b", "side-8b"])
async def test_a_long_prompt_is_computed_by_the_prefill_pool(stack: Stack, model: str) -> None:
    answer = await _ask(stack, model, _story(LONG))
    assert answer.status == 200
    name = model.removesuffix("-8b")
    assert answer.headers["x-ralb-pool"] == f"default/{name}"
    assert (answer.attempts, answer.computed) == (1, 1)
    assert answer.body["usage"]["completion_tokens"] == 8
    handoff = await _handoff(stack, answer)
    (prefill,) = stack.pods(f"{name}-prefill")
    assert handoff["reason"] == "remote"
    assert (handoff["pool"], handoff["endpoint"]) == (f"default/{name}-prefill", prefill["address"])
    assert handoff["uncached_tokens"] >= 1000
    assert ("seconds" in handoff) == (name == "nixl")
    assert await _handoffs(stack, name, "remote") >= 1


@pytest.mark.parametrize("model", ["nixl-8b", "side-8b"])
async def test_a_stream_too(stack: Stack, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": _story(LONG)}], "max_tokens": 8, "stream": True}
    body["stream_options"] = {"include_usage": True}
    async with stack.session.post(f"{stack.url}/v1/chat/completions", json=body) as answer:
        text = await answer.text()
    assert answer.status == 200
    assert text.endswith("data: [DONE]\n\n")
    assert '"completion_tokens":8' in text
    record = await stack.record(answer.headers["x-ralb-decision-id"])
    assert record["placement"]["handoff"]["reason"] == "remote"
    tokens = record["outcome"]["tokens"]
    assert tokens["in"] - tokens["cached"] == 1


async def test_a_short_prompt_is_not(stack: Stack) -> None:
    answer = await _ask(stack, "nixl-8b", _story(SHORT))
    assert (await _handoff(stack, answer)) == {"reason": "unified-short"}
    assert answer.computed > 1


async def test_nor_one_that_the_decode_pod_holds(stack: Stack) -> None:
    story = _story(LONG)
    first = await _ask(stack, "nixl-8b", story)
    assert (await _handoff(stack, first))["reason"] == "remote"
    again = await _ask(stack, "nixl-8b", story)
    assert (await _handoff(stack, again)) == {"reason": "unified-short"}
    assert again.cached > 1000


async def test_nor_several_answers_at_once(stack: Stack) -> None:
    answer = await _ask(stack, "nixl-8b", _story(LONG), n=2)
    assert answer.status == 200
    assert (await _handoff(stack, answer)) == {"reason": "unified-unsupported"}


async def test_clients_can_not_say_where_pods_connect_to(stack: Stack) -> None:
    nowhere = {"do_remote_prefill": True, "remote_engine_id": "x", "remote_block_ids": [1]}
    nowhere |= {"remote_host": "127.0.0.1", "remote_port": 1}
    answer = await _ask(stack, "nixl-8b", _story(SHORT), kv_transfer_params=nowhere)
    assert answer.status == 200
    # A sidecar that took it for an order would fail.
    answer = await _ask(stack, "side-8b", _story(SHORT), {"x-prefiller-host-port": "127.0.0.1:1"})
    assert (answer.status, answer.attempts) == (200, 1)


async def test_no_prefill_pool_is_offered_or_asked(stack: Stack) -> None:
    async with stack.session.get(f"{stack.url}/v1/models") as answer:
        models = [model["id"] for model in (await answer.json())["data"]]
    assert models == ["nixl-8b", "side-8b"]
    (prefill,) = stack.pods("nixl-prefill")
    for _ in range(20):
        short = await _ask(stack, "nixl-8b", _story(SHORT))
        record = await stack.record(short.headers["x-ralb-decision-id"])
        assert record["outcome"]["endpoint"] != prefill["address"]


async def test_decode_pod_fails_and_the_next_computes_the_prompt(stack: Stack) -> None:
    """The blocks were promised to the first: what they hold later is anybody's."""
    for pod in stack.pods("nixl"):
        if "prefill" not in pod["pod"]:
            await stack.fault(pod["address"], {"kind": "status", "status": 500, "limit": 1})
    (prefill,) = stack.pods("nixl-prefill")
    answers = [await _ask(stack, "nixl-8b", _story(LONG)) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    retried = [answer for answer in answers if answer.attempts > 1]
    assert retried
    for answer in retried:
        assert (await _handoff(stack, answer))["endpoint"] == prefill["address"]
        assert answer.computed > 1000
    for pod in stack.pods("nixl"):
        await stack.fault(pod["address"])
    await _works(stack, "nixl-8b")


async def test_sidecar_whose_prefill_pod_fails(stack: Stack) -> None:
    (prefill,) = stack.pods("side-prefill")
    await stack.fault(prefill["address"], {"kind": "status", "status": 500})
    answer = await _ask(stack, "side-8b", _story(LONG))
    assert (answer.status, answer.attempts) == (200, 2)
    assert answer.computed > 1000

    async def avoided() -> bool:
        return (await _handoff(stack, await _ask(stack, "side-8b", _story(LONG))))["reason"] == "unified-no-prefill"

    await wait_until(avoided, 10, what="the failing prefill pod avoided")
    await stack.fault(prefill["address"])
    await _works(stack, "side-8b")


async def test_prefill_pod_killed_during_the_leg(stack: Stack) -> None:
    (prefill,) = stack.pods("nixl-prefill")
    await stack.fault(prefill["address"], HANG)
    asking = asyncio.create_task(_ask(stack, "nixl-8b", _story(LONG)))
    await _legs(stack, 1)
    os.kill(prefill["pid"], signal.SIGKILL)
    answer = await asking
    assert (answer.status, answer.attempts) == (200, 1)
    assert answer.computed > 1000
    assert (await _handoff(stack, answer))["reason"] == "failed-connect"
    await _works(stack, "nixl-8b")


async def test_prefill_pod_that_takes_too_long(stack: Stack) -> None:
    """Longer than Envoy's own limit for the processor, which would answer 504."""
    (prefill,) = stack.pods("nixl-prefill")
    await stack.fault(prefill["address"], HANG)
    answer = await _ask(stack, "nixl-8b", _story(LONG))
    assert (answer.status, answer.attempts) == (200, 1)
    assert answer.computed > 1000
    handoff = await _handoff(stack, answer)
    assert handoff["reason"] == "failed-timeout"
    assert handoff["seconds"] >= LEG_TIMEOUT
    assert await _handoffs(stack, "nixl", "failed-timeout") == 1
    await stack.fault(prefill["address"])
    await _works(stack, "nixl-8b")


async def test_prefill_pod_without_the_connector(stack: Stack) -> None:
    (prefill,) = stack.pods("nixl-prefill")
    await stack.fault(prefill["address"], {"kind": "status", "status": 404})
    answer = await _ask(stack, "nixl-8b", _story(LONG))
    assert (answer.status, answer.computed > 1000) == (200, True)
    assert (await _handoff(stack, answer))["reason"] == "failed-status"
    await stack.fault(prefill["address"])
    await _works(stack, "nixl-8b")


async def test_client_goes_away_during_the_leg(stack: Stack) -> None:
    (prefill,) = stack.pods("nixl-prefill")
    await stack.fault(prefill["address"], HANG)
    before = await _handoffs(stack, "nixl", "aborted")
    asking = asyncio.create_task(_ask(stack, "nixl-8b", _story(LONG)))
    await _legs(stack, 1)
    asking.cancel()
    await _legs(stack, 0)
    await wait_until(lambda: _idle(stack), 15, what="no load left")
    assert await _handoffs(stack, "nixl", "aborted") == before + 1

    def recorded() -> bool:
        return any(
            one.get("outcome", {}).get("aborted") and one["placement"]["handoff"]["reason"] == "aborted"
            for one in stack.records()
        )

    await wait_until(recorded, 10, what="the record of the request")
    await stack.fault(prefill["address"])
    # Nobody is blamed for it.
    answer = await _ask(stack, "nixl-8b", _story(LONG))
    assert (await _handoff(stack, answer))["reason"] == "remote"


async def test_pool_without_its_prefill_pool_serves_all_the_same(stack: Stack) -> None:
    stack.write(*(each for each in OBJECTS if each["metadata"]["name"] != "nixl-prefill"))

    async def alone() -> bool:
        answer = await _ask(stack, "nixl-8b", _story(LONG))
        assert answer.status == 200
        record = await stack.record(answer.headers["x-ralb-decision-id"])
        return "handoff" not in record["placement"]

    await wait_until(alone, 20, interval=0.2, what="prompts computed by the decode pods")
    stack.write(*OBJECTS)
    await _works(stack, "nixl-8b")


async def _legs(stack: Stack, count: int) -> None:
    async def there() -> bool:
        page = await _metrics(stack)
        return page.get('ralb_prefill_legs{pool="default/nixl-prefill"}', 0.0) == count

    await wait_until(there, 10, what=f"{count} prefill legs")


async def _idle(stack: Stack) -> bool:
    return await stack.in_flight() == 0
