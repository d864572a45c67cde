"""Writes statuses: the newest per object, not faster than the API server should bear, and never one that is written already.

What a status says may not enter (``statuses``). Writes are server-side applies of ``/status`` by one field manager for all
replicas: conditions are a list by type there, so other controllers' conditions stay, ours go when they are not said any more, and
an apply that changes nothing is not even stored. The precondition is uid and resourceVersion: the spec that was judged is the
spec at the time of writing. The trap: after a conflict the object must be read again and *compared*, for what was in the way may
be our own write, whose answer got lost.
"""

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from ralb_api import API_VERSION
from ralb_api.objects import KINDS
from ralb_api.problems import ObjectKey
from ralb_operator.cluster.bucket import Bucket
from ralb_operator.cluster.client import APPLY_PATCH, ApiClient, ApiError
from ralb_operator.cluster.credentials import CredentialsError
from ralb_operator.cluster.statuses import Wanted, render
from ralb_operator.cluster.store import order

_LOG = logging.getLogger(__name__)

MANAGER: Final = "ralb-operator"
_CONFLICT: Final = 409
_NOT_FOUND: Final = 404
_TIMEOUT_S: Final = 5.0
_TRIES: Final = 8
_MOST_WAIT_S: Final = 30.0
_REPEATS: Final = 3
_WARN_S: Final = 60.0
_MAX_WARNED: Final = 64


@dataclass(frozen=True, slots=True)
class Target:
    """A status to write.

    Attributes:
        key, uid: of the object.
        version: the resourceVersion at which it was judged.
        old: its status then.
        want: what the status should say.
    """

    key: ObjectKey
    uid: str
    version: str
    old: Mapping[str, Any]
    want: Wanted


@dataclass(slots=True)
class Counts:
    """What became of targets so far, for metrics.

    Attributes:
        written: stored by the API server.
        equal: the object said so already.
        superseded: dropped, since the object's spec moved on.
        gone: dropped, since there is no such object any more.
        failed: attempts that failed and were repeated.
        dropped: given up after too many attempts; offered again when objects are next judged.
        conflicts: times the object had been written by somebody else in between.
    """

    written: int = 0
    equal: int = 0
    superseded: int = 0
    gone: int = 0
    failed: int = 0
    dropped: int = 0
    conflicts: int = 0


@dataclass(slots=True)
class _Slot:
    """One object's place: what waits for it, and whether something is being written."""

    target: Target | None = None
    busy: bool = False
    tries: int = 0


