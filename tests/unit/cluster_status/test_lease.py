"""Leader election in virtual time: whatever happens on the way to the server, no two lead at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_fake_api import FakeApi, Fault
from support_leases import Leases, Line
from support_net import wait_until
from support_virtual_time import run_virtually

from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.lease import Elector, State, Timing


def elector(line: Line, name: str, *, rate: float = 1.0, pauses: float = 0.0, **options: Any) -> Elector:
    """A replica whose clock runs at ``rate`` and whose event loop is stuck now and then."""
    loop = asyncio.get_running_loop()

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / rate)
        if line.rand.random() < pauses:
            await asyncio.sleep(line.rand.choice((1.0, 8.0, 30.0)))

    offset = line.rand.uniform(0, 1e6)
    return Elector(
        line,  # type: ignore[arg-type]
        "ns",
        "lease",
        name,
        clock=lambda: offset + loop.time() * rate,
        sleep=sleep,
        rand=line.rand.random,
        **options,
    )


async def stop(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool], limit: float) -> None:
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110  # virtual time
            await asyncio.sleep(0.05)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), replicas=st.integers(2, 4), trouble=st.sampled_from((0.0, 0.1, 0.4)))
def test_never_two_leaders_and_always_one_again(seed: int, replicas: int, trouble: float) -> None:
    async def play() -> None:
        rand, server = random.Random(seed), Leases()
        lines = [Line(server, random.Random(rand.random()), trouble) for _ in range(replicas)]
        electors = [
            elector(line, f"replica-{i}", rate=rand.uniform(0.9, 1.1), pauses=trouble / 8)
            for i, line in enumerate(lines)
        ]
        tasks = [asyncio.create_task(each.run()) for each in electors]
        loop, seen = asyncio.get_running_loop(), set()
        while loop.time() < 200:
            leaders = [each.identity for each in electors if each.leading]
            assert len(leaders) <= 1
            seen.update(leaders)
            if trouble and rand.random() < 0.005:
                line = rand.choice(lines)
                line.cut = not line.cut
            if trouble and rand.random() < 0.001:
                i = rand.randrange(replicas)  # a process that dies and comes back under its name
                await stop(tasks[i])
                electors[i] = elector(lines[i], f"replica-{i}")
                tasks[i] = asyncio.create_task(electors[i].run())
            await asyncio.sleep(rand.uniform(0.01, 0.3))
        for line in lines:
            line.cut, line.trouble = False, 0.0
        await until(lambda: any(each.leading for each in electors), 120)
        assert trouble or len(seen) == 1, "without trouble the first leader stays"
        await stop(*tasks)

    run_virtually(play())


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await story()

    run_virtually(run())


def test_a_clean_stop_hands_over_at_once() -> None:
    async def story() -> None:
        server, rand = Leases(), random.Random(1)
        first, second = (elector(Line(server, rand, 0.0), name) for name in ("a", "b"))
        one = asyncio.create_task(first.run())
        await until(lambda: first.leading, 1)
        two = asyncio.create_task(second.run())
        await asyncio.sleep(5)
        assert (first.state, second.state) == (State.LEADING, State.WAITING)
        await stop(one)
        assert first.state is State.STOPPED
        await until(lambda: second.leading, 3)
        assert server.stored["lease"]["spec"]["leaseTransitions"] == 1
        await stop(two)

    play(story)


def test_a_crashed_leader_is_followed_after_its_lease_is_over() -> None:
    async def story() -> None:
        server, rand = Leases(), random.Random(1)
        dead = Line(server, rand, 0.0)
        first, second = elector(dead, "a"), elector(Line(server, rand, 0.0), "b")
        tasks = [asyncio.create_task(first.run())]
        await until(lambda: first.leading, 1)
        tasks.append(asyncio.create_task(second.run()))
        await asyncio.sleep(3)
        loop = asyncio.get_running_loop()
        dead.cut, cut_at = True, loop.time()
        await until(lambda: not first.leading, 11)
        given_up = loop.time()
        await until(lambda: second.leading, 20)
        assert given_up - cut_at <= 10.1
        assert loop.time() > given_up + 2, "the follower waits for longer than the leader leads"
        await stop(*tasks)

    play(story)


def test_leading_ends_by_the_clock_alone() -> None:
    """A stuck event loop: nothing of the elector runs, and it does not lead any more."""

    async def story() -> None:
        now = 0.0
        rand = random.Random(1)
        line = Line(Leases(), rand, 0.0)
        stuck = asyncio.Event()

        async def sleep(seconds: float) -> None:
            await stuck.wait()

        each = Elector(line, "ns", "lease", "a", clock=lambda: now, sleep=sleep)  # type: ignore[arg-type]
        task = asyncio.create_task(each.run())
        await until(lambda: each.leading, 1)
        now = 9.9
        assert each.leading
        now = 10.1
        assert not each.leading
        await stop(task)

    play(story)


def test_changes_are_told_once_each() -> None:
    async def story() -> None:
        told: list[bool] = []
        line = Line(Leases(), random.Random(1), 0.0)
        each = elector(line, "a", on_change=told.append)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(30)
        line.cut = True
        await asyncio.sleep(30)
        line.cut = False
        await asyncio.sleep(30)
        await stop(task)
        assert told == [True, False, True, False]

    play(story)


def test_somebody_elses_lease_with_nonsense_in_it_is_respected_for_a_while_only() -> None:
    async def story() -> None:
        server = Leases()
        server.handle(
            "POST",
            "x",
            {"metadata": {"name": "lease"}, "spec": {"holderIdentity": "who", "leaseDurationSeconds": 10**9}},
        )
        each = elector(Line(server, random.Random(1), 0.0), "a")
        task = asyncio.create_task(each.run())
        await asyncio.sleep(3000)
        assert not each.leading
        assert each.holder == "who"
        await asyncio.sleep(700)
        assert each.leading
        await stop(task)

    play(story)


def test_two_processes_of_one_name_are_two() -> None:
    async def story() -> None:
        line = Line(Leases(), random.Random(1), 0.0)
        assert elector(line, "pod").identity != elector(line, "pod").identity

    play(story)


def test_times_that_would_allow_two_leaders_are_refused() -> None:
    with pytest.raises(ValueError, match="retry < deadline < duration"):
        Timing(duration=10, deadline=10)


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}"])
async def test_what_is_no_lease_is_not_taken(api: FakeApi, client: ApiClient, answer: bytes) -> None:
    api.faults += [Fault(body=answer, path="/lease") for _ in range(2)]
    mine = Elector(client, "ns", "lease", "me", timing=Timing(duration=3, deadline=2.0, retry=0.01))
    task = asyncio.create_task(mine.run())
    await wait_until(lambda: mine.failures == 2)
    assert not mine.leading
    assert {method for method, _, _ in api.requests} == {"GET"}
    await wait_until(lambda: mine.leading, what="the next answer is a good one")
    await stop(task)
