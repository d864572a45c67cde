"""What each replica's gateways say, told to the other replicas: one small Lease per replica in the operator's own namespace.

Judging may not enter (``programmed``), nor contents: a report has hashes, counts, node ids and Envoy's words, bounded to a size
the API server takes. Leases and not objects of our own, because every cluster has them and they are made for being renewed.
Others' reports count for a while after this process saw them change, so clocks of different machines are never compared.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from ralb_operator.cluster.bucket import Bucket
from ralb_operator.cluster.client import APPLY_PATCH, ApiClient, ApiError
from ralb_operator.cluster.credentials import CredentialsError
from ralb_operator.cluster.listwatch import Item, ListWatch
from ralb_operator.cluster.programmed import MAX_WORDS, Report, printable
from ralb_operator.troubles import MAX_EXAMPLES, MAX_POOLS, MAX_TROUBLES, Trouble

_LOG = logging.getLogger(__name__)

PREFIX: Final = "ralb-report-"
LABEL: Final = "ralb.dev/report"
ANNOTATION: Final = "ralb.dev/report"
RENEW_S: Final = 10.0
EXPIRY_S: Final = 30.0
MAX_BYTES: Final = 48 * 1024
MAX_REPLICAS: Final = 64
_MAX_TROUBLE_BYTES: Final = MAX_BYTES // 4
_QUIET_S: Final = 0.1
_MANAGER: Final = "ralb-operator"
_MAX_NAME: Final = 253
_MAX_LATE: Final = 16
_MAX_COUNT: Final = 1_000_000
_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Owner:
    """The Pod a report belongs to, so that it goes with it."""

    name: str
    uid: str


def encode(report: Report) -> str:
    """A report as text of at most ``MAX_BYTES``.

    Where there is too much to tell, words are left out first. When even the names of refused objects do not fit, ``settled``
    is not told: nobody must take silence about an object for consent.
    """
    brief = replace(report, late=report.late[:_MAX_LATE])
    while brief.troubles and len(orjson.dumps([asdict(trouble) for trouble in brief.troubles])) > _MAX_TROUBLE_BYTES:
        brief = replace(brief, troubles=brief.troubles[: len(brief.troubles) // 2])
    for limit in (MAX_WORDS, 200, 0):
        data = _plain(brief, limit)
        if len(data) <= MAX_BYTES:
            return data.decode()
    return _plain(replace(brief, refused=(), settled=""), 200).decode()


def decode(text: object) -> Report | None:
    """A report from another replica; None if it is none. Whatever it holds, the result is bounded."""
    if not isinstance(text, str) or len(text) > 2 * MAX_BYTES:
        return None
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict) or not isinstance(data.get("replica"), str):
        return None

    def words(name: str, limit: int = MAX_WORDS) -> str:
        value = data.get(name)
        return printable(value, limit) if isinstance(value, str) else ""

    def count(name: str) -> int:
        value = data.get(name)
        return value if isinstance(value, int) and 0 <= value <= _MAX_COUNT else 0

    late, refused, troubles = data.get("late"), data.get("refused"), data.get("troubles")
    return Report(
        words("replica", _MAX_NAME),
        words("edition", 64),
        words("settled", 64),
        words("snapshot", 64),
        count("envoys"),
        count("processors"),
        tuple(printable(x, _MAX_NAME) for x in late[:_MAX_LATE] if isinstance(x, str))
        if isinstance(late, list)
        else (),
        count("lateCount"),
        tuple(sorted((str(k), printable(v, MAX_WORDS)) for k, v in refused.items() if isinstance(v, str)))
        if isinstance(refused, dict)
        else (),
        words("shared"),
        words("snapshotRefused"),
        words("held"),
        count("heard"),
        tuple(_trouble(x) for x in troubles[: MAX_POOLS * MAX_TROUBLES] if isinstance(x, dict))
        if isinstance(troubles, list)
        else (),
    )


def _trouble(data: Mapping[str, Any]) -> Trouble:
    def words(name: str, limit: int) -> str:
        value = data.get(name)
        return printable(value, limit) if isinstance(value, str) else ""

    def count(name: str) -> int:
        value = data.get(name)
        return value if isinstance(value, int) and 0 <= value <= _MAX_COUNT else 0

    found = data.get("examples")
    examples = found[:MAX_EXAMPLES] if isinstance(found, list) else ()
    names = tuple(printable(name, _MAX_NAME) for name in examples if isinstance(name, str))
    pool = words("pool", 2 * _MAX_NAME + 1)
    return Trouble(pool, words("series", 128), words("error", 32), count("pods"), count("of"), names)


def _plain(report: Report, limit: int) -> bytes:
    return orjson.dumps(
        {
            "replica": report.replica,
            "edition": report.edition,
            "settled": report.settled,
            "snapshot": report.snapshot[:16],
            "envoys": report.envoys,
            "processors": report.processors,
            "late": list(report.late),
            "lateCount": report.late_count,
            "refused": {name: printable(words, limit) if limit else "" for name, words in report.refused},
            "shared": printable(report.shared, MAX_WORDS),
            "snapshotRefused": printable(report.snapshot_refused, MAX_WORDS),
            "held": printable(report.held, MAX_WORDS),
            "heard": report.heard,
            "troubles": [asdict(trouble) for trouble in report.troubles],
        }
    )


def lease(report: Report, owner: Owner | None, now: datetime) -> dict[str, Any]:
    """The Lease that tells it."""
    metadata: dict[str, Any] = {
        "name": PREFIX + report.replica,
        "labels": {LABEL: "true"},
        "annotations": {ANNOTATION: encode(report)},
    }
    if owner is not None:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid, "controller": False}
        ]
    spec = {
        "holderIdentity": report.replica,
        "leaseDurationSeconds": int(EXPIRY_S),
        "renewTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def leases(namespace: str) -> str:
    """Path of the collection."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


