"""Exactly the wanted Secrets, and no more of them than are allowed."""

import asyncio
import base64

from support_fake_api import FakeApi, Fault
from support_net import wait_until

from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.listwatch import Times
from ralb_operator.cluster.secrets import SecretWatches
from ralb_operator.cluster.store import Store

PATH = "/api/v1/namespaces/ns/secrets"
QUICK = Times(first=0.01, most=0.05, slow=0.05)
VALUE = base64.b64encode(b"hush-hush").decode()


def wanted(*names: str) -> frozenset[tuple[str, str]]:
    return frozenset(("ns", name) for name in names)


def held(store: Store) -> set[str]:
    return {entry.key.name for entry in store.entries("Secret")}


async def test_each_is_asked_for_by_name(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", data={"k": VALUE})
    api.put(PATH, "b", data={"k": VALUE})
    store = Store()
    watches = SecretWatches(client, store, lambda: None, times=QUICK)
    try:
        watches.want(wanted("a", "c"))
        assert watches.pending == ["ns/a", "ns/c"]
        await wait_until(lambda: not watches.pending)
        assert held(store) == {"a"}
        assert not watches.unreadable()
        api.put(PATH, "c", data={"k": VALUE})
        await wait_until(lambda: held(store) == {"a", "c"})
        watches.want(wanted("c"))
        assert held(store) == {"c"}
        await wait_until(lambda: api.watching == 1)
    finally:
        await watches.stop()
    asked = {query["fieldSelector"] for _, path, query in api.requests if path == PATH}
    assert asked == {"metadata.name=a", "metadata.name=c"}
    assert "hush-hush" not in repr(list(store.entries("Secret")))


async def test_their_number_is_bounded_and_the_first_stay(api: FakeApi, client: ApiClient) -> None:
    api.objects[PATH] = {}
    watches = SecretWatches(client, Store(), lambda: None, limit=3, times=QUICK)
    try:
        watches.want(wanted("m", "n"))
        watches.want(wanted("a", "b", "c", "m", "n"))
        await wait_until(lambda: not watches.pending)
        assert set(watches.unreadable()) == wanted("b", "c")
        assert all("more than 3 Secrets" in why for why in watches.unreadable().values())
        assert len(watches.follows()) == 3
        # Room is given to those who waited.
        watches.want(wanted("b", "c", "m"))
        await wait_until(lambda: not watches.pending and not watches.unreadable())
    finally:
        await watches.stop()


async def test_refused_ones_are_explained_and_tried_again(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a", data={"k": VALUE})
    api.faults += [Fault(403, "Forbidden")] * 2
    store, changed = Store(), asyncio.Event()
    watches = SecretWatches(client, store, changed.set, times=QUICK)
    try:
        watches.want(wanted("a"))
        await wait_until(lambda: "may not read it" in watches.unreadable().get(("ns", "a"), ""))
        assert not watches.pending
        await wait_until(lambda: held(store) == {"a"})
        await wait_until(lambda: not watches.unreadable())
    finally:
        await watches.stop()
