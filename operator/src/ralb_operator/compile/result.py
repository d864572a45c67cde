"""What ``compile`` gives: the snapshot, Envoy's resources, a status per object, and all problems."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ralb.v1.snapshot_pb2 import Snapshot
from ralb_api.problems import ObjectKey, Problem
from ralb_operator.xds.resources import Resources


class ConditionType(StrEnum):
    """Conditions ``compile`` can judge. ``Programmed`` comes from Envoy's answers, so it is not here."""

    ACCEPTED = "Accepted"
    RESOLVED_REFS = "ResolvedRefs"
    READY = "Ready"


class Reason(StrEnum):
    """Reasons of conditions and problems. They are API: documented, never renamed."""

    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    CONFLICTED = "Conflicted"
    RESOLVED_REFS = "ResolvedRefs"
    REF_NOT_FOUND = "RefNotFound"
    REF_NOT_ACCEPTED = "RefNotAccepted"
    REF_NOT_PERMITTED = "RefNotPermitted"
    SECRET_KEY_NOT_FOUND = "SecretKeyNotFound"
    SECRET_KEY_INVALID = "SecretKeyInvalid"
    CYCLE = "Cycle"
    CHAIN_TOO_LONG = "ChainTooLong"
    READY = "Ready"
    NO_ENDPOINTS = "NoEndpoints"
    REFUSED = "Refused"
    NOT_SUPPORTED = "NotSupported"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; ``status`` is its truth."""

    type: ConditionType
    status: bool
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Status:
    """An object's status as far as the view tells.

    Attributes:
        conditions: in the order of ``ConditionType``.
        generation: the object's generation that was judged.
        endpoints: pools only: (ready, all) replicas; None elsewhere, and for pools whose replicas are not seen one by one.
    """

    conditions: tuple[Condition, ...]
    generation: int = 0
    endpoints: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Everything the view means. Equal views give equal results, whatever order their parts came in."""

    snapshot: Snapshot
    xds: Resources
    statuses: Mapping[ObjectKey, Status]
    problems: tuple[Problem, ...]
