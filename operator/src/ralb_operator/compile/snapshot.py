"""The resolved view as the processor's snapshot."""

from collections.abc import Mapping

import xxhash

from ralb.v1 import snapshot_pb2 as pb
from ralb_api.errors import Code
from ralb_api.objects import (
    Action,
    Balancing,
    Connector,
    Engine,
    HeaderMatch,
    HeaderMatchType,
    ModelPool,
    Prefer,
    ProviderSchema,
    Role,
    RoutingPolicy,
    Strategy,
    StreamUsage,
    Weights,
    When,
)
from ralb_api.objects.common import seconds
from ralb_api.problems import ObjectKey
from ralb_operator.compile.backends import Backing
from ralb_operator.compile.envoy.clusters import PoolCluster
from ralb_operator.compile.resolve import Resolved

_ENGINES = {
    Engine.VLLM: pb.Engine.ENGINE_VLLM,
    Engine.SGLANG: pb.Engine.ENGINE_SGLANG,
    Engine.TENSORRT_LLM: pb.Engine.ENGINE_TENSORRT_LLM,
    Engine.GENERIC: pb.Engine.ENGINE_GENERIC,
}
_ROLES = {
    Role.UNIFIED: pb.Role.ROLE_UNIFIED,
    Role.PREFILL: pb.Role.ROLE_PREFILL,
    Role.DECODE: pb.Role.ROLE_DECODE,
}
_CONNECTORS = {
    Connector.NIXL: pb.Connector.CONNECTOR_NIXL,
    Connector.SIDECAR: pb.Connector.CONNECTOR_SIDECAR,
}
# What a client is told when the rule for its request points to a tier that is missing or has no pool.
_UNRESOLVED = "The policy for this request points to a tier that can not serve; its author must correct it."
# Why the processor sends nothing to a pool of which a reference does not resolve; it stands in decision records.
_BLOCKED = "its references do not resolve"
_PROVIDER_APIS = {
    ProviderSchema.OPENAI: ("chat", "completions", "embeddings", "responses"),
    ProviderSchema.ANTHROPIC: ("messages",),
}
_HEADER_TYPES = {
    HeaderMatchType.EXACT: pb.HeaderMatch.EXACT,
    HeaderMatchType.PREFIX: pb.HeaderMatch.PREFIX,
    HeaderMatchType.PRESENT: pb.HeaderMatch.PRESENT,
}


def snapshot(
    resolved: Resolved, backings: Mapping[ObjectKey, Backing], clusters: Mapping[ObjectKey, PoolCluster]
) -> pb.Snapshot:
    """The snapshot under its content hash."""
    message = pb.Snapshot(
        pools=[_pool(resolved, key, pool, backings[key], clusters[key]) for key, pool in resolved.pools.items()],
        tiers=[_tier(resolved, key) for key in resolved.tiers],
        policies=[_policy(resolved, key, policy) for key, policy in resolved.policies],
    )
    message.version = xxhash.xxh3_128_hexdigest(message.SerializeToString(deterministic=True))
    return message


def _pool(resolved: Resolved, key: ObjectKey, pool: ModelPool, backing: Backing, cluster: PoolCluster) -> pb.Pool:
    spec = pool.spec
    cached = spec.cost.cached_input_per_million
    message = pb.Pool(
        id=key.id,
        cluster=cluster.name,
        rewrite_cluster=cluster.rewrite_name,
        model=pb.Model(
            name=spec.model.name,
            aliases=spec.model.aliases,
            adapters=spec.model.adapters,
            context_window=spec.model.context_window,
            capabilities=sorted(spec.model.capabilities),
        ),
        cost=pb.Cost(
            input_per_million=spec.cost.input_per_million,
            cached_input_per_million=spec.cost.input_per_million if cached is None else cached,
            output_per_million=spec.cost.output_per_million,
        ),
        concurrency_per_replica=spec.balancing.concurrency_per_replica,
        balancing=_balancing(spec.balancing),
        health=_health(spec.balancing),
        labels=spec.labels,
        role=_ROLES[spec.role],
        speculative_tokens=spec.speculative.draft_tokens if spec.speculative is not None else 0,
    )
    backend = spec.backend
    seen = backend.pods or backend.inference_pool or backend.service
    if seen is not None and backing.endpoints is not None:
        message.engine = _ENGINES[seen.engine]
        message.metrics_path = seen.metrics_path
        for address, name in backing.endpoints.ready:
            message.endpoints.add(address=address, name=name)
        for address, name in backing.endpoints.leaving:
            message.endpoints.add(address=address, name=name, draining=True)
        message.endpoints.sort(key=lambda endpoint: endpoint.address)
        events = backend.pods.kv_events if backend.pods is not None else None
        if events is not None:
            message.kv_events.CopyFrom(pb.KvEvents(port=events.port, replay_port=events.replay_port or 0))
    else:
        message.engine = pb.Engine.ENGINE_GENERIC
    if backend.external is not None:
        message.apis.extend(_PROVIDER_APIS[backend.external.api])
    if not backing.resolved:
        message.blocked = _BLOCKED
    prefill, wanted = resolved.prefill.get(key), spec.disaggregation
    if prefill is not None and wanted is not None:
        message.disaggregation.CopyFrom(
            pb.Disaggregation(
                prefill_pool=prefill.id,
                connector=_CONNECTORS[wanted.connector],
                min_prompt_tokens=wanted.min_prompt_tokens,
                timeout_s=seconds(wanted.timeout),
            )
        )
    return message


