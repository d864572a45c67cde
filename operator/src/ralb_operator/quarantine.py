"""Pools that Envoy refuses are left out, so that one bad pool does not hold up everybody's changes.

What Envoy refuses is a resource of a certain content. As soon as that content changes the pool gets another chance.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from ralb_api.problems import ObjectKey, Problem
from ralb_operator.compile import Reason, Result
from ralb_operator.compile.envoy.providers import PREFIX as PROVIDER_PREFIX
from ralb_operator.view import View
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS
from ralb_operator.xds.subscription import Nack

# What problems about refused pools begin with, before Envoy's own words.
REFUSES: Final = "Envoy refuses this pool: "
_CLUSTER_PREFIX = "pool/"


class Quarantine:
    """Remembers what was refused."""

    def __init__(self) -> None:
        # (type URL, name) of a resource -> (refused version, Envoy's words)
        self._refused: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, nacks: Iterable[Nack]) -> bool:
        """Take note of refusals; whether there is one that was not known."""
        new = False
        for nack in nacks:
            if pool_of(nack.type_url, nack.name) is None or nack.version is None:
                continue
            known = self._refused.get((nack.type_url, nack.name))
            if known is None or known[0] != nack.version:
                self._refused[nack.type_url, nack.name] = (nack.version, nack.message)
                new = True
        return new

    def pools(self, result: Result) -> dict[ObjectKey, str]:
        """Pools of which ``result`` still has the very content that was refused, with Envoy's words."""
        found: dict[ObjectKey, str] = {}
        for (type_url, name), (version, message) in list(self._refused.items()):
            resource = result.xds.get(type_url).get(name)
            key = pool_of(type_url, name)
            if resource is None or resource.version != version or key is None:
                del self._refused[type_url, name]
            else:
                found[key] = message
        return found


def without(view: View, pools: Mapping[ObjectKey, str]) -> View:
    """The view without these pools, and with a problem for each."""
    problems = [
        Problem(
            key,
            "",
            Reason.REFUSED,
            f"{REFUSES}{message}",
            "change spec.backend or spec.balancing; until then the pool is left out",
            view.sources.get(key, ""),
        )
        for key, message in sorted(pools.items())
    ]
    kept = {key: pool for key, pool in view.pools.items() if key not in pools}
    return replace(view, pools=kept, problems=(*view.problems, *problems))


def pool_of(type_url: str, name: str) -> ObjectKey | None:
    """The pool a resource belongs to; None for resources of no pool."""
    if name.startswith(PROVIDER_PREFIX) and type_url != ENDPOINTS:
        name = name.removeprefix(PROVIDER_PREFIX)
    elif type_url == CLUSTER and name.startswith(_CLUSTER_PREFIX):
        name = name.removeprefix(_CLUSTER_PREFIX)
    elif type_url != ENDPOINTS:
        return None
    # Behind the pool's name may follow which of its resources it is.
    namespace, _, rest = name.partition("/")
    pool = rest.partition("/")[0]
    return ObjectKey("ModelPool", namespace, pool) if pool else None
