"""One collection of an API server, followed: listed in chunks, then watched, and listed again whenever events may be missing.

What objects mean may not enter; a ``transform`` makes small values of them on arrival, so that big objects are never kept.
The trap: a list after a gap must *replace* what was known. Events say nothing about objects that vanished in between.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from ralb_operator.cluster.client import INACTIVE, UNREADABLE, ApiClient, ApiError
from ralb_operator.cluster.credentials import CredentialsError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK: Final = 500
_JSON: Final = "application/json"
_METADATA: Final = tuple(
    f"application/json;as=PartialObjectMetadata{suffix};g=meta.k8s.io;v=v1" for suffix in ("", "List")
)
_WATCH_S: Final = 300
# Continue tokens live five minutes; a list that loses its token this often is bigger than the server's patience.
_RESTARTS: Final = 5
# A watch that lived so long was no failure.
_LIVED_S: Final = 1.0
_NOT_FOUND: Final = 404
_FORBIDDEN: Final = 403


class State(StrEnum):
    """How a ListWatch is doing."""

    STARTING = "starting"
    SYNCED = "synced"
    FORBIDDEN = "forbidden"
    MISSING = "missing"  # the server does not know the kind
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds; tests make them short.

    Attributes:
        first, most: back-off after failures, doubled from one to the other. Short, so that pods that vanished while the API
            server was away are not routed to for long once it is back; an overloaded one says itself when to come again.
        slow: between tries where only a person can help (forbidden, kind not installed).
        inactivity: without a byte, bookmarks included, after which a watch counts as dead. Servers send a bookmark a minute.
        vanished: how long a kind that was there must be unknown to the server before its objects count as gone.
    """

    first: float = 0.2
    most: float = 3.0
    slow: float = 10.0
    inactivity: float = 90.0
    vanished: float = 60.0


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """One object: who it is, and what ``transform`` made of it."""

    namespace: str
    name: str
    uid: str
    version: str
    value: T


@dataclass(slots=True)
class Counts:
    """What happened so far, for metrics."""

    lists: int = 0
    watches: int = 0
    events: int = 0
    failures: int = 0
    bad_items: int = 0