def _health(spec: Balancing) -> pb.Health:
    return pb.Health(
        degraded_error=spec.health.degraded_error_percent / 100,
        failed_error=spec.health.failed_error_percent / 100,
        max_ejected=spec.health.max_ejected_percent / 100,
        slow_factor=spec.health.slow_percent / 100,
        slow_start_s=seconds(spec.slow_start),
        drain_s=seconds(spec.drain),
    )


def _balancing(spec: Balancing) -> pb.Balancing:
    message = pb.Balancing(strategy=spec.strategy.name)
    if spec.strategy in (Strategy.RING_HASH, Strategy.MAGLEV):
        hashed = spec.hash
        message.hash_header = hashed.header or ""
        message.bounded_load_percent = hashed.bounded_load_percent
        message.max_key_share_percent = hashed.max_key_share_percent
    if spec.strategy in (Strategy.REASONING_AWARE, Strategy.SESSION_AFFINITY):
        message.affinity_ttl_s = seconds(spec.affinity.ttl)
    return message


def _tier(resolved: Resolved, key: ObjectKey) -> pb.Tier:
    spec = resolved.tiers[key].spec
    pools = [spec.pools[index] for index in resolved.tier_pools[key]]
    return pb.Tier(
        id=key.id,
        name=key.name,
        level=spec.level,
        pools=[
            pb.TierPool(pool=f"{key.namespace}/{pool.name}", weight=pool.weight, priority=pool.priority)
            for pool in sorted(pools, key=lambda pool: (pool.priority, pool.name))
        ],
        output_cap=spec.output_cap or 0,
        reasoning_effort=spec.reasoning_effort.lower() if spec.reasoning_effort else "",
        fallback_tiers=[tier.id for tier in resolved.fallbacks[key]],
        spill_tiers=[tier.id for tier in resolved.spills[key]],
        dynamic_weights=spec.weights is Weights.DYNAMIC,
        prefer_price=spec.prefer is Prefer.PRICE,
    )


def _policy(resolved: Resolved, key: ObjectKey, policy: RoutingPolicy) -> pb.Policy:
    spec = policy.spec
    inject = spec.stream_usage is StreamUsage.INJECT
    return pb.Policy(
        id=key.id,
        name=key.name,
        hostnames=sorted(spec.match.hostnames),
        paths=sorted(spec.match.paths),
        models=sorted(spec.match.models),
        headers=_headers(spec.match.headers),
        rules=[
            pb.Rule(name=rule.name, when=_when(rule.when), action=_action(resolved, key.namespace, rule))
            for rule in spec.rules
        ],
        default_action=_action(resolved, key.namespace, spec.default),
        stream_usage=pb.StreamUsage.STREAM_USAGE_INJECT if inject else pb.StreamUsage.STREAM_USAGE_AS_REQUESTED,
    )


def _action(resolved: Resolved, namespace: str, action: Action) -> pb.Action:
    options = action.options
    message = pb.Action(
        output_cap=options.output_cap or 0,
        reasoning_effort=options.reasoning_effort.lower() if options.reasoning_effort else "",
    )
    if action.use.tier is not None:
        tier = ObjectKey("ModelTier", namespace, action.use.tier)
        if tier in resolved.tiers:
            message.tier = tier.id
        else:
            message.reject.CopyFrom(pb.Reject(status=503, code=Code.NO_ENDPOINT, message=_UNRESOLVED))
    elif action.use.reject is not None:
        reject = action.use.reject
        message.reject.CopyFrom(pb.Reject(status=reject.status, code=Code.REJECTED_BY_POLICY, message=reject.message))
    return message


def _when(when: When) -> pb.When:
    message = pb.When(
        intents=when.intents,
        workload_classes=when.workload_classes,
        labels=when.labels,
        headers=_headers(when.headers),
        models=when.models,
    )
    if when.complexity is not None:
        message.complexity_min, message.complexity_max = when.complexity.min, when.complexity.max
    if when.min_confidence is not None:
        message.confidence_min = when.min_confidence
    if when.tools is not None:
        message.tools = when.tools.offered
        message.tool_names.extend(when.tools.names)
    if when.input_tokens is not None:
        message.input_tokens_min = when.input_tokens.min
        if when.input_tokens.max is not None:
            message.input_tokens_max = when.input_tokens.max
    return message


def _headers(matches: tuple[HeaderMatch, ...]) -> list[pb.HeaderMatch]:
    return [pb.HeaderMatch(name=match.name, type=_HEADER_TYPES[match.type], value=match.value) for match in matches]
