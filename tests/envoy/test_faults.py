"""What fails under traffic, and what clients notice of it: nothing that another pod could have spared them.

One `ralb up` with real Envoy serves 100 requests per second all the while; the tests run in order and leave it as they found it.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from support_load import Answer, Load, wait_for
from support_net import free_port, wait_until
from support_stack import Stack, policy, pool, running_stack, tier

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

MODELS = {"default/alpha": "alpha-8b", "default/beta": "beta-8b", "default/gamma": "gamma-8b"}
# Few sequences at once, so that a burst queues up; answers of some 100 ms.
ALPHA = pool("alpha", "alpha-8b", 3, max_num_seqs=6)
BETA = pool("beta", "beta-8b", 2, max_num_seqs=6)
GAMMA = pool("gamma", "gamma-8b", 1, max_num_seqs=6)
# Nobody listens where its pods are said to be.
DEAD = pool("dead", "dead-8b", 0)
# It looks well from outside, and answers nothing.
ILL = pool("ill", "ill-8b", 1, faults='{"kind": "status", "status": 500}')
RESCUE = tier("rescue", 2, {"name": "dead"}, {"name": "ill", "priority": 1}, {"name": "beta", "priority": 2})
POLICIES = (policy("auto", "main"), policy("rescue", "rescue", models=["rescue"]))
ALPHA_SHARE = {"name": "alpha", "weight": 3}


def _objects(*shares: dict[str, Any]) -> list[dict[str, Any]]:
    more = [GAMMA] if any(share["name"] == "gamma" for share in shares) else []
    return [ALPHA, BETA, DEAD, ILL, *more, tier("main", 1, *shares), RESCUE, *POLICIES]


USUAL = _objects(ALPHA_SHARE, {"name": "beta", "weight": 1})


def _dead_pod(name: str) -> dict[str, Any]:
    """A pod that is said to be ready where nobody listens."""
    metadata = {"name": name, "labels": {"pool": "dead"}, "annotations": {"ralb.dev/port": str(free_port())}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"podIP": "127.0.0.1"}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack() -> AsyncIterator[Stack]:
    async with running_stack(*USUAL) as running:
        # In a file of their own, for the tests write the others anew.
        running.write(_dead_pod("dead-0"), _dead_pod("dead-1"), name="pods.yaml")
        running.write(*USUAL)
        yield running


@pytest.fixture
def load(stack: Stack) -> Load:
    return Load(stack.url, MODELS)


def _good(answer: Answer) -> bool:
    return answer.good


async def _answered_by(stack: Stack, answer: Answer) -> str:
    return str((await stack.record(answer.decision))["outcome"]["endpoint"])


def _share(answers: list[Answer], pool_id: str) -> float:
    return sum(answer.pool == pool_id for answer in answers) / len(answers)


async def _restarted(stack: Stack, pid: Callable[[], int], old: int, limit: float = 20.0) -> None:
    await wait_until(lambda: pid() not in (0, old), limit, interval=0.05, what=f"new process instead of {old}")


async def test_pod_killed_with_streams_queued_on_it(stack: Stack, load: Load) -> None:
    async with load.going(30):
        await wait_for(load, _good, 50)
        for _ in range(60):
            load.ask(stream=True, wanted=16)

        async def crowded() -> dict[str, Any] | None:
            for pod in stack.pods("alpha"):
                if (await stack.pod_gauges(pod["address"]))["vllm:num_requests_waiting"] >= 2:
                    return pod
            return None

        victim = await wait_until(crowded, 5, what="a pod with requests waiting")
        assert victim is not None
        os.kill(victim["pid"], signal.SIGKILL)
        killed = load.now

        def again() -> bool:
            return any(
                p["address"] == victim["address"] and p["pid"] != victim["pid"] for p in stack.pods() if p["ready"]
            )

        await wait_until(again, 15, interval=0.05, what="the pod again")
        have = len(stack.records())

        def serves() -> bool:
            return any(one.get("outcome", {}).get("endpoint") == victim["address"] for one in stack.records()[have:])

        await wait_until(serves, 15, interval=0.2, what="an answer from the restarted pod")
        await wait_for(load, _good, 100)

    # Only streams whose first tokens the client already had may have broken.
    for answer in load.bad:
        assert answer.stream
        assert answer.broken
        assert answer.sent < killed
        assert await _answered_by(stack, answer) == victim["address"]
    assert len(load.bad) <= 6, "more streams broke than the pod can have had running"
    records = {one["id"]: one for one in stack.records()}
    moved = [answer for answer in load.answers if answer.good and answer.stream and answer.attempts >= 2]
    queued = [answer for answer in moved if records[answer.decision]["placement"]["endpoint"] == victim["address"]]
    assert len([answer for answer in queued if answer.sent < killed]) >= 2, "streams queued on the pod were not retried"


@pytest.mark.parametrize(
    ("which", "rule"),
    [
        # One after the other, for a pod that failed often is tried again only seconds later.
        (0, {"kind": "status", "status": 429}),
        (1, {"kind": "status", "status": 500}),
        (2, {"kind": "status", "status": 503, "retry_after": 60}),
        (0, {"kind": "reset", "after_chunks": 0}),
    ],
    ids=["429", "500", "503", "reset-after-headers"],
)
async def test_fault_of_a_pod_is_absorbed(stack: Stack, load: Load, which: int, rule: dict[str, Any]) -> None:
    faulty = stack.pods("alpha")[which]["address"]
    async with load.going(20):
        await stack.fault(faulty, rule)
        await wait_for(load, lambda answer: answer.attempts >= 2)
        await wait_for(load, _good, 200)
        await stack.fault(faulty)
        await wait_for(load, _good, 20)
    assert not load.bad


async def test_a_pod_that_says_when_to_come_back_is_left_alone_until_then(stack: Stack) -> None:
    ill = stack.pods("ill")[0]["address"]
    await stack.fault(ill, {"kind": "status", "status": 429, "retry_after": 2})
    body = {"model": "ill-8b", "messages": [{"role": "user", "content": "hello"}]}
    async with stack.session.post(f"{stack.url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 429
    url = f"http://127.0.0.1:{stack.ready['admin_port']}/debug/pods?pool=default/ill"

    async def why() -> str:
        async with stack.session.get(url) as answer:
            (row,) = (await answer.json())["pods"]
        assert (row["why"] == "limited") <= (row["health"] == "Failed")
        return str(row["why"])

    async def limited() -> bool:
        return await why() == "limited"

    async def free() -> bool:
        return await why() != "limited"

    await wait_until(limited, 2, interval=0.05, what="news of Retry-After")
    await wait_until(free, 10, interval=0.1, what="the end of Retry-After")
    await stack.fault(ill, {"kind": "status", "status": 500})


async def test_pools_that_fail_are_replaced_by_one_of_another_model(stack: Stack, load: Load) -> None:
    load.model = "rescue"
    await load.run(3)
    assert not load.bad
    assert {answer.model for answer in load.answers} == {"beta-8b"}
    assert {answer.tier for answer in load.answers} == {"rescue"}
    assert any(answer.attempts >= 2 for answer in load.answers), "nobody tried the other pools first"


async def test_weight_edited(stack: Stack, load: Load) -> None:
    async with load.going(30):
        await wait_for(load, _good, 200)
        before = _share(load.answers[:200], "default/beta")
        stack.write(*_objects({"name": "alpha", "weight": 1}, {"name": "beta", "weight": 2}))

        def shifted() -> bool:
            recent = [answer for answer in load.answers if answer.done][-200:]
            return len(recent) == 200 and _share(recent, "default/beta") > before + 0.2

        await wait_until(shifted, 15, interval=0.1, what="more traffic for beta")
        stack.write(*USUAL)
        await wait_for(load, _good, 100)
    assert not load.bad


async def test_pool_added_and_removed(stack: Stack, load: Load) -> None:
    async with load.going(60):
        await wait_for(load, _good, 20)
        stack.write(*_objects(ALPHA_SHARE, {"name": "beta"}, {"name": "gamma"}))
        await wait_for(load, lambda answer: answer.good and answer.pool == "default/gamma", 5, limit=30)
        pid = stack.pods("gamma")[0]["pid"]
        # Two that are still running when the pool goes, and longer than it takes to take it out.
        last = [load.ask(stream=stream, wanted=400, model="gamma-8b") for stream in (True, False)]
        await wait_for(load, _good, 5)
        stack.write(*USUAL)
        await wait_until(lambda: not stack.pods("gamma"), 15, interval=0.05, what="pool gone")
        await wait_until(lambda: all(answer.done for answer in last), 20, interval=0.05, what="last answers")
        await wait_until(lambda: pid not in stack.family(), 20, interval=0.2, what="end of the pool's pod")
        after = len(load.answers)
        await wait_for(load, _good, 100)
        gone = load.ask(stream=False, wanted=1, model="gamma-8b")
        await wait_until(lambda: gone.done, 5)
    assert (gone.status, gone.code) == (404, "model_not_found")
    load.answers.remove(gone)
    assert not load.bad
    assert all(answer.good and answer.pool == "default/gamma" for answer in last)
    assert _share(load.answers[after:], "default/gamma") == 0


async def test_file_broken_while_edited(stack: Stack, load: Load) -> None:
    async with load.going(20):
        (stack.objects / "all.yaml").write_text("kind: ModelPool\nmetadata: {name: [")
        await wait_until(lambda: stack.log().count("the last good version stays in use") >= 6, 10, what="complaint")
        await wait_for(load, _good, 100)
        stack.write(*USUAL)
        await wait_for(load, _good, 100)
    assert not load.bad


async def test_processor_killed(stack: Stack, load: Load) -> None:
    old = stack.pid("processor")
    async with load.going(30):
        await wait_for(load, _good, 50)
        long = load.ask(stream=True, wanted=200)
        await wait_until(lambda: long.connected, 5)
        os.kill(old, signal.SIGKILL)
        killed = load.now
        await _restarted(stack, lambda: stack.pid("processor"), old)
        await wait_for(load, _good, 1)
        # The new process does not know yet who is ill, so these go by way of the rewriting filter.
        moved = [load.ask(stream=True, wanted=4, model="rescue") for _ in range(10)]
        await wait_for(load, _good, 200)
    assert [answer.error for answer in moved] == [""] * len(moved)
    assert max(answer.attempts for answer in moved) >= 2
    # Answers pass by the processor: what was placed goes on, what came in the gap is told to come again.
    assert long.good
    assert not [answer for answer in load.bad if answer.broken]
    for answer in load.bad:
        assert answer.status == 503
        assert answer.code in ("processor_unavailable", "not_ready")
        assert answer.retry_after == "1"
    assert load.bad, "nobody noticed: was it killed?"
    assert max(answer.done for answer in load.bad) < killed + 8
    assert min(answer.sent for answer in load.bad) > killed - 1


async def test_envoy_killed(stack: Stack, load: Load) -> None:
    old = stack.pid("envoy")
    async with load.going(30):
        await wait_for(load, _good, 50)
        os.kill(old, signal.SIGKILL)
        killed = load.now
        await _restarted(stack, lambda: stack.pid("envoy"), old)
        await wait_for(load, _good, 200)
    # Nobody is left to answer; all that can be asked is that nothing hangs and that it is back soon.
    assert load.bad
    assert all(answer.sent > killed - 2 for answer in load.bad)
    assert max(answer.done for answer in load.bad) < killed + 8
    assert not [answer for answer in load.bad if answer.error == "hung"]

    async def forgotten() -> bool:
        return await stack.in_flight() == 0

    await wait_until(forgotten, 10, interval=0.1, what="requests of the dead Envoy let go of")


async def test_told_to_end_under_load(stack: Stack, load: Load) -> None:
    """The last test: it ends the stack."""
    async with load.going(30):
        await wait_for(load, _good, 50)
        long = [load.ask(stream=stream, wanted=300) for stream in (True, False)]
        await wait_until(lambda: long[0].connected, 5)
        asked = load.now
        assert await stack.terminate() == 0
        ended = load.now
    assert all(answer.good for answer in long)
    refused = [answer for answer in load.bad if not answer.connected]
    assert load.bad == refused, "an answer that had begun was broken off"
    # Who had sent a request before is served; later ones may find nobody there.
    assert all(answer.sent > asked for answer in refused)
    assert ended - asked < 15
