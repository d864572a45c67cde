"""Whatever goes wrong on the way, what a ListWatch tells of ends as what the server has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support_fake_api import FakeApi, Fault
from support_net import wait_until

from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.listwatch import Item, ListWatch, State, Times

PATH = "/api/v1/pods"
OLD_PATH = "/apis/g/v1beta1/things"
NEW_PATH = "/apis/g/v1/things"
QUICK = Times(first=0.01, most=0.05, slow=0.05, inactivity=5.0, vanished=0.2)


class Followed:
    """What was told, as a mirror of the server: name -> content."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.replaces = 0
        self.states: list[tuple[State, str]] = []
        self.follow: ListWatch[Any]

    def replace(self, items: list[Item[Any]], version: str) -> None:
        self.replaces += 1
        self.known = {item.name: item.value for item in items}

    def change(self, kind: str, item: Item[Any]) -> None:
        if kind == "DELETED":
            self.known.pop(item.name, None)
        else:
            self.known[item.name] = item.value

    def state(self) -> None:
        self.states.append((self.follow.state, self.follow.message))


@asynccontextmanager
async def following(client: ApiClient, path: Any = PATH, **options: Any) -> AsyncIterator[Followed]:
    found = Followed()
    found.follow = ListWatch(
        client,
        path,
        name="things",
        transform=lambda data: data.get("spec"),
        on_replace=found.replace,
        on_change=found.change,
        on_state=found.state,
        **{"times": QUICK, **options},
    )
    task = asyncio.create_task(found.follow.run())
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_what_is_there_and_what_happens(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", spec=1)
    async with following(client) as found:
        await found.follow.wait_synced()
        assert found.known == {"a": 1}
        api.put(PATH, "b", spec=2)
        api.put(PATH, "a", spec=3)
        await wait_until(lambda: found.known == {"a": 3, "b": 2})
        api.delete(PATH, "a")
        await wait_until(lambda: found.known == {"b": 2})
        assert found.replaces == 1
    assert api.count(PATH, watch=False) == 1


async def test_lists_come_in_chunks(api: FakeApi, client: ApiClient) -> None:
    api.page = 3
    for number in range(10):
        api.put(PATH, f"n{number}", spec=number)
    async with following(client) as found:
        await found.follow.wait_synced()
        assert len(found.known) == 10
        assert found.replaces == 1
    assert api.count(PATH, watch=False) == 4


async def test_an_expired_token_starts_the_list_again(api: FakeApi, client: ApiClient) -> None:
    api.page = 1
    for number in range(3):
        api.put(PATH, f"n{number}", spec=number)

    seen: list[str] = []

    def expire(query: dict[str, str]) -> None:
        seen.append(query.get("continue", ""))
        if len(seen) == 2:
            api.expire_tokens()
            # What is gone by then must not be in the new list.
            api.delete(PATH, "n0")

    api.before = expire
    async with following(client) as found:
        await found.follow.wait_synced()
        assert found.known == {"n1": 1, "n2": 2}
        assert found.replaces == 1


async def test_a_gap_replaces(api: FakeApi, client: ApiClient) -> None:
    for name in "abcd":
        api.put(PATH, name, spec=name)
    async with following(client) as found:
        await found.follow.wait_synced()
        await wait_until(lambda: api.watching)
        api.faults.append(Fault(503, "ServiceUnavailable", watch=True))
        api.cut()
        api.delete(PATH, "a")
        api.delete(PATH, "b")
        api.put(PATH, "e", spec="e")
        api.gap()
        await wait_until(lambda: found.known == {"c": "c", "d": "d", "e": "e"})
        assert found.replaces == 2


async def test_a_broken_watch_goes_on_where_it_was(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", spec=1)
    async with following(client) as found:
        await found.follow.wait_synced()
        for round_ in range(5):
            await wait_until(lambda: api.watching)
            api.cut()
            api.put(PATH, "a", spec=round_)
            await wait_until(lambda at=round_: found.known == {"a": at})
        assert found.replaces == 1


async def test_bookmarks_move_on(api: FakeApi, client: ApiClient) -> None:
    """A quiet kind does not have to be listed again after others made history move on."""
    api.put(PATH, "a", spec=1)
    api.bookmarks = 0.02
    async with following(client) as found:
        await found.follow.wait_synced()
        await wait_until(lambda: api.watching)
        api.put("/other", "x")
        version = api.version
        await wait_until(lambda: found.follow._version == str(version))
        api.gap()
        watches = found.follow.counts.watches
        api.cut()
        await wait_until(lambda: found.follow.counts.watches > watches and api.watching)
        assert found.replaces == 1


async def test_a_server_that_went_back_in_time_is_listed(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", spec=1)
    async with following(client) as found:
        await found.follow.wait_synced()
        await wait_until(lambda: api.watching)
        api.rewind(50)
        api.objects[PATH].clear()
        api.put(PATH, "b", spec=2)
        api.bookmarks = 0.02
        api.cut()
        await wait_until(lambda: found.known == {"b": 2})


async def test_silence_is_noticed(api: FakeApi, client: ApiClient) -> None:
    api.objects[PATH] = {}
    async with following(client, times=Times(first=0.01, most=0.05, inactivity=0.05)) as found:
        # In between it may count as failing: such short watches are no better than none. Each that is opened is well again.
        await wait_until(lambda: found.follow.counts.watches > 3 and found.follow.state is State.SYNCED)


async def test_hanging_watches_do_not_hide_a_change(api: FakeApi, client: ApiClient) -> None:
    api.objects[PATH] = {}
    api.faults += [Fault(hang=True, watch=True)]
    async with following(client, times=Times(first=0.01, most=0.05, inactivity=0.1)) as found:
        await found.follow.wait_synced()
        api.put(PATH, "a", spec=1)
        await wait_until(lambda: found.known == {"a": 1})


async def test_forbidden_is_a_state(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", spec=1)
    api.faults += [Fault(403, "Forbidden")] * 3
    async with following(client) as found:
        await wait_until(lambda: found.follow.state is State.FORBIDDEN)
        assert not found.follow.synced
        assert "Forbidden it is" in found.follow.message
        await wait_until(lambda: found.follow.synced)
        assert found.follow.state is State.SYNCED
        assert found.known == {"a": 1}


async def test_forbidden_later_keeps_what_is_known(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", spec=1)
    async with following(client) as found:
        await found.follow.wait_synced()
        await wait_until(lambda: api.watching)
        api.faults += [Fault(403, "Forbidden") for _ in range(100)]
        api.cut()
        await wait_until(lambda: found.follow.state is State.FORBIDDEN)
        assert found.known == {"a": 1}
        assert found.follow.synced


async def test_an_optional_kind_may_be_missing(api: FakeApi, client: ApiClient) -> None:
    async with following(client, optional=True) as found:
        await found.follow.wait_synced()
        assert found.follow.state is State.MISSING
        api.put(PATH, "a", spec=1)
        await wait_until(lambda: found.known == {"a": 1})
        assert found.follow.state is State.SYNCED


async def test_a_required_kind_may_not(api: FakeApi, client: ApiClient) -> None:
    async with following(client) as found:
        await wait_until(lambda: found.follow.state is State.MISSING)
        assert not found.follow.synced
        assert found.replaces == 0
        api.put(PATH, "a", spec=1)
        await found.follow.wait_synced()
        assert found.known == {"a": 1}


async def test_a_kind_that_vanishes_for_a_moment_is_kept(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", spec=1)
    async with following(client, times=Times(first=0.01, most=0.05, slow=0.05, vanished=60)) as found:
        await found.follow.wait_synced()
        await wait_until(lambda: api.watching)
        kept, api.objects = api.objects, {}
        api.cut()
        await wait_until(lambda: found.follow.state is State.FAILING)
        assert found.known == {"a": 1}
        api.objects = kept
        await wait_until(lambda: found.follow.state is State.SYNCED)


async def test_a_kind_that_vanishes_for_good_is_gone(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", spec=1)
    async with following(client) as found:
        await found.follow.wait_synced()
        await wait_until(lambda: api.watching)
        api.objects = {}
        api.cut()
        await wait_until(lambda: found.follow.state is State.MISSING)
        assert found.known == {}


async def test_the_best_known_version_is_used(api: FakeApi, client: ApiClient) -> None:
    api.put(OLD_PATH, "a", spec=1)
    async with following(client, path=(NEW_PATH, OLD_PATH), optional=True) as found:
        await found.follow.wait_synced()
        assert found.known == {"a": 1}
        await wait_until(lambda: api.watching)
        api.objects[NEW_PATH] = api.objects.pop(OLD_PATH)
        api.put(NEW_PATH, "b", spec=2)
        api.cut()
        await wait_until(lambda: found.known == {"a": 1, "b": 2})


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"items": []}', b'{"metadata": {"resourceVersion": 5}, "items": []}', b"<html>"],
)
async def test_a_list_that_is_none_is_asked_for_again(api: FakeApi, client: ApiClient, body: bytes) -> None:
    api.put(PATH, "a", spec=1)
    api.faults.append(Fault(body=body))
    async with following(client) as found:
        await found.follow.wait_synced()
        assert found.known == {"a": 1}
        assert found.replaces == 1


async def test_odd_items_do_not_hide_others(api: FakeApi, client: ApiClient) -> None:
    items = b'[1, {}, {"metadata": 3}, {"metadata": {"name": ""}}, {"metadata": {"name": "a"}, "spec": 1}]'
    api.objects[PATH] = {}
    api.faults.append(Fault(body=b'{"metadata": {"resourceVersion": "100"}, "items": ' + items + b"}"))
    async with following(client) as found:
        await found.follow.wait_synced()
        assert found.known == {"a": 1}
        assert found.follow.counts.bad_items == 4


async def test_lists_too_old_for_watches_do_not_spin(api: FakeApi, client: ApiClient) -> None:
    """410 on every watch: lists go on, further and further apart, and never as fast as they can."""
    api.put(PATH, "a", spec=1)
    api.compacted = 10**9
    slept: list[float] = []
    async with following(client, times=Times(first=0.01, most=0.02)) as found:
        plain = found.follow._after

        def noted(error: Any) -> float:
            slept.append(plain(error))
            return slept[-1]

        found.follow._after = noted  # type: ignore[method-assign]
        await wait_until(lambda: len(slept) >= 4)
    assert min(slept[1:]) > 0


async def test_watches_that_end_at_once_do_not_spin(api: FakeApi, client: ApiClient) -> None:
    api.objects[PATH] = {}
    api.faults += [Fault(body=b"", watch=True) for _ in range(1000)]
    async with following(client) as found:
        await wait_until(lambda: found.follow.state is State.FAILING)
        assert found.follow.counts.watches < 10


async def test_a_defect_in_a_callback_does_not_end_it(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", spec=1)
    async with following(client) as found:
        await found.follow.wait_synced()
        await wait_until(lambda: api.watching)
        broken = [True]

        def change(kind: str, item: Item[Any]) -> None:
            if broken.pop() if broken else False:
                raise KeyError("defect")
            found.change(kind, item)

        found.follow._on_change = change
        api.put(PATH, "a", spec=2)
        await wait_until(lambda: found.known == {"a": 2})


async def test_selectors_are_sent(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", spec=1)
    api.put(PATH, "b", spec=2)
    async with following(client, field_selector="metadata.name=b", label_selector="x=y") as found:
        await found.follow.wait_synced()
        assert found.known == {"b": 2}
        await wait_until(lambda: api.watching)
        api.put(PATH, "a", spec=3)
        api.put(PATH, "b", spec=4)
        await wait_until(lambda: found.known == {"b": 4})
    assert all(query["labelSelector"] == "x=y" for _, _, query in api.requests)
