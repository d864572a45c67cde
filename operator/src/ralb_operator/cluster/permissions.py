"""What the operator must be allowed to do, as data: the chart's roles are made from it, and tests compare the two.

Secrets are not in it as a whole: they are watched one by one by name, so a cluster's administrator may grant single names,
a namespace or all; what may not be read is reported in the status of the object that refers to it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ralb_api import GROUP
from ralb_api.objects import KINDS
from ralb_operator.rotation import Part


class Scope(StrEnum):
    """Where a rule must hold."""

    WATCHED = "watched"  # a ClusterRole, or in namespaced mode a Role in every watched namespace
    OWN = "own"  # a Role in the operator's own namespace


@dataclass(frozen=True, slots=True)
class Rule:
    """One RBAC rule.

    Attributes:
        group: API group, "" for core.
        resources, verbs: as in RBAC.
        scope: where it is needed.
        optional: the operator works without it, with less.
        why: what for.
        names: of the only objects it is needed for, after the installation's prefix; none = all.
    """

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    scope: Scope
    optional: bool = False
    why: str = ""
    names: tuple[str, ...] = ()


_READ: Final = ("get", "list", "watch")
_OURS: Final = tuple(sorted(model.plural for model in KINDS.values()))

RULES: Final[tuple[Rule, ...]] = (
    Rule(GROUP, _OURS, _READ, Scope.WATCHED, why="the objects to compile"),
    Rule(
        GROUP,
        tuple(f"{plural}/status" for plural in _OURS),
        ("patch",),
        Scope.WATCHED,
        why="their conditions (only the leader writes)",
    ),
    Rule("", ("pods", "services"), ("list", "watch"), Scope.WATCHED, why="what pools select"),
    Rule("discovery.k8s.io", ("endpointslices",), ("list", "watch"), Scope.WATCHED, why="the pods behind Services"),
    Rule(
        "inference.networking.k8s.io",
        ("inferencepools",),
        ("list", "watch"),
        Scope.WATCHED,
        optional=True,
        why="InferencePools that ModelPools refer to",
    ),
    Rule(
        "gateway.networking.k8s.io",
        ("referencegrants",),
        ("list", "watch"),
        Scope.WATCHED,
        optional=True,
        why="references across namespaces",
    ),
    Rule(
        "",
        ("secrets",),
        ("list", "watch"),
        Scope.WATCHED,
        optional=True,
        why="credentials and CAs of external pools; each by its name, so resourceNames may be used",
    ),
    Rule("events.k8s.io", ("events",), ("create",), Scope.WATCHED, optional=True, why="changes of conditions"),
    Rule(
        "coordination.k8s.io",
        ("leases",),
        ("get", "list", "watch", "create", "update", "patch", "delete"),
        Scope.OWN,
        why="the leader's Lease, and a report per replica",
    ),
    Rule(
        "",
        ("secrets",),
        ("get", "list", "watch", "update"),
        Scope.OWN,
        optional=True,
        why="certificates, with --tls=bootstrap; --tls=secret needs list and watch of the first alone",
        names=tuple(f"-{part}" for part in Part),
    ),
    Rule("", ("secrets",), ("create",), Scope.OWN, optional=True, why="the same; creation cannot be limited to names"),
)
