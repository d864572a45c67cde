"""Whether an object is in force at the gateways: condition ``Programmed``, judged from what Envoys and processors answered.

Pure; reading streams and Leases is in ``acks`` and ``reports``. Replicas compare *editions*: the hash of every object of ours
with its generation. Snapshots change with every pod and in another order at each replica, editions only when somebody edits an
object, so replicas soon agree on them.

Once an object is programmed it stays so for that generation until somebody refuses it, it becomes unusable, or no gateway is
left. A gateway that joins or hangs later does not take the truth from it: one slow gateway would have every object rewritten.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import xxhash

from ralb_api.problems import ObjectKey
from ralb_operator.cluster.scraping import NOT_TOLD, Scraping
from ralb_operator.compile import ConditionType, Status
from ralb_operator.troubles import Trouble

PROGRAMMED: Final = "Programmed"

# Reasons of the condition. They are API: documented, never renamed.
REFUSED: Final = "Refused"
NOT_ACCEPTED: Final = "NotAccepted"
NOT_USABLE: Final = "NotUsable"
NOT_SUPPORTED: Final = "NotSupported"
PENDING: Final = "Pending"
NO_GATEWAY: Final = "NoGateway"

MAX_WORDS: Final = 1024
_SHOWN: Final = 3
# kind -> field of the snapshot its objects go into
_FIELDS: Final = {"ModelPool": "pools", "ModelTier": "tiers", "RoutingPolicy": "policies"}
_HISTORY: Final = 1024


@dataclass(frozen=True, slots=True)
class Report:
    """What one replica's gateways say; the same for the own replica and for the others.

    Attributes:
        replica: name of its pod.
        edition: of what it applied last; "" before the first.
        settled: the newest edition that every Envoy and processor connected to it has answered; "" if there is none.
        snapshot: version of the snapshot it published last, for people.
        envoys, processors: how many are connected.
        late: node ids of those that still owe an answer, some of them if there are many; ``late_count`` has all.
        refused: ``str(ObjectKey)`` -> Envoy's words, sorted.
        shared: Envoy's words about something that belongs to no pool, such as the listener; "" if there are none.
        snapshot_refused: a processor's words about the snapshot; "" if there are none.
        held: why processors are not shown the snapshot; "" if they are.
        heard: how many of the processors have told what they cannot read of pods' metrics.
        troubles: what that is.
    """

    replica: str
    edition: str = ""
    settled: str = ""
    snapshot: str = ""
    envoys: int = 0
    processors: int = 0
    late: tuple[str, ...] = ()
    late_count: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    shared: str = ""
    snapshot_refused: str = ""
    held: str = ""
    heard: int = 0
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The condition, less times and generation.

    Attributes:
        status: ``True``, ``False`` or ``Unknown``.
        reason, message: as in a condition.
        waiting: it may change by itself within moments, so it is worth a moment's patience before saying it.
    """

    status: str
    reason: str
    message: str
    waiting: bool = False


IN_FORCE: Final = Verdict("True", PROGRAMMED, "In force at every connected gateway.")


def edition(generations: Mapping[ObjectKey, tuple[str, int]]) -> str:
    """The hash of all objects: (which of those that had the name over time, generation) by key."""
    digest = xxhash.xxh3_64()
    for key in sorted(generations, key=lambda key: (key.kind, key.namespace, key.name)):
        born, generation = generations[key]
        digest.update(f"{key.kind}/{key.namespace}/{key.name}/{born}/{generation}\n".encode())
    return digest.hexdigest()


class History:
    """The editions this replica has seen, in order, and since which of them each object is as it is."""

    def __init__(self) -> None:
        self._order: deque[str] = deque(maxlen=_HISTORY)
        self._index: dict[str, int] = {}
        self._next = 0
        self._judged: dict[ObjectKey, tuple[str, int, int]] = {}
        self._used: dict[ObjectKey, tuple[str, int, int]] = {}

    def add(self, generations: Mapping[ObjectKey, tuple[str, int]], used: Iterable[ObjectKey]) -> str:
        """Take note of a new state; ``used`` are the objects in the snapshot. Returns its edition."""
        digest = edition(generations)
        if not self._order or self._order[-1] != digest:
            if len(self._order) == _HISTORY and self._index.get(self._order[0]) == self._next - _HISTORY:
                del self._index[self._order[0]]
            self._order.append(digest)
            self._index[digest] = self._next
            self._next += 1
        self._judged = self._since(self._judged, generations)
        self._used = self._since(self._used, {key: generations[key] for key in used if key in generations})
        return digest

    def _since(
        self, before: Mapping[ObjectKey, tuple[str, int, int]], now: Mapping[ObjectKey, tuple[str, int]]
    ) -> dict[ObjectKey, tuple[str, int, int]]:
        found = {}
        for key, (born, generation) in now.items():
            old = before.get(key)
            same = old is not None and old[:2] == (born, generation)
            found[key] = old if old is not None and same else (born, generation, self._next - 1)
        return found

    def has_judged(self, digest: str, key: ObjectKey) -> bool:
        """Whether a replica at this edition has looked at the object's present generation."""
        return self._reaches(digest, self._judged.get(key))

    def has_used(self, digest: str, key: ObjectKey) -> bool:
        """Whether what was published with this edition has the object's present generation in it."""
        return self._reaches(digest, self._used.get(key))

    def _reaches(self, digest: str, since: tuple[str, int, int] | None) -> bool:
        # An unknown edition is one from before our time, or one that we are yet to see.
        return since is not None and self._index.get(digest, -1) >= since[2]


