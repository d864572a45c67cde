"""RALB's own kinds: kopf tells of changes, our own lists and a watch of bare metadata tell what is really there.

kopf runs in a thread with a loop of its own, because its ``operator()`` cancels every task of the loop it ends on. Only its
low-level ``on.event`` is used: nothing is ever written on users' objects.

The trap: after a broken watch kopf lists again and tells of the survivors, never of what vanished, and it tells nothing at all
when nothing survived. So objects are taken out of the store by a watch of metadata (a few hundred bytes per change), which lists
and replaces after a gap; and when it knows of a generation that kopf has not told of a second later, the kind is listed. Where
kopf goes on saying nothing it is begun anew: a refusal (rights or a CRD that were away for a moment) ends its watch for good.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ralb_api.problems import ObjectKey
from ralb_operator.cluster.client import ApiClient, ApiError
from ralb_operator.cluster.credentials import CredentialsError, CredentialsSource
from ralb_operator.cluster.kinds import OURS, Kind, identity, unchanged
from ralb_operator.cluster.listwatch import CHUNK, Item, ListWatch, State, Times
from ralb_operator.cluster.store import Store

_LOG = logging.getLogger(__name__)

RESYNC_S: Final = 300.0
# How long kopf may take to tell of a change that the metadata shows.
TOLD_S: Final = 1.0
# How long after such a change it may say nothing of that kind at all, before it counts as deaf. It waits 5 s for a server.
DEAF_S: Final = 15.0
_JOIN_S: Final = 15.0


class Follower:
    """One of our kinds in one scope: the metadata watch, the lists, and what kopf tells.

    Args:
        client: how to reach the server.
        store: what to keep up to date.
        kind: which.
        namespace: where; "" = everywhere.
        on_state: called when ``not_ready`` may have changed.
        times: how patient to be.
        on_deaf: called when kopf does not tell of this kind any more.
    """

    def __init__(
        self,
        client: ApiClient,
        store: Store,
        kind: Kind,
        namespace: str,
        on_state: Callable[[], None],
        times: Times | None = None,
        on_deaf: Callable[[], None] = lambda: None,
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.listed = asyncio.Event()
        self.overtaken = 0
        self._client = client
        self._store = store
        self._on_state = on_state
        self._on_deaf = on_deaf
        self._told_of = 0
        self._listening = False
        self._asked = asyncio.Event()
        self._problem = ""
        self._path = kind.paths(namespace)[0]
        self.witness: ListWatch[int] = ListWatch(
            client,
            self._path,
            name=kind.title + (f" in namespace {namespace}" if namespace else ""),
            transform=identity,
            on_replace=self._seen_all,
            on_change=self._seen,
            on_state=on_state,
            metadata_only=True,
            times=times,
        )

    @property
    def not_ready(self) -> str:
        """Why it is not fully known yet; "" when it is."""
        if self.listed.is_set():
            return ""
        where = f"{self.kind.title}" + (f" in namespace {self.namespace}" if self.namespace else "")
        if self.witness.state in (State.FORBIDDEN, State.MISSING, State.FAILING):
            return f"{where}: {self.witness.state}: {self.witness.message}"
        return f"{where}: {self._problem}" if self._problem else where

    def ask(self) -> None:
        """List soon."""
        self._asked.set()

    async def run(self) -> None:
        """List when asked, after gaps, and now and then; returns only by cancellation."""
        failures = 0
        while True:
            try:
                async with asyncio.timeout(RESYNC_S):
                    await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()
            try:
                await self._list()
                failures = 0
            except (ApiError, CredentialsError) as error:
                self._problem = str(error)
                self._on_state()
                failures += 1
                self._asked.set()
                await asyncio.sleep(min(0.2 * 2.0 ** min(failures, 8), 15.0))

    def take(self, event_type: str | None, data: Mapping[str, Any]) -> None:
        """An event of kopf's; ``event_type`` None for objects it listed."""
        self._told_of += 1
        metadata = data.get("metadata")
        if not isinstance(metadata, Mapping) or not metadata.get("name"):
            return
        key = ObjectKey(self.kind.name, str(metadata.get("namespace") or ""), str(metadata["name"]))
        version = str(metadata.get("resourceVersion") or "")
        if event_type == "DELETED":
            self._store.drop(key, str(metadata.get("uid") or ""), version, self.namespace)
            return
        known = self._store.get(key)
        if known is not None and unchanged(known, data):
            status = data.get("status")
            entry = replace(known, version=version, status=status if isinstance(status, Mapping) else {})
        else:
            entry = self.kind.entry(data)
        self._store.put(entry, self.namespace)

    async def _list(self) -> None:
        since = self._store.newest(self.kind.name, self.namespace)
        entries, version, params = [], "", {"limit": str(CHUNK)}
        while True:
            page = await self._client.request("GET", self._path, params=params)
            metadata = page.get("metadata") if isinstance(page, dict) else None
            if not isinstance(metadata, dict) or not isinstance(page.get("items"), list):
                raise ApiError(0, "Unreadable", f"the list at {self._path} is none")
            version = str(metadata.get("resourceVersion") or "")
            entries += [self.kind.entry(item) for item in page["items"] if isinstance(item, dict)]
            if not metadata.get("continue"):
                break
            # A token that expires fails the list, and the list is then begun again.
            params["continue"] = str(metadata["continue"])
        self._store.replace(self.kind.name, entries, version, self.namespace, since)
        if not self.listed.is_set():
            self.listed.set()
            self._on_state()

    def _seen_all(self, items: list[Item[int]], version: str) -> None:
        # The start, or a gap. The full list that is asked for replaces everything; until then what vanished goes at once.
        there = {(item.namespace, item.name) for item in items}
        gone = [
            entry.key
            for entry in self._store.entries(self.kind.name)
            if (entry.key.namespace, entry.key.name) not in there and self.namespace in ("", entry.key.namespace)
        ]
        for key in gone:
            self._store.drop(key, version=version, scope=self.namespace)
        if version:  # of a kind that is not there, there is nothing to list
            self.ask()

    def _seen(self, event_type: str, item: Item[int]) -> None:
        key = ObjectKey(self.kind.name, item.namespace, item.name)
        if event_type == "DELETED":
            self._store.drop(key, item.uid, item.version, self.namespace)
        elif not self._told(key, item):
            asyncio.get_running_loop().call_later(TOLD_S, self._check, key, item)

    def _told(self, key: ObjectKey, item: Item[int]) -> bool:
        known = self._store.get(key)
        return known is not None and known.uid == item.uid and known.generation >= item.value

    def _check(self, key: ObjectKey, item: Item[int]) -> None:
        if not self._told(key, item):
            self.overtaken += 1
            self.ask()
            if not self._listening:
                self._listening = True
                asyncio.get_running_loop().call_later(DEAF_S, self._heard, self._told_of)

    def _heard(self, told_of: int) -> None:
        self._listening = False
        if self._told_of == told_of:
            self._on_deaf()