@dataclass(frozen=True, slots=True)
class _Written:
    """What we wrote last, the resourceVersion that made, and when (monotonic)."""

    uid: str
    version: str
    want: Wanted
    at: float

    def repeats(self, target: Target) -> bool:
        """Whether the target is the same again, judged by nothing newer than our own write."""
        same = self.uid == target.uid and self.want == target.want
        return same and order(target.version) <= order(self.version)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to write.

    Attributes:
        rate, burst: writes per second in the long run, and at once.
        spacing: seconds between two writes of the same object; what comes meanwhile is written as one.
        workers: writes at the same time.
        limit: objects that may wait; more are dropped, and come again when objects are next judged.
    """

    rate: float = 50.0
    burst: int = 100
    spacing: float = 1.0
    workers: int = 8
    limit: int = 20_000


class StatusWriter:
    """A queue of statuses, one place per object.

    Attributes:
        counts: see ``Counts``.
    """

    def __init__(
        self,
        client: ApiClient,
        may_write: Callable[[], bool],
        *,
        on_written: Callable[[Target, Mapping[str, Any], Mapping[str, Any]], None] = lambda target, old, new: None,
        restatus: Callable[[ObjectKey, Mapping[str, Any], str], None] = lambda key, status, version: None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """See the class.

        Args:
            client: how to reach the server.
            may_write: asked right before each write.
            on_written: called with the target, the status from before and our part of the new one.
            restatus: told of an object's whole new status and resourceVersion, ahead of the watch.
            pace: how fast.
            clock: monotonic seconds.
            now: the time for ``lastTransitionTime``.
        """
        self.counts = Counts()
        self._client = client
        self._may_write = may_write
        self._on_written = on_written
        self._restatus = restatus
        self._pace = pace or Pace()
        self._clock = clock
        self._now = now
        self._bucket = Bucket(self._pace.rate, self._pace.burst, clock)
        self._slots: dict[ObjectKey, _Slot] = {}
        # (when due, number, object): one entry for each slot that is not busy.
        self._queue: list[tuple[float, int, ObjectKey]] = []
        self._numbers = itertools.count()
        self._written: dict[ObjectKey, _Written] = {}
        self._wake = asyncio.Event()
        self._warned: dict[str, float] = {}

    def __len__(self) -> int:
        """Objects whose status waits to be written or is being written."""
        return len(self._slots)

    def offer(self, target: Target) -> None:
        """Write this status soon, instead of what waits for the same object, unless the object says so already."""
        key = target.key
        slot, last = self._slots.get(key), self._written.get(key)
        repeated = last is not None and last.repeats(target)
        if repeated or render(key, target.old, target.want, self._now()) is None:
            # What waited is outdated.
            if slot is not None:
                slot.target = None
            return
        if slot is None:
            if len(self._slots) >= self._pace.limit:
                self.counts.dropped += 1
                return
            slot = self._slots[key] = _Slot()
            self._push(key, 0.0 if last is None else last.at + self._pace.spacing)
        slot.target = target

    def forget(self, exists: Callable[[ObjectKey], bool]) -> None:
        """Let go of what is known of objects that are no more."""
        for key in [key for key in self._written if not exists(key)]:
            del self._written[key]

    async def run(self) -> None:
        """Write until cancelled; then nothing is left waiting, and writes under way are abandoned."""
        slots = asyncio.Semaphore(self._pace.workers)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await slots.acquire()
                    key = await self._due()
                    await self._bucket.take()
                    group.create_task(self._work(key)).add_done_callback(lambda _: slots.release())
        finally:
            self._slots.clear()
            self._queue.clear()
            # Others may write from now on.
            self._written.clear()

    def _push(self, key: ObjectKey, due: float) -> None:
        heapq.heappush(self._queue, (due, next(self._numbers), key))
        self._wake.set()

    async def _due(self) -> ObjectKey:
        """The next object whose time has come; it is busy from now on."""
        while True:
            wait: float | None = None
            while self._queue:
                due, _, key = self._queue[0]
                wait = due - self._clock()
                if wait > 0:
                    break
                heapq.heappop(self._queue)
                wait = None
                slot = self._slots[key]
                if slot.target is not None:
                    slot.busy = True
                    return key
                del self._slots[key]
            self._wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _work(self, key: ObjectKey) -> None:
        slot = self._slots[key]
        target, slot.target = slot.target, None
        failed = False
        try:
            if target is not None and self._may_write():
                failed = not await self._write(target)
        except (ApiError, CredentialsError) as error:
            failed = True
            self._complain(error)
        except Exception:
            failed = True
            _LOG.exception("the status of %s could not be written", key)
        slot.busy = False
        slot.tries = slot.tries + 1 if failed else 0
        if failed and slot.target is None:
            slot.target = target
        self.counts.failed += failed
        if slot.target is None or slot.tries >= _TRIES:
            self.counts.dropped += slot.target is not None
            del self._slots[key]
            return
        backoff = min(0.2 * 2.0**slot.tries, _MOST_WAIT_S) * random.uniform(0.8, 1.2) if failed else 0.0
        self._push(key, self._clock() + max(self._pace.spacing, backoff))

    async def _write(self, target: Target) -> bool:
        """One status; False if it has to be tried again."""
        for _ in range(_REPEATS):
            status = render(target.key, target.old, target.want, self._now())
            if status is None:
                self.counts.equal += 1
                return True
            if not self._may_write():
                return True
            try:
                written = await self._apply(target, status)
            except ApiError as error:
                if error.status == _NOT_FOUND:
                    self.counts.gone += 1
                    return True
                if error.status != _CONFLICT:
                    raise
                self.counts.conflicts += 1
                fresh = await self._again(target)
                if fresh is None:
                    return True
                target = fresh
                continue
            self._note(target, status, written)
            return True
        return False

    async def _apply(self, target: Target, status: Mapping[str, Any]) -> Any:
        key = target.key
        metadata = {"name": key.name, "namespace": key.namespace, "uid": target.uid, "resourceVersion": target.version}
        body = {"apiVersion": API_VERSION, "kind": key.kind, "metadata": metadata, "status": status}
        params = {"fieldManager": MANAGER, "force": "true"}
        return await self._client.request(
            "PATCH", f"{_path(key)}/status", params=params, body=body, content_type=APPLY_PATCH, timeout=_TIMEOUT_S
        )

    async def _again(self, target: Target) -> Target | None:
        """The target for the object as it is now; None if it is not about that any more."""
        try:
            data = await self._client.request("GET", _path(target.key), timeout=_TIMEOUT_S)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            data = None
        metadata = data.get("metadata") if isinstance(data, dict) else None
        if not isinstance(metadata, dict) or metadata.get("uid") != target.uid:
            self.counts.gone += 1
            return None
        if metadata.get("generation") != target.want.generation:
            self.counts.superseded += 1
            return None
        status, version = data.get("status"), str(metadata.get("resourceVersion") or "")
        status = status if isinstance(status, dict) else {}
        self._restatus(target.key, status, version)
        return replace(target, version=version, old=status)

    def _note(self, target: Target, status: Mapping[str, Any], written: Any) -> None:
        self.counts.written += 1
        metadata = written.get("metadata") if isinstance(written, dict) else None
        version = str(metadata.get("resourceVersion") or "") if isinstance(metadata, dict) else ""
        self._written[target.key] = _Written(target.uid, version, target.want, self._clock())
        whole = written.get("status") if isinstance(written, dict) else None
        if isinstance(whole, dict) and version:
            self._restatus(target.key, whole, version)
        self._on_written(target, target.old, status)

    def _complain(self, error: Exception) -> None:
        """Log a failure, the same kind once a minute: one cause mostly concerns all objects."""
        kind, now = getattr(error, "reason", type(error).__name__), self._clock()
        if now - self._warned.get(kind, float("-inf")) >= _WARN_S:
            if len(self._warned) >= _MAX_WARNED:
                self._warned.clear()
            self._warned[kind] = now
            _LOG.warning("a status could not be written, trying again: %s", error)


def _path(key: ObjectKey) -> str:
    return f"/apis/{API_VERSION}/namespaces/{key.namespace}/{KINDS[key.kind].plural}/{key.name}"
