"""Our own kinds without kopf's help, against its silence, and its end."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support_fake_api import FakeApi, Fault
from support_net import wait_until

from ralb_operator.cluster import kopf_thread, watch_objects
from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.credentials import CredentialsSource
from ralb_operator.cluster.kinds import OURS
from ralb_operator.cluster.listwatch import Times
from ralb_operator.cluster.store import Store
from ralb_operator.cluster.watch_objects import Follower, OwnObjects

(POOL,) = (kind for kind in OURS if kind.name == "ModelPool")
(PATH,) = POOL.paths()
QUICK = Times(first=0.01, most=0.05, slow=0.05, inactivity=5.0, vanished=0.2)
SPEC = {
    "model": {"name": "m", "contextWindow": 1000},
    "backend": {"pods": {"selector": {"matchLabels": {"a": "b"}}, "port": 8000, "engine": "vLLM"}},
}


def names(store: Store) -> set[str]:
    return {entry.key.name for entry in store.entries("ModelPool")}


@asynccontextmanager
async def following(client: ApiClient, store: Store) -> AsyncIterator[Follower]:
    follower = Follower(client, store, POOL, "", lambda: None, QUICK)
    tasks = [asyncio.create_task(follower.run()), asyncio.create_task(follower.witness.run())]
    try:
        yield follower
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_nobody_tells_of_is_found(api: FakeApi, client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf is silent: creations and changes are listed a moment later, deletions go at once."""
    monkeypatch.setattr(watch_objects, "TOLD_S", 0.05)
    store = Store()
    api.put(PATH, "a", spec=SPEC)
    async with following(client, store) as follower:
        await follower.listed.wait()
        assert names(store) == {"a"}
        await wait_until(lambda: api.watching)
        api.put(PATH, "b", spec=SPEC)
        await wait_until(lambda: names(store) == {"a", "b"})
        api.put(PATH, "b", spec={**SPEC, "role": "x"})
        await wait_until(lambda: [entry.generation for entry in store.entries("ModelPool")] == [1, 2])
        assert follower.overtaken == 2
        lists = api.count(PATH, watch=False)
        api.delete(PATH, "b")
        await wait_until(lambda: names(store) == {"a"})
        assert api.count(PATH, watch=False) == lists


async def test_what_kopf_tells_in_time_is_not_listed(
    api: FakeApi, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_objects, "TOLD_S", 0.1)
    store = Store()
    api.objects[PATH] = {}
    async with following(client, store) as follower:
        await follower.listed.wait()
        await wait_until(lambda: api.watching)
        lists = api.count(PATH, watch=False)
        follower.take("ADDED", api.put(PATH, "a", spec=SPEC))
        events = follower.witness.counts
        await wait_until(lambda: events.events == 1)
        # A change of the status only is of interest to nobody.
        api.put(PATH, "a", spec=SPEC, status={"x": 1})
        await wait_until(lambda: events.events == 2)
        await asyncio.get_running_loop().run_in_executor(None, threading.Event().wait, 0.2)
        assert api.count(PATH, watch=False) == lists
        assert follower.overtaken == 0


async def test_the_last_one_vanishes_in_a_gap(api: FakeApi, client: ApiClient) -> None:
    """Where kopf tells nothing at all: there are no survivors to tell of."""
    store = Store()
    api.put(PATH, "a", spec=SPEC)
    async with following(client, store) as follower:
        await follower.listed.wait()
        await wait_until(lambda: api.watching)
        api.faults.append(Fault(503, "ServiceUnavailable", watch=True))
        api.cut()
        api.delete(PATH, "a")
        api.gap()
        await wait_until(lambda: not names(store))


async def test_late_events_of_kopf_do_not_raise_the_dead(api: FakeApi, client: ApiClient) -> None:
    store = Store()
    told = api.put(PATH, "a", spec=SPEC)
    async with following(client, store) as follower:
        await follower.listed.wait()
        await wait_until(lambda: api.watching)
        api.delete(PATH, "a")
        await wait_until(lambda: not names(store))
        follower.take(None, told)
        follower.take("MODIFIED", told)
        assert not names(store)


async def test_a_changed_status_is_kept_and_sets_nothing_in_motion(client: ApiClient, api: FakeApi) -> None:
    store = Store()
    follower = Follower(client, store, POOL, "", lambda: None, QUICK)
    follower.take(None, api.put(PATH, "a", spec=SPEC))
    (before,) = store.entries("ModelPool")
    store.dirty.clear()
    follower.take("MODIFIED", api.put(PATH, "a", spec=SPEC, status={"x": 1}))
    (after,) = store.entries("ModelPool")
    assert not store.dirty.is_set()
    assert after.status == {"x": 1}
    assert after.value is before.value
    follower.take("MODIFIED", api.put(PATH, "a", spec=SPEC, metadata={"labels": {"x": "y"}}))
    assert store.dirty.is_set()