class OwnObjects:
    """All of our kinds, in all scopes, and kopf.

    Args:
        client: how to reach the server.
        source: credentials for kopf.
        store: what to keep up to date.
        namespaces: where; none = everywhere.
        on_state: called when ``not_ready`` may have changed.
        times: how patient to be.

    Attributes:
        followers: by kind and scope.
        kopf_starts: how often kopf was begun.
    """

    def __init__(
        self,
        client: ApiClient,
        source: CredentialsSource,
        store: Store,
        namespaces: Sequence[str],
        on_state: Callable[[], None] = lambda: None,
        times: Times | None = None,
    ) -> None:
        self.kopf_ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._source = source
        self._namespaces = tuple(namespaces)
        self.followers = {
            (kind.name, namespace): Follower(client, store, kind, namespace, on_state, times, self._is_deaf)
            for kind in OURS
            for namespace in (self._namespaces or ("",))
        }
        self.kopf_starts = 0
        self._deaf = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def not_ready(self) -> list[str]:
        """What is not listed yet, and why."""
        return [why for follower in self.followers.values() if (why := follower.not_ready)]

    async def run(self) -> None:
        """Follow everything until cancelled.

        Raises:
            RuntimeError: kopf ended by itself, or does not end; the text says why.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for follower in self.followers.values():
                    tasks.create_task(follower.witness.run())
                    tasks.create_task(follower.run())
                for follower in self.followers.values():
                    # kopf looks once which kinds there are, so all must be there before it starts.
                    await follower.listed.wait()
                deaf = tasks.create_task(self._begin_anew_when_deaf())
                self._start_kopf()
                await asyncio.wait((self.kopf_ended, deaf), return_when=asyncio.FIRST_COMPLETED)
                raise RuntimeError(self.kopf_ended.result() if self.kopf_ended.done() else "kopf does not end")
        finally:
            await self._stop_kopf()

    def _is_deaf(self) -> None:
        self._deaf.set()

    async def _begin_anew_when_deaf(self) -> None:
        while True:
            await self._deaf.wait()
            _LOG.warning("kopf does not tell of changes any more; it is begun anew")
            if not await self._stop_kopf():
                return
            self._deaf.clear()
            self._start_kopf()

    def _start_kopf(self) -> None:
        loop = asyncio.get_running_loop()
        stop = self._stop = threading.Event()
        self.kopf_starts += 1

        def take(kind: str, namespace: str, event_type: str | None, data: Mapping[str, Any]) -> None:
            follower = self.followers.get((kind, namespace if self._namespaces else ""))
            if follower is not None:
                follower.take(event_type, data)

        def hand_over(*args: Any) -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(take, *args)

        def ended(why: str) -> None:
            if not self.kopf_ended.done():
                self.kopf_ended.set_result(why)

        def body() -> None:
            from ralb_operator.cluster.kopf_thread import run_kopf

            try:
                run_kopf(self._source, self._namespaces, hand_over, stop)
                why = "kopf ended"
            except BaseException as error:
                _LOG.exception("kopf failed")
                why = f"kopf failed: {type(error).__name__}: {error}"
            if not stop.is_set():
                loop.call_soon_threadsafe(ended, why)

        # It is told to stop and waited for; a daemon only so that one that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=body, name="kopf", daemon=True)
        self._thread.start()

    async def _stop_kopf(self) -> bool:
        """Whether it ended."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _JOIN_S)
            if self._thread.is_alive():
                _LOG.warning("kopf did not end within %g s", _JOIN_S)
                return False
            self._thread = None
        return True
