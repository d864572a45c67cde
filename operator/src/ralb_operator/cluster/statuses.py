"""From what is true to what is written: an object's new ``.status``, or None when the one it has says the same.

Pure; the clock is passed in. Only our own condition types are looked at and written. The trap is churn: whatever changes with
every publication must not be in a status. ``status.snapshot`` is therefore the version with which the object's present generation
became programmed, and messages count nothing but the object's own pods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ralb_api.problems import ObjectKey
from ralb_operator.cluster.programmed import PROGRAMMED, Verdict
from ralb_operator.cluster.scraping import METRICS_AVAILABLE
from ralb_operator.compile import ConditionType, Status

MAX_MESSAGE: Final = 32_768
_OF_POOLS: Final = (ConditionType.READY.value, METRICS_AVAILABLE)
_ORDER: Final = (ConditionType.ACCEPTED.value, ConditionType.RESOLVED_REFS.value, PROGRAMMED, *_OF_POOLS)
_SHORT: Final = 12
_FIELDS: Final = ("status", "reason", "message", "observedGeneration")


@dataclass(frozen=True, slots=True)
class Said:
    """One condition without times."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an object's status should say.

    Attributes:
        generation: the generation that was judged.
        conditions: in the order they are written.
        endpoints: (ready, all) pods, None for no such field.
        snapshot: version it became programmed with if that happens just now; "" if it is not programmed.
    """

    generation: int
    conditions: tuple[Said, ...]
    endpoints: tuple[int, int] | None = None
    snapshot: str = ""


@dataclass(frozen=True, slots=True)
class Transition:
    """A condition that changed its truth, or that is new; ``before`` is "" then."""

    type: str
    before: str
    after: str
    reason: str
    message: str
    at: str


def wanted(
    status: Status, verdict: Verdict, generation: int, snapshot: str, metrics: tuple[str, str, str] | None = None
) -> Wanted:
    """Compile's status and the verdict about ``Programmed`` together.

    Args:
        status: as compiled.
        verdict: see ``programmed``.
        generation: of the object that was judged.
        snapshot: version of the snapshot now published.
        metrics: status, reason and message of ``MetricsAvailable``; None for no such condition.
    """
    said = {
        condition.type.value: Said(
            condition.type.value, "True" if condition.status else "False", str(condition.reason), condition.message
        )
        for condition in status.conditions
    }
    said[PROGRAMMED] = Said(PROGRAMMED, verdict.status, verdict.reason, verdict.message)
    if metrics is not None:
        said[METRICS_AVAILABLE] = Said(METRICS_AVAILABLE, *metrics)
    conditions = tuple(said[type_] for type_ in _ORDER if type_ in said)
    short = snapshot[:_SHORT] if verdict.status == "True" else ""
    return Wanted(generation, conditions, status.endpoints, short)


def render(key: ObjectKey, old: Mapping[str, Any], want: Wanted, now: datetime) -> dict[str, Any] | None:
    """The part of ``.status`` that is ours; None if ``old`` says the same.

    Args:
        key: of the object.
        old: its status as it is.
        want: what it should say.
        now: with a time zone.
    """
    before = own_conditions(key, old)
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions: list[dict[str, Any]] = []
    for said in want.conditions:
        last = before.get(said.type, {})
        since = last.get("lastTransitionTime") if last.get("status") == said.status else None
        conditions.append(
            {
                "type": said.type,
                "status": said.status,
                "observedGeneration": want.generation,
                "lastTransitionTime": since if isinstance(since, str) and since else stamp,
                "reason": said.reason,
                "message": said.message[:MAX_MESSAGE],
            }
        )
    new: dict[str, Any] = {"conditions": conditions}
    if want.endpoints is not None:
        new["endpoints"] = {"ready": want.endpoints[0], "total": want.endpoints[1]}
    if want.snapshot:
        kept = old.get("snapshot")
        same = was_programmed(key, old, want.generation) and isinstance(kept, str) and kept
        new["snapshot"] = kept if same else want.snapshot
    return None if _equal(before, old, new) else new


def own_conditions(key: ObjectKey, status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions in ``status`` that are ours to write, by type; whatever else is in there is passed over."""
    found: dict[str, Mapping[str, Any]] = {}
    conditions = status.get("conditions")
    for item in conditions if isinstance(conditions, list) else ():
        if isinstance(item, Mapping) and isinstance(type_ := item.get("type"), str) and type_ in _ORDER:
            found[type_] = item
    if key.kind != "ModelPool":
        for type_ in _OF_POOLS:
            found.pop(type_, None)
    return found


def was_programmed(key: ObjectKey, status: Mapping[str, Any], generation: int) -> bool:
    """Whether a status says that this generation is in force."""
    condition = own_conditions(key, status).get(PROGRAMMED, {})
    return condition.get("status") == "True" and condition.get("observedGeneration") == generation


def is_unknown(key: ObjectKey, status: Mapping[str, Any], generation: int) -> bool:
    """Whether a status says that it is not known whether this generation is in force."""
    condition = own_conditions(key, status).get(PROGRAMMED, {})
    return condition.get("status") == "Unknown" and condition.get("observedGeneration") == generation


def transitions(key: ObjectKey, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Transition, ...]:
    """Conditions of which ``new`` says something else than ``old`` does."""
    before = own_conditions(key, old)
    found = []
    for item in new["conditions"]:
        last = before.get(item["type"], {}).get("status")
        last = last if isinstance(last, str) else ""
        if last != item["status"]:
            found.append(
                Transition(
                    item["type"], last, item["status"], item["reason"], item["message"], item["lastTransitionTime"]
                )
            )
    return tuple(found)


def _equal(before: Mapping[str, Mapping[str, Any]], old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    after = {item["type"]: item for item in new["conditions"]}
    if before.keys() != after.keys() or any(old.get(name) != new.get(name) for name in ("endpoints", "snapshot")):
        return False
    return all(
        before[type_].get(name) == after[type_][name] for type_ in after for name in (*_FIELDS, "lastTransitionTime")
    )