class ReportWriter:
    """Keeps this replica's Lease current: soon after changes, and every ten seconds.

    Attributes:
        written, failed: requests so far.
    """

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        current: Callable[[], Report],
        owner: Owner | None = None,
        *,
        renew_s: float = RENEW_S,
    ) -> None:
        """See the class.

        Args:
            client: how to reach the server.
            namespace: the operator's own.
            current: gives the report to write.
            owner: our Pod, if its uid is known.
            renew_s: seconds between writes when nothing changes.
        """
        self.written = 0
        self.failed = 0
        self._client = client
        self._path = leases(namespace)
        self._current = current
        self._owner = owner
        self._renew_s = renew_s
        self._changed = asyncio.Event()
        self._told: Report | None = None
        self._bucket = Bucket(1.0, 5)

    def changed(self) -> None:
        """The report may be another one now."""
        # The snapshot's version is for people and changes with every pod: it goes along with the next renewal.
        if self._told is None or _essence(self._current()) != _essence(self._told):
            self._changed.set()

    async def run(self) -> None:
        """Write until cancelled; then take the Lease away, since nobody is connected here any more."""
        name = ""
        try:
            while True:
                self._changed.clear()
                report = self._current()
                name = PREFIX + report.replica
                await self._bucket.take()
                wait = self._renew_s
                try:
                    await self._client.request(
                        "PATCH",
                        f"{self._path}/{name}",
                        params={"fieldManager": _MANAGER, "force": "true"},
                        body=lease(report, self._owner, datetime.now(UTC)),
                        content_type=APPLY_PATCH,
                        timeout=_TIMEOUT_S,
                    )
                except (ApiError, CredentialsError) as error:
                    self.failed += 1
                    wait = min(wait, 2.0)
                    _LOG.log(
                        logging.WARNING if self.failed < 3 else logging.DEBUG,
                        "the report could not be written: %s",
                        error,
                    )
                else:
                    self.written += 1
                    self._told = report
                try:
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                        await asyncio.sleep(_QUIET_S)
                except TimeoutError:
                    pass
        finally:
            if name and self.written:
                await self._remove(name)

    async def _remove(self, name: str) -> None:
        try:
            await self._client.request("DELETE", f"{self._path}/{name}", timeout=2.0)
        except (ApiError, CredentialsError) as error:
            _LOG.info("the report was not taken away: %s", error)


class Peers:
    """The other replicas' reports, as far as they are fresh.

    Attributes:
        watch: the ListWatch that feeds it; it has to be run.
    """

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        replica: str,
        on_change: Callable[[], None],
        *,
        expiry_s: float = EXPIRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class.

        Args:
            client: how to reach the server.
            namespace: the operator's own.
            replica: the own name, whose report is not of interest.
            on_change: called when a report came, changed or went.
            expiry_s: seconds without a renewal after which a replica counts as gone.
            clock: monotonic seconds.
        """
        self._replica = replica
        self._on_change = on_change
        self._expiry_s = expiry_s
        self._clock = clock
        # name of the Lease -> report, resourceVersion, when it was first seen so
        self._seen: dict[str, tuple[Report, str, float]] = {}
        self.watch: ListWatch[Report | None] = ListWatch(
            client,
            leases(namespace),
            name="reports of the operator's replicas",
            transform=_report_of,
            on_replace=self._replace,
            on_change=self._change,
            label_selector=f"{LABEL}=true",
        )

    def fresh(self) -> tuple[Report, ...]:
        """Reports of replicas that are alive, by name."""
        limit = self._clock() - self._expiry_s
        return tuple(report for _, (report, _, at) in sorted(self._seen.items()) if at > limit)

    def _replace(self, items: list[Item[Report | None]], version: str) -> None:
        before, self._seen = self._seen, {}
        for item in items:
            self._take(item, before)
        self._on_change()

    def _change(self, event_type: str, item: Item[Report | None]) -> None:
        old = self._seen.get(item.name)
        if event_type == "DELETED":
            self._seen.pop(item.name, None)
        else:
            self._take(item, self._seen)
        new = self._seen.get(item.name)
        if (old is None) != (new is None) or (old and new and old[0] != new[0]):
            self._on_change()

    def _take(self, item: Item[Report | None], before: Mapping[str, tuple[Report, str, float]]) -> None:
        report = item.value
        if report is None or report.replica == self._replica or item.name != PREFIX + report.replica:
            return
        known = before.get(item.name)
        if known is not None and known[1] == item.version:
            self._seen[item.name] = known
            return
        if known is None and len(self._seen) >= MAX_REPLICAS:
            # Leases of replicas that died without a pod to go with stay around; they must not shut out the living.
            oldest = min(self._seen, key=lambda name: self._seen[name][2])
            if self._seen[oldest][2] > self._clock() - self._expiry_s:
                return
            del self._seen[oldest]
        self._seen[item.name] = (report, item.version, self._clock())


def _report_of(data: Mapping[str, Any]) -> Report | None:
    metadata = data.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return decode(annotations.get(ANNOTATION)) if isinstance(annotations, Mapping) else None


def _essence(report: Report) -> Report:
    return replace(report, snapshot="")
