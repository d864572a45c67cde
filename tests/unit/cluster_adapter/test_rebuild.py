"""Debouncing and retries, in virtual time."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_virtual_time import run_virtually

from ralb_operator.cluster.rebuild import Debounce, Rebuilder


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=40))
def test_a_burst_is_built_once_it_is_quiet_and_never_later_than_the_cap(gaps: list[float]) -> None:
    debounce = Debounce(quiet=0.1, cap=1.0)
    now, first, last = 0.0, None, 0.0
    for gap in gaps:
        now += gap
        due = debounce.due
        if due is not None and due <= now:
            assert due == pytest.approx(min(last + 0.1, first + 1.0))
            debounce.taken()
            first = None
        debounce.changed(now)
        first = now if first is None else first
        last = now
    assert debounce.due == pytest.approx(min(last + 0.1, first + 1.0))


def test_nothing_to_build() -> None:
    assert Debounce().due is None


def virtually(
    scenario: Callable[[asyncio.Event, list[float]], Coroutine[Any, Any, None]],
    outcomes: list[bool | Exception] | None = None,
    takes: float = 0.0,
) -> tuple[list[float], Rebuilder]:
    """Run a scenario; returns when the builds began."""
    builds: list[float] = []
    left = list(outcomes or [])

    async def main() -> Rebuilder:
        loop = asyncio.get_running_loop()
        dirty = asyncio.Event()

        async def build() -> bool:
            builds.append(round(loop.time(), 3))
            await asyncio.sleep(takes)
            outcome = left.pop(0) if left else True
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        rebuilder = Rebuilder(dirty, build)
        task = asyncio.create_task(rebuilder.run())
        await scenario(dirty, builds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return rebuilder

    rebuilder = run_virtually(main())
    return builds, rebuilder


def test_one_change_is_built_after_the_quiet_time() -> None:
    async def scenario(dirty: asyncio.Event, builds: list[float]) -> None:
        await asyncio.sleep(5)
        dirty.set()
        await asyncio.sleep(60)

    assert virtually(scenario)[0] == [5.1]


def test_a_storm_is_built_once_a_second() -> None:
    async def scenario(dirty: asyncio.Event, builds: list[float]) -> None:
        for _ in range(300):
            dirty.set()
            await asyncio.sleep(0.01)
        await asyncio.sleep(10)

    builds, _ = virtually(scenario)
    assert builds[0] == 1.0
    assert len(builds) == 3 or len(builds) == 4
    assert builds[-1] <= 3.1


def test_a_change_during_a_build_is_built_after_it() -> None:
    async def scenario(dirty: asyncio.Event, builds: list[float]) -> None:
        dirty.set()
        await asyncio.sleep(1)
        dirty.set()
        await asyncio.sleep(60)

    assert virtually(scenario, takes=3.0)[0] == [0.1, 3.2]


def test_what_is_held_is_tried_again_further_and_further_apart() -> None:
    async def scenario(dirty: asyncio.Event, builds: list[float]) -> None:
        dirty.set()
        await asyncio.sleep(1000)

    builds, rebuilder = virtually(scenario, [False] * 9)
    gaps = [after - before for before, after in itertools.pairwise(builds)]
    assert len(builds) == 10
    assert not rebuilder.again
    assert 0.8 <= gaps[0] <= 1.0
    assert all(gap <= 30.0 for gap in gaps)
    assert gaps[-1] >= 24.0


def test_a_change_does_not_wait_for_the_next_try() -> None:
    async def scenario(dirty: asyncio.Event, builds: list[float]) -> None:
        dirty.set()
        await asyncio.sleep(20)
        tried = len(builds)
        dirty.set()
        await asyncio.sleep(0.2)
        assert len(builds) == tried + 1

    virtually(scenario, [False] * 5)


def test_a_failure_does_not_end_it_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(dirty: asyncio.Event, builds: list[float]) -> None:
        dirty.set()
        await asyncio.sleep(100)

    with caplog.at_level(logging.ERROR):
        builds, rebuilder = virtually(scenario, [ValueError("one")] * 3 + [ValueError("two")])
    assert len(builds) == 5
    assert rebuilder.failures == 4
    assert rebuilder.last_error == ""
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["one", "two"]
