"""How Envoy spreads a pool's requests itself: the policy of its clusters, and what that hashes.

Strategies that need no more than Envoy knows are Envoy's own; the processor then names no pod. For the others the processor
names pods, and the policy nearest to the strategy serves those requests whose pods are all gone, and pools whose replicas are
not known (a service, several addresses behind one name).

What is hashed is the processor's word in the request's metadata, put into filter state because hash policies read no metadata:
unlike a header it cannot come from a client, reaches no pod, and is there for every attempt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, lru_cache
from typing import Final

from betterproto2 import Message
from envoy_data_plane.envoy.config.cluster.v3 import LoadBalancingPolicy, LoadBalancingPolicyPolicy
from envoy_data_plane.envoy.config.core.v3 import DataSource, SubstitutionFormatString
from envoy_data_plane.envoy.config.route.v3 import RouteActionHashPolicy, RouteActionHashPolicyFilterState
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.load_balancing_policies.common.v3 import (
    ConsistentHashingLbConfig,
    SlowStartConfig,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.least_request.v3 import LeastRequest
from envoy_data_plane.envoy.extensions.load_balancing_policies.maglev.v3 import Maglev
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host.v3 import (
    OverrideHost,
    OverrideHostOverrideHostSource,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.ring_hash.v3 import RingHash
from envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin.v3 import RoundRobin
from envoy_data_plane.envoy.type.metadata.v3 import MetadataKey, MetadataKeyPathSegment

from ralb_api import headers
from ralb_api.objects import Balancing, Strategy
from ralb_api.objects.common import seconds
from ralb_operator.compile.envoy.pack import extension, typed

# The policy nearest to a strategy, and the strategies that are Envoy's own.
_NEAREST: Final[Mapping[Strategy, Strategy]] = {
    Strategy.WEIGHTED_ROUND_ROBIN: Strategy.ROUND_ROBIN,
    Strategy.ROUND_ROBIN: Strategy.ROUND_ROBIN,
    Strategy.RING_HASH: Strategy.RING_HASH,
    Strategy.MAGLEV: Strategy.MAGLEV,
    Strategy.PREFIX_AWARE: Strategy.RING_HASH,
    Strategy.SESSION_AFFINITY: Strategy.RING_HASH,
}
_STATIC: Final = frozenset({Strategy.ROUND_ROBIN, Strategy.LEAST_REQUEST, Strategy.RING_HASH, Strategy.MAGLEV})
_HASHING: Final = frozenset({Strategy.RING_HASH, Strategy.MAGLEV})
_HASH_STATE: Final = "ralb.hash"
_RING_POINTS: Final = 8192


@dataclass(frozen=True, slots=True)
class Policy:
    """How the clusters of a pool choose.

    Attributes:
        own: Envoy's policy: RoundRobin, LeastRequest, RingHash or Maglev.
        picked: whether pods that the processor names come first.
        slow_start_s: window in seconds; there is none in hashing.
        bound_percent: most load of a pod in percent of the mean, for hashing.
    """

    own: Strategy = Strategy.LEAST_REQUEST
    picked: bool = True
    slow_start_s: float = 0.0
    bound_percent: int = 0


def policy_of(balancing: Balancing, *, known: bool, exact: bool) -> Policy:
    """The policy of a pool.

    Args:
        balancing: its settings.
        known: whether its replicas are known one by one.
        exact: whether the processor has to name the pod whatever the strategy.
    """
    own = _NEAREST.get(balancing.strategy, Strategy.LEAST_REQUEST)
    hashing = own in _HASHING
    return Policy(
        own,
        picked=known and (exact or balancing.strategy not in _STATIC),
        slow_start_s=0.0 if hashing else seconds(balancing.slow_start),
        bound_percent=balancing.hash.bounded_load_percent if hashing else 0,
    )


@lru_cache(maxsize=256)
def policy_config(policy: Policy) -> LoadBalancingPolicy:
    """As a cluster has it."""
    own = _policy(f"envoy.load_balancing_policies.{_NAMES[policy.own]}", _own(policy))
    if not policy.picked:
        return own
    source = OverrideHostOverrideHostSource(
        metadata=MetadataKey(key=headers.METADATA_LB, path=[MetadataKeyPathSegment(key=headers.METADATA_LB_KEY)])
    )
    return _policy(
        "envoy.load_balancing_policies.override_host",
        OverrideHost(override_host_sources=[source], fallback_policy=own),
    )


_NAMES: Final[Mapping[Strategy, str]] = {
    Strategy.ROUND_ROBIN: "round_robin",
    Strategy.LEAST_REQUEST: "least_request",
    Strategy.RING_HASH: "ring_hash",
    Strategy.MAGLEV: "maglev",
}


def _own(policy: Policy) -> Message:
    if policy.own in _HASHING:
        bound = ConsistentHashingLbConfig(hash_balance_factor=policy.bound_percent)
        if policy.own is Strategy.MAGLEV:
            return Maglev(consistent_hashing_lb_config=bound)
        return RingHash(minimum_ring_size=_RING_POINTS, consistent_hashing_lb_config=bound)
    config = RoundRobin() if policy.own is Strategy.ROUND_ROBIN else LeastRequest()
    if policy.slow_start_s > 0:
        config.slow_start_config = SlowStartConfig(slow_start_window=timedelta(seconds=policy.slow_start_s))
    return config


def _policy(name: str, config: Message) -> LoadBalancingPolicy:
    return LoadBalancingPolicy(
        policies=[LoadBalancingPolicyPolicy(typed_extension_config=extension(name, typed(config)))]
    )


@cache
def hash_filter() -> HttpFilter:
    """Puts the processor's key where hash policies find it; stands behind the processor."""
    value = FilterStateValue(
        object_key=_HASH_STATE,
        factory_key="envoy.hashable_string",
        format_string=SubstitutionFormatString(
            text_format_source=DataSource(
                inline_string=f"%DYNAMIC_METADATA({headers.METADATA_DECISION}:{headers.METADATA_HASH_KEY})%"
            ),
            omit_empty_values=True,
        ),
        skip_if_empty=True,
    )
    return HttpFilter(
        name="ralb.hash_key",
        typed_config=typed(SetFilterState(on_request_headers=[value])),
    )


@cache
def hash_policy() -> RouteActionHashPolicy:
    """What the route hashes for clusters that want it; a request without a key goes to a random pod."""
    return RouteActionHashPolicy(filter_state=RouteActionHashPolicyFilterState(key=_HASH_STATE))