@dataclass(frozen=True, slots=True)
class World:
    """What all objects are judged by.

    Attributes:
        history: of this replica.
        reports: of all replicas that are alive, the own one included.
        used: objects in the published snapshot.
        deserted: nobody has been connected for so long that this is worth telling of objects that were in force.
        scraping: what is known of pods' metrics.
    """

    history: History
    reports: Sequence[Report]
    used: frozenset[ObjectKey]
    deserted: bool = False
    scraping: Scraping = NOT_TOLD


def used_objects(snapshot: object) -> frozenset[ObjectKey]:
    """The objects that are in a ``ralb.v1.Snapshot``."""
    found = set()
    for kind, field in _FIELDS.items():
        for entry in getattr(snapshot, field):
            namespace, _, name = entry.id.partition("/")
            found.add(ObjectKey(kind, namespace, name))
    return frozenset(found)


def judge(key: ObjectKey, status: Status, world: World, *, was_true: bool) -> Verdict:
    """One object.

    Args:
        key: which.
        status: what ``compile`` says of it.
        world: everything else.
        was_true: its present generation has been programmed already.
    """
    accepted = next((c for c in status.conditions if c.type is ConditionType.ACCEPTED), None)
    words = _refusal(key, world)
    if words:
        tail = "It is left out until its spec changes; nothing else is affected."
        return Verdict("False", REFUSED, f"Envoy refuses it: {words}. {tail}")
    if accepted is not None and not accepted.status:
        return Verdict("False", NOT_ACCEPTED, f"It is not accepted ({accepted.reason}), so it is in force nowhere.")
    if key.kind not in _FIELDS:
        return Verdict("False", NOT_SUPPORTED, f"This release checks {key.kind} objects but does not act on them yet.")
    if key not in world.used:
        return Verdict(
            "False",
            NOT_USABLE,
            "Nothing it refers to can be used, so it is not in the configuration; see ResolvedRefs.",
        )
    return _in_snapshot(key, world, was_true)


def _in_snapshot(key: ObjectKey, world: World, was_true: bool) -> Verdict:
    shared = next((report.shared for report in world.reports if report.shared), "")
    if shared and key.kind == "RoutingPolicy":
        text = f"Envoy refuses what all policies need: {shared}. What it accepted before stays in force."
        return Verdict("False", REFUSED, text)
    behind = [
        report
        for report in world.reports
        if (report.envoys or report.processors) and not world.history.has_used(report.settled, key)
    ]
    for report in world.reports:
        new = world.history.has_used(report.edition, key) and not was_true
        if report.snapshot_refused and new:
            text = (
                f"A processor refuses the snapshot with it: {report.snapshot_refused}. It goes on with the one before."
            )
            return Verdict("False", REFUSED, text)
    envoys = sum(report.envoys for report in world.reports)
    processors = sum(report.processors for report in world.reports)
    if not (envoys and processors) and not (was_true and not world.deserted):
        nobody = "No gateway is connected" if not envoys else "No processor is connected"
        return Verdict("Unknown", NO_GATEWAY, f"{nobody}, so it is in force nowhere.", waiting=True)
    if was_true or not behind:
        return IN_FORCE
    return Verdict("Unknown", PENDING, _waiting(behind, envoys + processors, world, key), waiting=True)


def _refusal(key: ObjectKey, world: World) -> str:
    name = str(key)
    for report in world.reports:
        if world.history.has_judged(report.edition, key):
            for refused, words in report.refused:
                if refused == name:
                    return bounded(words).rstrip(". ") or "without a word"
    return ""


def _waiting(behind: Sequence[Report], total: int, world: World, key: ObjectKey) -> str:
    held = next((report.held for report in behind if report.held), "")
    if held:
        return f"Held back: {held}. What was accepted before stays in force."
    late = [node for report in behind for node in report.late]
    count = sum(report.late_count for report in behind)
    lagging = [report.replica for report in behind if not world.history.has_used(report.edition, key)]
    parts = []
    if count:
        parts.append(f"{count} of {total} gateways and processors: {_some(late, count)}")
    if lagging or not count:
        names = lagging or [report.replica for report in behind]
        parts.append(f"operator replicas that have not reported it: {_some(names, len(names))}")
    return "Waiting for " + "; ".join(parts) + "."


def _some(names: Sequence[str], count: int) -> str:
    shown = [printable(name, 128) for name in sorted(names)[:_SHOWN]]
    more = count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def bounded(words: str) -> str:
    """Somebody else's words, fit for a status: on one line, printable, not endless."""
    return printable(" ".join(words.split()), MAX_WORDS)


def printable(text: str, limit: int) -> str:
    """At most ``limit`` printable characters."""
    clean = "".join(ch if ch.isprintable() else "?" for ch in text[:limit])
    return clean if len(text) <= limit else f"{clean[: limit - 3]}..."
