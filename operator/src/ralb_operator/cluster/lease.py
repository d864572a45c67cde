"""Which replica writes: leader election over one ``coordination.k8s.io/v1`` Lease.

What the leader does may not enter. Clocks of different machines are never compared: a Lease is over when this process has seen
the same record for the record's whole duration. A leader counts from *before* it sent its last successful renewal, and gives up
earlier than anybody else may take over, so no two replicas lead at once, as long as their clocks run at about the same speed.
The trap: ``leading`` must be asked right before each write; it turns false by the clock alone, even if the event loop was stuck.
"""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from ralb_operator.cluster.client import UNREADABLE, ApiClient, ApiError
from ralb_operator.cluster.credentials import CredentialsError

_LOG = logging.getLogger(__name__)

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_MAX_DURATION_S: Final = 3600


class State(StrEnum):
    """What this replica is."""

    WAITING = "waiting"
    LEADING = "leading"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds.

    Attributes:
        duration: how long others wait without a renewal before they take over.
        deadline: how long the leader leads without a renewal; shorter than ``duration``.
        retry: between renewals, and between looks at another's Lease.
        jitter: share of ``retry`` that is random.
    """

    duration: int = 15
    deadline: float = 10.0
    retry: float = 2.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not self.retry * (1 + self.jitter) < self.deadline < self.duration:
            raise ValueError("a lease needs retry < deadline < duration")


class Elector:
    """Tries to hold a Lease until stopped.

    Args:
        client: how to reach the server.
        namespace, name: of the Lease.
        identity: who we are; a random part is added, so that a process never takes an earlier one's Lease for its own.
        on_change: called with whether we lead, whenever that changes; must not block.
        timing: how patient to be.
        clock: monotonic seconds.
        sleep: waits; tests pass a virtual one together with ``clock``.
        rand: uniform numbers in [0, 1).
    """

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        on_change: Callable[[bool], None] = lambda leading: None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self.identity = f"{identity}_{uuid.uuid4().hex[:8]}"
        self.holder = ""
        self.transitions = 0
        self.failures = 0
        self._client = client
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._on_change = on_change
        self._timing = timing or Timing()
        self._clock = clock
        self._sleep = sleep
        self._rand = rand
        self._seen: Mapping[str, Any] | None = None
        self._seen_at = 0.0
        self._held_until = float("-inf")
        self._told = False
        self._stopped = False

    @property
    def leading(self) -> bool:
        """Whether we may write at this moment."""
        return self._clock() < self._held_until

    @property
    def state(self) -> State:
        """What this replica is at this moment."""
        if self._stopped:
            return State.STOPPED
        return State.LEADING if self.leading else State.WAITING

    async def run(self) -> None:
        """Hold or await the Lease until cancelled; then give it back, so that another replica need not wait."""
        trouble = ""
        try:
            while True:
                try:
                    await self._try()
                except (ApiError, CredentialsError) as error:
                    self.failures += 1
                    # The same trouble every two seconds is told once.
                    level = logging.DEBUG if str(error) == trouble else logging.WARNING
                    trouble = str(error)
                    _LOG.log(level, "lease %s: %s", self._name, error)
                else:
                    trouble = ""
                self._tell()
                await self._pause(self._timing.retry * (1 + self._timing.jitter * self._rand()))
        finally:
            self._stopped = True
            held = self.leading
            self._held_until = float("-inf")
            self._tell()
            if held:
                await self._release()

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not past the moment at which we cease to lead, so that it is noticed."""
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            until_loss = self._held_until - self._clock()
            await self._sleep(min(left, until_loss) if self._told and until_loss > 0 else left)
            self._tell()

    async def _try(self) -> None:
        timing = self._timing
        # A request that hangs must leave time for another one.
        timeout = min(timing.deadline / 2, 5.0)
        try:
            lease = await self._client.request("GET", f"{self._collection}/{self._name}", timeout=timeout)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            self._observe({})
            await self._write("POST", self._collection, self._lease({}, 0), timeout)
            return
        if not isinstance(lease, dict) or not _metadata(lease).get("resourceVersion"):
            # Written over without that precondition, it could be taken from a leader.
            raise ApiError(0, UNREADABLE, "what the API server gave is no Lease")
        spec = lease.get("spec")
        spec = spec if isinstance(spec, dict) else {}
        self._observe(lease)
        self.holder = str(spec.get("holderIdentity") or "")
        if self.holder not in ("", self.identity) and self._clock() < self._seen_at + _duration(spec, timing.duration):
            self._held_until = float("-inf")
            return
        transitions = spec.get("leaseTransitions")
        transitions = transitions if isinstance(transitions, int) else 0
        path = f"{self._collection}/{self._name}"
        await self._write("PUT", path, self._lease(lease, transitions + (self.holder != self.identity)), timeout)

    def _observe(self, lease: Mapping[str, Any]) -> None:
        """Note when we first saw the record as it is. Any write makes it another one."""
        record = {"version": _metadata(lease).get("resourceVersion"), "spec": lease.get("spec")}
        if record != self._seen:
            self._seen, self._seen_at = record, self._clock()

    async def _write(self, method: str, path: str, body: Mapping[str, Any], timeout: float) -> None:  # noqa: ASYNC109
        sent = self._clock()
        try:
            written = await self._client.request(method, path, body=body, timeout=timeout)
        except ApiError as error:
            if error.status != _CONFLICT:
                raise
            # Somebody else wrote in between; the next look says who.
            return
        self._observe(written if isinstance(written, dict) else {})
        self.transitions += self.holder != self.identity
        self.holder = self.identity
        self._held_until = sent + self._timing.deadline

    def _lease(self, old: Mapping[str, Any], transitions: int) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old_spec = old.get("spec")
        acquired = old_spec.get("acquireTime") if isinstance(old_spec, Mapping) else None
        if self.holder != self.identity or not acquired:
            acquired = now
        metadata: dict[str, Any] = {"name": self._name}
        if old:
            # The precondition, without which two could take the same Lease.
            metadata = {**_metadata(old), "name": self._name}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": self._timing.duration,
                "acquireTime": acquired,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    async def _release(self) -> None:
        path = f"{self._collection}/{self._name}"
        try:
            lease = await self._client.request("GET", path, timeout=2.0)
            if not isinstance(lease, dict) or (lease.get("spec") or {}).get("holderIdentity") != self.identity:
                return
            lease["spec"].update(holderIdentity="", leaseDurationSeconds=1)
            await self._client.request("PUT", path, body=lease, timeout=2.0)
        except (ApiError, CredentialsError) as error:
            _LOG.info("lease %s was not given back: %s", self._name, error)

    def _tell(self) -> None:
        leading = self.leading
        if leading == self._told:
            return
        self._told = leading
        _LOG.info(
            "%s the leader (lease %s)", "this replica is now" if leading else "this replica is no longer", self._name
        )
        self._on_change(leading)


def _metadata(lease: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = lease.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _duration(spec: Mapping[str, Any], default: int) -> float:
    """How long the holder asked others to wait. Somebody's nonsense must not keep us out for years."""
    value = spec.get("leaseDurationSeconds")
    return float(min(value, _MAX_DURATION_S)) if isinstance(value, int) and value > 0 else float(default)