@pytest.mark.parametrize("data", [{}, {"metadata": None}, {"metadata": {"name": ""}}, {"metadata": 3}])
async def test_odd_events_are_ignored(client: ApiClient, data: dict[str, Any]) -> None:
    store = Store()
    Follower(client, store, POOL, "", lambda: None, QUICK).take("ADDED", data)
    assert not names(store)


async def test_invalid_objects_are_kept_with_their_problems(client: ApiClient, api: FakeApi) -> None:
    store = Store()
    follower = Follower(client, store, POOL, "", lambda: None, QUICK)
    follower.take("ADDED", api.put(PATH, "a", spec={"model": {}}))
    (entry,) = store.entries("ModelPool")
    assert entry.value is None
    assert entry.problems
    assert entry.generation == 1


async def test_its_end_ends_everything(
    api: FakeApi, client: ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("kopf has a bad day")

    monkeypatch.setattr(kopf_thread, "run_kopf", broken)
    for kind in OURS:
        api.objects[kind.paths()[0]] = {}
    own = OwnObjects(client, CredentialsSource(api.kubeconfig(tmp_path)), Store(), (), times=QUICK)
    with pytest.raises(ExceptionGroup) as caught:
        await own.run()
    (error,) = caught.value.exceptions
    assert str(error) == "kopf failed: ZeroDivisionError: kopf has a bad day"


async def test_it_starts_when_all_is_listed_and_is_stopped(
    api: FakeApi, client: ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Callable[..., None]] = []

    def patient(source: Any, namespaces: Any, take: Callable[..., None], stop: threading.Event) -> None:
        seen.append(take)
        take("ModelPool", "ns", "ADDED", api.put(PATH, "a", spec=SPEC))
        stop.wait()

    monkeypatch.setattr(kopf_thread, "run_kopf", patient)
    *first, last = (kind.paths()[0] for kind in OURS)
    for path in first:
        api.objects[path] = {}
    store = Store()
    own = OwnObjects(client, CredentialsSource(api.kubeconfig(tmp_path)), store, (), times=QUICK)
    task = asyncio.create_task(own.run())
    await wait_until(lambda: len(own.not_ready()) == 1 and "missing" in own.not_ready()[0])
    assert not seen
    api.objects[last] = {}
    await wait_until(lambda: names(store) == {"a"})
    assert not own.not_ready()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert not any(thread.name == "kopf" for thread in threading.enumerate())


async def test_kopf_that_went_deaf_is_begun_anew(
    api: FakeApi, client: ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused watch of kopf's ends for good: without a new kopf every edit would be found by a list, a second late."""
    monkeypatch.setattr(watch_objects, "TOLD_S", 0.02)
    monkeypatch.setattr(watch_objects, "DEAF_S", 0.05)
    takes: list[Callable[..., None]] = []

    def silent(source: Any, namespaces: Any, take: Callable[..., None], stop: threading.Event) -> None:
        takes.append(take)
        stop.wait()

    monkeypatch.setattr(kopf_thread, "run_kopf", silent)
    for kind in OURS:
        api.objects[kind.paths()[0]] = {}
    store = Store()
    own = OwnObjects(client, CredentialsSource(api.kubeconfig(tmp_path)), store, (), times=QUICK)
    task = asyncio.create_task(own.run())
    await wait_until(lambda: takes and api.watching == len(OURS))
    api.put(PATH, "a", spec=SPEC)
    await wait_until(lambda: len(takes) == 2, what="kopf is begun anew")
    # The old one is not listened to any more, the new one is.
    takes[0]("ModelPool", "ns", "ADDED", {"metadata": {"name": "x", "namespace": "ns", "resourceVersion": "9998"}})
    takes[1]("ModelPool", "ns", "ADDED", {"metadata": {"name": "y", "namespace": "ns", "resourceVersion": "9999"}})
    await wait_until(lambda: names(store) == {"a", "y"})
    assert own.kopf_starts == 2
    assert sum(thread.name == "kopf" for thread in threading.enumerate()) == 1
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert not any(thread.name == "kopf" for thread in threading.enumerate())


async def test_kopf_that_is_late_only_goes_on(api: FakeApi, client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_objects, "TOLD_S", 0.02)
    monkeypatch.setattr(watch_objects, "DEAF_S", 0.05)
    deaf: list[bool] = []
    api.objects[PATH] = {}
    store = Store()
    follower = Follower(client, store, POOL, "", lambda: None, QUICK, lambda: deaf.append(True))
    tasks = [asyncio.create_task(follower.run()), asyncio.create_task(follower.witness.run())]
    await wait_until(lambda: api.watching)
    made = api.put(PATH, "a", spec=SPEC)
    await wait_until(lambda: follower.overtaken == 1)
    follower.take("ADDED", made)
    await wait_until(lambda: not follower._listening)
    assert not deaf
    api.put(PATH, "b", spec=SPEC)
    await wait_until(lambda: deaf)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
