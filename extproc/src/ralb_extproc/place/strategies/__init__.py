"""The balancing strategies, one short file each; its docstring says the algorithm, the signals it reads and its limits.

May not enter: state of pods (``pods``), classes and tie-breaks (``strategy``), I/O.
"""

from collections.abc import Callable, Mapping
from typing import Final

from ralb.v1.snapshot_pb2 import Balancing, Pool, Role
from ralb_extproc.place.strategies.kv_aware import KVAware
from ralb_extproc.place.strategies.least_request import LeastRequest
from ralb_extproc.place.strategies.maglev import Maglev
from ralb_extproc.place.strategies.power_of_two import PowerOfTwo
from ralb_extproc.place.strategies.prefix_aware import PrefixAware
from ralb_extproc.place.strategies.reasoning_aware import ReasoningAware
from ralb_extproc.place.strategies.ring_hash import RingHash
from ralb_extproc.place.strategies.round_robin import RoundRobin
from ralb_extproc.place.strategies.session_affinity import SessionAffinity
from ralb_extproc.place.strategies.weighted_round_robin import WeightedRoundRobin
from ralb_extproc.place.strategy import Strategy

_MAKERS: Final[Mapping[int, Callable[[Balancing], Strategy]]] = {
    Balancing.REASONING_AWARE: ReasoningAware,
    Balancing.WEIGHTED_ROUND_ROBIN: lambda _: WeightedRoundRobin(),
    Balancing.ROUND_ROBIN: lambda _: RoundRobin(),
    Balancing.LEAST_REQUEST: lambda _: LeastRequest(),
    Balancing.POWER_OF_TWO: lambda _: PowerOfTwo(),
    Balancing.RING_HASH: RingHash,
    Balancing.MAGLEV: Maglev,
    Balancing.PREFIX_AWARE: lambda _: PrefixAware(),
    Balancing.KV_AWARE: lambda _: KVAware(),
    Balancing.SESSION_AFFINITY: SessionAffinity,
}
# Envoy has these itself, and the operator gives the pool's clusters their policy: nothing is gained by naming it a pod.
_STATIC: Final = frozenset({Balancing.ROUND_ROBIN, Balancing.LEAST_REQUEST, Balancing.RING_HASH, Balancing.MAGLEV})


def new_strategy(balancing: Balancing) -> Strategy:
    """The strategy of a pool; the default for one that a newer operator may know."""
    return _MAKERS.get(balancing.strategy, _MAKERS[Balancing.REASONING_AWARE])(balancing)


def by_envoy(pool: Pool) -> bool:
    """Whether Envoy itself spreads the requests of a pool over its pods.

    Not those of a Decode pool: who computes the prompt must know where the answer is computed.
    """
    return pool.balancing.strategy in _STATIC and pool.role != Role.ROLE_DECODE


__all__ = [
    "KVAware",
    "LeastRequest",
    "Maglev",
    "PowerOfTwo",
    "PrefixAware",
    "ReasoningAware",
    "RingHash",
    "RoundRobin",
    "SessionAffinity",
    "WeightedRoundRobin",
    "by_envoy",
    "new_strategy",
]
