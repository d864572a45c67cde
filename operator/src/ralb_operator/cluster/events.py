"""Kubernetes Events about conditions that changed, for ``kubectl describe`` and those who alert on Warnings.

Only the leader posts, and only after the status that says the same was written. Since the status is what transitions are computed
from, a new leader repeats nothing; the name of an Event is a hash of the transition, so a request sent twice makes one Event.
Events are a courtesy: they are dropped rather than queued without bound, and a flapping object cannot flood the API server.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import xxhash

from ralb_api import API_VERSION
from ralb_api.problems import ObjectKey
from ralb_operator.cluster.bucket import Bucket
from ralb_operator.cluster.client import ApiClient, ApiError
from ralb_operator.cluster.credentials import CredentialsError
from ralb_operator.cluster.programmed import NO_GATEWAY, PROGRAMMED
from ralb_operator.cluster.statuses import Transition

_LOG = logging.getLogger(__name__)

CONTROLLER: Final = "ralb.dev/operator"
_NOTE_CHARS: Final = 1000  # the API takes 1024 bytes or fewer
_CONFLICT: Final = 409
_TRIES: Final = 4
_TIMEOUT_S: Final = 5.0
_WARN_S: Final = 60.0
_MAX_OBJECTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How many Events there may be.

    Attributes:
        rate, burst: of all objects, per second and at once.
        object_rate, object_burst: of one object.
        limit: how many may wait.
    """

    rate: float = 10.0
    burst: int = 50
    object_rate: float = 1 / 30
    object_burst: int = 12
    limit: int = 1000


@dataclass(slots=True)
class Counts:
    """What became of Events so far: posted, or dropped for being too many or for failing."""

    posted: int = 0
    dropped: int = 0
    failed: int = 0


def worth_telling(transition: Transition) -> bool:
    """Whether a transition deserves an Event.

    New objects get one for what is wrong and one for being in force; that something is still under way is no news.
    """
    if transition.after == "Unknown":
        return transition.reason == NO_GATEWAY and bool(transition.before)
    if transition.before:
        return True
    return transition.after == "False" or transition.type == PROGRAMMED


def event(
    key: ObjectKey, uid: str, version: str, transition: Transition, instance: str, now: datetime
) -> dict[str, Any]:
    """The ``events.k8s.io/v1`` Event.

    Args:
        key: of the object.
        uid: of the object.
        version: its resourceVersion.
        transition: what happened.
        instance: which replica says so.
        now: when, with a time zone.
    """
    note = f"{transition.type} is {transition.after}: {transition.message}"
    identity = f"{uid}/{transition.type}/{transition.after}/{transition.reason}/{transition.at}"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{key.name[:200].rstrip('.-')}.{xxhash.xxh3_64_hexdigest(identity.encode())}",
            "namespace": key.namespace,
        },
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": "Normal" if transition.after == "True" else "Warning",
        "reason": transition.reason[:128],
        "action": transition.type,
        "note": _cut(note),
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:128],
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": key.kind,
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
            "resourceVersion": version,
        },
    }


class EventPoster:
    """A bounded queue of Events.

    Attributes:
        counts: see ``Counts``.
    """

    def __init__(
        self,
        client: ApiClient,
        instance: str,
        may_write: Callable[[], bool],
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """See the class.

        Args:
            client: how to reach the server.
            instance: which replica we are.
            may_write: asked right before each post.
            pace: how many.
            clock: monotonic seconds.
            now: the time for ``eventTime``.
        """
        self.counts = Counts()
        self._client = client
        self._instance = instance
        self._may_write = may_write
        self._pace = pace or Pace()
        self._clock = clock
        self._now = now
        self._bucket = Bucket(self._pace.rate, self._pace.burst, clock)
        self._objects: dict[str, Bucket] = {}
        self._waiting: deque[dict[str, Any]] = deque()
        self._wake = asyncio.Event()
        self._warned_at = float("-inf")

    def __len__(self) -> int:
        """Events that wait."""
        return len(self._waiting)

    def tell(self, key: ObjectKey, uid: str, version: str, transitions: tuple[Transition, ...]) -> None:
        """Post those that are worth it, soon."""
        for transition in transitions:
            if not worth_telling(transition):
                continue
            if len(self._waiting) >= self._pace.limit or not self._allowed(uid):
                self.counts.dropped += 1
                continue
            self._waiting.append(event(key, uid, version, transition, self._instance, self._now()))
            self._wake.set()

    async def run(self) -> None:
        """Post until cancelled; what waits then is dropped."""
        try:
            while True:
                while not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                await self._bucket.take()
                await self._post(self._waiting.popleft())
        finally:
            self.counts.dropped += len(self._waiting)
            self._waiting.clear()

    def _allowed(self, uid: str) -> bool:
        bucket = self._objects.get(uid)
        if bucket is None:
            if len(self._objects) >= _MAX_OBJECTS:
                self._objects = {uid: bucket for uid, bucket in self._objects.items() if not bucket.full}
                if len(self._objects) >= _MAX_OBJECTS:
                    return False
            bucket = self._objects[uid] = Bucket(self._pace.object_rate, self._pace.object_burst, self._clock)
        return bucket.take_now()

    async def _post(self, body: Mapping[str, Any]) -> None:
        path = f"/apis/events.k8s.io/v1/namespaces/{body['metadata']['namespace']}/events"
        for attempt in range(_TRIES):
            if not self._may_write():
                self.counts.dropped += 1
                return
            try:
                await self._client.request("POST", path, body=body, timeout=_TIMEOUT_S)
            except (ApiError, CredentialsError) as error:
                status = error.status if isinstance(error, ApiError) else 0
                if status == _CONFLICT:
                    break  # posted already, by an attempt whose answer was lost
                if status and status != 429 and status < 500:
                    # Forbidden, or the namespace is going away: no use in trying again.
                    self._fail(error)
                    return
                if attempt + 1 == _TRIES:
                    self._fail(error)
                    return
                await asyncio.sleep(0.5 * 2.0**attempt)
            else:
                break
        self.counts.posted += 1

    def _fail(self, error: Exception) -> None:
        self.counts.failed += 1
        if self._clock() - self._warned_at >= _WARN_S:
            self._warned_at = self._clock()
            _LOG.warning("an Event could not be posted: %s", error)


def _cut(note: str) -> str:
    data = note.encode()
    return note if len(data) <= _NOTE_CHARS else data[: _NOTE_CHARS - 3].decode(errors="ignore") + "..."