class ListWatch(Generic[T]):
    """Follows one collection until cancelled.

    Attributes:
        name: what it follows, for messages.
        state, message: how it is doing, and why when it is not well.
        counts: what happened so far.
        listed_at: monotonic time of the last complete list; 0 before the first.
        heard_at: monotonic time of the last list, event or bookmark; 0 before the first.
    """

    def __init__(
        self,
        client: ApiClient,
        path: str | Sequence[str],
        *,
        name: str,
        transform: Callable[[Mapping[str, Any]], T],
        on_replace: Callable[[list[Item[T]], str], None],
        on_change: Callable[[str, Item[T]], None],
        on_state: Callable[[], None] = lambda: None,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        optional: bool = False,
        times: Times | None = None,
    ) -> None:
        """See the class.

        Args:
            client: how to reach the server.
            path: of the collection; of several (versions of one kind) the first that the server knows.
            name: what it is, for messages.
            transform: makes the value of an object; must not raise.
            on_replace: called with all there is and the list's resourceVersion.
            on_change: called with ADDED, MODIFIED or DELETED, and the object.
            on_state: called when ``state`` or ``message`` changed.
            label_selector: which objects, by labels.
            field_selector: which objects, by fields.
            metadata_only: ask for nothing but metadata.
            optional: a server that does not know the kind has none of it, and that is fine.
            times: how patient to be.
        """
        self.name = name
        self.state = State.STARTING
        self.message = ""
        self.counts = Counts()
        self.listed_at = 0.0
        self.heard_at = 0.0
        self._client = client
        self._paths = (path,) if isinstance(path, str) else tuple(path)
        self._path = self._paths[0]
        self._transform = transform
        self._on_replace = on_replace
        self._on_change = on_change
        self._on_state = on_state
        self._selectors = {
            name: value
            for name, value in (("labelSelector", label_selector), ("fieldSelector", field_selector))
            if value
        }
        self._accept, self._accept_list = _METADATA if metadata_only else (_JSON, _JSON)
        self._optional = optional
        self._times = times or Times()
        self._synced = asyncio.Event()
        self._version = ""
        self._failures = 0
        self._missing_since: float | None = None

    @property
    def synced(self) -> bool:
        """Whether everything was listed at least once (or cannot exist)."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait for ``synced``."""
        await self._synced.wait()

    async def run(self) -> None:
        """Follow the collection; returns only by cancellation."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ApiError as error:
                wait = self._after(error)
            except CredentialsError as error:
                wait = self._failed(str(error))
            except Exception as error:
                # A defect of ours, in a callback or on data nobody thought of: it must not end the following silently.
                _LOG.exception("%s: unexpected", self.name)
                self._version = ""
                wait = self._failed(f"unexpected {type(error).__name__}")
            else:
                continue
            await asyncio.sleep(wait)

    async def _list(self) -> None:
        items: list[Item[T]] = []
        params = {**self._selectors, "limit": str(CHUNK)}
        version, path, restarts = "", self._path, 0
        while True:
            try:
                page = await self._client.request("GET", path, params=params, accept=self._accept_list, timeout=60.0)
            except ApiError as error:
                if error.gone and "continue" in params and restarts < _RESTARTS:
                    # The rest of an older state is no longer to be had: begin again with the present one.
                    restarts += 1
                    items.clear()
                    del params["continue"]
                    continue
                if error.status == _NOT_FOUND and "continue" not in params and path != self._paths[-1]:
                    path = self._paths[self._paths.index(path) + 1]
                    continue
                raise
            metadata = page.get("metadata") if isinstance(page, dict) else None
            if not isinstance(metadata, dict) or not isinstance(metadata.get("resourceVersion"), str):
                raise ApiError(0, UNREADABLE, f"the list at {path} has no resourceVersion")
            version = metadata["resourceVersion"]
            for data in page.get("items") or ():
                if (item := self._item(data)) is not None:
                    items.append(item)
            token = metadata.get("continue")
            if not token:
                break
            params["continue"] = str(token)
            del page
            # A list of many chunks must not hold up those who wait for the event loop.
            await asyncio.sleep(0)
        self._path = path
        self._version = version
        self.counts.lists += 1
        self.listed_at = self.heard_at = time.monotonic()
        self._missing_since = None
        self._on_replace(items, version)
        self._well()

    async def _watch(self) -> None:
        params = {
            **self._selectors,
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            # Jittered, so that the watches of many kinds and replicas do not end together.
            "timeoutSeconds": str(int(_WATCH_S * random.uniform(1.0, 2.0))),
        }
        self.counts.watches += 1
        started, seen = time.monotonic(), 0
        try:
            async for event in self._client.watch(
                self._path, params, accept=self._accept, inactivity=self._times.inactivity, opened=self._well
            ):
                seen += 1
                self._take(event)
        finally:
            lived = time.monotonic() - started
            if seen or lived > _LIVED_S:
                self._failures = 0
        if not seen and lived < _LIVED_S:
            # A server that ends watches at once would otherwise be asked thousands of times a second.
            raise ApiError(0, INACTIVE, f"the watch of {self._path} ended at once")

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, data = event.get("type"), event["object"]
        self.heard_at = time.monotonic()
        if kind == "BOOKMARK":
            metadata = data.get("metadata")
            version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
            if isinstance(version, str) and version:
                if version.isdecimal() and self._version.isdecimal() and int(version) < int(self._version):
                    raise ApiError(410, "Gone", "the server went back in time; was its storage restored?")
                self._version = version
            return
        item = self._item(data)
        if item is None or kind not in ("ADDED", "MODIFIED", "DELETED"):
            return
        self.counts.events += 1
        if item.version:
            self._version = item.version
        self._on_change(str(kind), item)

    def _item(self, data: Any) -> Item[T] | None:
        metadata = data.get("metadata") if isinstance(data, dict) else None
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
            self.counts.bad_items += 1
            return None
        namespace, uid, version = (str(metadata.get(key) or "") for key in ("namespace", "uid", "resourceVersion"))
        return Item(namespace, name, uid, version, self._transform(data))

    def _after(self, error: ApiError) -> float:
        """Seconds to wait after an error; decides whether to list again."""
        if error.gone:
            # No failure: list again at once. Two in a row are one: a server whose lists are too old for its own watches.
            self._version = ""
            _LOG.info("%s: events were missed (%s); listing again", self.name, error.reason)
            wait = self._backoff()
            return wait if self._failures > 1 else 0.0
        if error.status == _FORBIDDEN:
            self._version = ""
            return self._slowly(State.FORBIDDEN, error.message)
        if error.status == _NOT_FOUND:
            self._version = ""
            return self._not_there(error)
        if error.status in (400, 422) or error.reason == UNREADABLE or (error.status and self._failures > 2):
            # What we hold on to may be what the server cannot work with.
            self._version = ""
        if error.reason == INACTIVE:
            _LOG.info("%s: %s; watching again", self.name, error.message)
        return max(self._failed(str(error)), min(error.retry_after or 0.0, self._times.most))

    def _not_there(self, error: ApiError) -> float:
        now = time.monotonic()
        self._path = self._paths[0]
        if self._missing_since is None:
            self._missing_since = now
        if self.synced and self.listed_at and now - self._missing_since < self._times.vanished:
            # API servers that just started may not know a kind yet; what is served must not go for that.
            return self._failed(str(error))
        if self.listed_at or not self.synced:
            self.listed_at = 0.0
            if self._optional or self.synced:
                self._on_replace([], "")
        wait = self._slowly(State.MISSING, f"the API server does not know {self.name}: is its CRD installed?")
        if self._optional:
            self._synced.set()
            self._on_state()
        return wait

    def _slowly(self, state: State, message: str) -> float:
        self.counts.failures += 1
        self._set(state, message)
        return self._times.slow * random.uniform(0.8, 1.2)

    def _failed(self, message: str) -> float:
        self.counts.failures += 1
        wait = self._backoff()
        # Watches end; only what goes on for a while is worth telling.
        if self._failures > 2 or not self.synced:
            self._set(State.FAILING, message)
        return wait

    def _backoff(self) -> float:
        wait = min(self._times.first * 2.0 ** min(self._failures, 16), self._times.most)
        self._failures += 1
        return wait * random.uniform(0.5, 1.0)

    def _well(self) -> None:
        self._synced.set()
        self._set(State.SYNCED, "")

    def _set(self, state: State, message: str) -> None:
        if (state, message) == (self.state, self.message):
            return
        if state is not self.state and state is not State.SYNCED:
            optional = state is State.MISSING and self._optional
            _LOG.log(logging.INFO if optional else logging.WARNING, "%s: %s: %s", self.name, state, message)
        self.state, self.message = state, message
        self._on_state()
