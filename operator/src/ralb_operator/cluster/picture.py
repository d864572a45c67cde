"""From the store to a ``View``. Pure, and cheap to repeat: what did not change since the last picture is the same object."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from ralb_api.objects import KINDS
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.cluster import kinds
from ralb_operator.cluster.store import Entry, Store
from ralb_operator.view import Gateway, View

# Of objects that are not RALB's own, so that a cluster full of odd ones does not fill logs and memory.
MAX_PROBLEMS: Final = 100

_OURS: Final = {"ModelPool": "pools", "ModelTier": "tiers", "RoutingPolicy": "policies"}
# Checked and given a status, but not compiled yet.
_NOT_ACTED_ON: Final = tuple(kind for kind in KINDS if kind not in _OURS)
_OTHERS: Final = {
    kinds.POD.name: "pods",
    kinds.SERVICE.name: "services",
    kinds.SLICE.name: "slices",
    kinds.INFERENCE_POOL.name: "inference_pools",
    kinds.GRANT.name: "grants",
}


class Picture:
    """Makes views of one store.

    Args:
        store: what is known.
        gateway: settings of the installation.
    """

    def __init__(self, store: Store, gateway: Gateway) -> None:
        self._store = store
        self._gateway = gateway
        self._made: dict[str, tuple[int, Any]] = {}

    def view(self, unreadable: Mapping[tuple[str, str], str]) -> View:
        """The view of now.

        Args:
            unreadable: (namespace, name) of Secrets that cannot be read -> why.
        """
        secrets = self._cached(kinds.SECRET.name, _secrets)
        return View(
            **{field: self._cached(kind, _by_key) for kind, field in _OURS.items()},
            **{field: self._cached(kind, _values) for kind, field in _OTHERS.items()},
            others={key: value for kind in _NOT_ACTED_ON for key, value in self._cached(kind, _by_key).items()},
            secrets=secrets,
            unreadable_secrets=dict(unreadable),
            problems=self._problems(),
            gateway=self._gateway,
        )

    def pools_and_grants(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What decides which Secrets are needed."""
        pools = self._cached("ModelPool", _by_key)
        return tuple(pools.values()), self._cached(kinds.GRANT.name, _values)

    def _problems(self) -> tuple[Problem, ...]:
        own = tuple(problem for kind in KINDS for problem in self._cached(f"{kind} problems", _problems, kind))
        foreign = [
            problem
            for kind in (*_OTHERS, kinds.SECRET.name)
            for problem in self._cached(f"{kind} problems", _problems, kind)
        ]
        if (rest := len(foreign) - MAX_PROBLEMS) > 0:
            text = f"{rest} more objects of the cluster cannot be read"
            foreign[MAX_PROBLEMS:] = [Problem(None, "", "Unreadable", text, "", severity=Severity.WARNING)]
        return (*own, *foreign)

    def _cached(self, name: str, make: Callable[[list[Entry]], Any], kind: str = "") -> Any:
        kind = kind or name
        revision = self._store.revision(kind)
        known = self._made.get(name)
        if known is None or known[0] != revision:
            known = (revision, make(list(self._store.entries(kind))))
            self._made[name] = known
        return known[1]


def _by_key(entries: list[Entry]) -> dict[ObjectKey, Any]:
    return {entry.key: entry.value for entry in entries if entry.value is not None}


def _values(entries: list[Entry]) -> tuple[Any, ...]:
    return tuple(entry.value for entry in entries if entry.value is not None)


def _secrets(entries: list[Entry]) -> dict[tuple[str, str], Any]:
    return {(entry.key.namespace, entry.key.name): entry.value for entry in entries if entry.value is not None}


def _problems(entries: list[Entry]) -> tuple[Problem, ...]:
    return tuple(problem for entry in entries for problem in entry.problems)
