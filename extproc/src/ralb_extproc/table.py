"""The snapshot indexed for decisions.

What one request needs is a dictionary look-up away, and what can be worked out once (which pools a tier can fall back on, in
which order) is worked out here, not per request.

``RoutingTable.of`` refuses a snapshot that does not hang together, whole, so that the last good one stays in use. May not
enter: anything that changes between snapshots, such as pod state. Trap: the protobuf messages in ``pools`` and ``tiers``
are shared with every request; nobody may write to them.
"""

import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.match import Claim, Condition
from ralb_extproc.types import Api, Candidate

_ADDRESS = re.compile(r"\S+:([0-9]{1,5})")
# Priorities of pools that a tier spills over to, apart from those of any pool it has or falls back on.
_SPILL = 1000
# APIs as snapshots name them.
_API_WORDS: Mapping[str, Api] = {
    "chat": Api.CHAT,
    "completions": Api.COMPLETIONS,
    "embeddings": Api.EMBEDDINGS,
    "messages": Api.MESSAGES,
    "responses": Api.RESPONSES,
}
# Envoy's configuration does not let us answer later than a little after this.
_MAX_TIMEOUT_S = 300.0
# Why a request is not sent to a pool of role Prefill; it stands in decision records.
_PREFILLS = "only computes prompts for Decode pools"
_API_CAPABILITIES = frozenset({"chat", "completions", "embeddings"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What the filters ask of a pool.

    Attributes:
        ready: it has a ready endpoint, or is a service or provider, whose replicas are not seen.
        blocked: why nothing may be sent to it; "" = nothing stands in the way.
        window: tokens of prompt and answer together; 0 = unknown.
        capabilities: lower case; empty = not declared, so nothing is refused.
        api_declared: the capabilities say which APIs are served (chat, completions, embeddings).
        apis: those its servers speak; None = all.
    """

    ready: bool
    blocked: str
    window: int
    capabilities: frozenset[str]
    api_declared: bool
    apis: frozenset[Api] | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client is told that a policy turns away."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Action:
    """What a rule does: a tier id, or a refusal ("" tier then)."""

    tier: str
    refusal: Refusal | None
    output_cap: int
    reasoning_effort: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition and what to do when it holds."""

    name: str
    condition: Condition
    action: Action


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """A policy ready to be asked.

    Attributes:
        id: policy id.
        claim: which requests it owns.
        rules: in order.
        default: when no rule holds.
        inject_usage: ask for a usage chunk at the end of streams.
        tiers: ids of every tier it can reach, falling back and spilling over included, highest level first.
    """

    id: str
    claim: Claim
    rules: tuple[Rule, ...]
    default: Action
    inject_usage: bool
    tiers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model name a client may ask for, for ``GET /v1/models``.

    Attributes:
        id: the name.
        virtual: a policy routes it; otherwise some pool serves it.
        context_window: the largest among its pools, tokens; 0 = unknown or virtual.
    """

    id: str
    virtual: bool
    context_window: int


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Immutable indexes over one snapshot.

    Attributes:
        version: the snapshot's.
        pools: pool id -> message (read only).
        facts: pool id -> what filters ask.
        tiers: tier id -> message (read only).
        tier_candidates: tier id -> every pool it can use, fallback tiers' after its own, sorted by priority then pool id;
            a pool reached twice stands where it is reached first.
        tier_spill: tier id -> the same of the tiers it spills over to, without its own pools.
        policies: in order of precedence.
        by_model: virtual model name -> the policies that claim it, in order.
        concrete: model name, alias or adapter -> (pool id, name its servers know), sorted by pool id.
        models: every name a client may ask for, sorted.
    """

    version: str
    pools: Mapping[str, pb.Pool]
    facts: Mapping[str, Facts]
    tiers: Mapping[str, pb.Tier]
    tier_candidates: Mapping[str, tuple[Candidate, ...]]
    tier_spill: Mapping[str, tuple[Candidate, ...]]
    policies: tuple[PolicyEntry, ...]
    by_model: Mapping[str, tuple[PolicyEntry, ...]]
    concrete: Mapping[str, tuple[tuple[str, str], ...]]
    models: tuple[ModelInfo, ...]

    @staticmethod
    def of(snapshot: pb.Snapshot) -> "RoutingTable":
        """Index a snapshot.

        Raises:
            ValueError: the snapshot contradicts itself (duplicate or dangling ids, empty names, impossible ranges); the
                text says which object and what.
        """
        pools = {pool.id: pool for pool in snapshot.pools}
        _unique([pool.id for pool in snapshot.pools], "pool")
        _unique([tier.id for tier in snapshot.tiers], "tier")
        _unique([policy.id for policy in snapshot.policies], "policy")
        for pool in snapshot.pools:
            _check_pool(pool)
            _check_disaggregation(pool, pools)
        tiers = {tier.id: tier for tier in snapshot.tiers}
        for tier in snapshot.tiers:
            _check_tier(tier, pools, tiers)
        candidates = {
            tier.id: _candidates((tier, *(tiers[other] for other in tier.fallback_tiers)), pools)
            for tier in snapshot.tiers
        }
        spill = {
            tier.id: _candidates(
                [tiers[other] for other in tier.spill_tiers], pools, {each.pool for each in tier.pools}, _SPILL
            )
            for tier in snapshot.tiers
        }
        policies = tuple(_policy(policy, tiers) for policy in snapshot.policies)
        by_model: dict[str, list[PolicyEntry]] = {}
        for entry in policies:
            for name in entry.claim.models:
                by_model.setdefault(name, []).append(entry)
        concrete = _concrete(snapshot.pools)
        return RoutingTable(
            version=snapshot.version,
            pools=pools,
            facts={pool.id: _facts(pool) for pool in snapshot.pools},
            tiers=tiers,
            tier_candidates=candidates,
            tier_spill=spill,
            policies=policies,
            by_model={name: tuple(entries) for name, entries in by_model.items()},
            concrete=concrete,
            models=_models(by_model, concrete, pools),
        )


def is_service(pool: pb.Pool) -> bool:
    """Whether a pool is one name behind which something else balances: no endpoints are listed and none scraped."""
    return not pool.endpoints and not pool.metrics_path


def _unique(ids: Sequence[str], kind: str) -> None:
    seen: set[str] = set()
    for name in ids:
        if not name:
            raise ValueError(f"a {kind} has no id")
        if name in seen:
            raise ValueError(f"{kind} {name} occurs twice")
        seen.add(name)


def _check_pool(pool: pb.Pool) -> None:
    if not pool.cluster:
        raise ValueError(f"pool {pool.id} names no Envoy cluster")
    if not pool.model.name:
        raise ValueError(f"pool {pool.id} has no model name")
    if not all(pool.model.aliases) or not all(pool.model.adapters):
        raise ValueError(f"pool {pool.id} has an empty alias or adapter name")
    cost = pool.cost
    for price in (cost.input_per_million, cost.cached_input_per_million, cost.output_per_million):
        if not (math.isfinite(price) and price >= 0):
            raise ValueError(f"pool {pool.id} has the impossible price {price}")
    addresses = [endpoint.address for endpoint in pool.endpoints]
    for address in addresses:
        parts = _ADDRESS.fullmatch(address)
        if parts is None or not 0 < int(parts[1]) < 65536:
            raise ValueError(f"pool {pool.id} has an endpoint address that is not ip:port: {address[:100]!r}")
    if len(set(addresses)) < len(addresses):
        twice = next(address for address in addresses if addresses.count(address) > 1)
        raise ValueError(f"pool {pool.id} lists endpoint {twice} twice")


def _check_disaggregation(pool: pb.Pool, pools: Mapping[str, pb.Pool]) -> None:
    if not pool.HasField("disaggregation"):
        return
    how = pool.disaggregation
    if how.prefill_pool not in pools or pools[how.prefill_pool].role != pb.ROLE_PREFILL:
        raise ValueError(f"pool {pool.id} has its prompts computed by {how.prefill_pool}, which is no Prefill pool")
    if pools[how.prefill_pool].model.name != pool.model.name:
        raise ValueError(f"pool {pool.id} has its prompts computed by {how.prefill_pool}, which serves another model")
    if not 0 < how.timeout_s <= _MAX_TIMEOUT_S:
        raise ValueError(f"pool {pool.id} has the impossible prefill timeout {how.timeout_s}")


def _check_tier(tier: pb.Tier, pools: Mapping[str, pb.Pool], tiers: Mapping[str, pb.Tier]) -> None:
    _unique([member.pool for member in tier.pools], f"pool of tier {tier.id}:")
    for member in tier.pools:
        if member.pool not in pools:
            raise ValueError(f"tier {tier.id} names pool {member.pool}, which is not in the snapshot")
    for words, others in (("falls back on", tier.fallback_tiers), ("spills over to", tier.spill_tiers)):
        for other in others:
            if other not in tiers:
                raise ValueError(f"tier {tier.id} {words} tier {other}, which is not in the snapshot")
            if other == tier.id:
                raise ValueError(f"tier {tier.id} {words} itself")


def _candidates(
    steps: Sequence[pb.Tier], pools: Mapping[str, pb.Pool], without: Container[str] = (), base: int = 0
) -> tuple[Candidate, ...]:
    """The pools of tiers in order, each once, under priorities that go on from tier to tier."""
    found: list[Candidate] = []
    seen: set[str] = set()
    for step in steps:
        members = sorted(step.pools, key=lambda member: (member.priority, member.pool))
        for member in members:
            if member.pool in seen or member.pool in without:
                continue
            seen.add(member.pool)
            name, priority = pools[member.pool].model.name, base + member.priority
            found.append(
                Candidate(member.pool, name, step.id, priority, member.weight, step.dynamic_weights, step.prefer_price)
            )
        base += max((member.priority for member in members), default=0) + 1
    return tuple(found)


def _policy(policy: pb.Policy, tiers: Mapping[str, pb.Tier]) -> PolicyEntry:
    where = f"policy {policy.id}"
    try:
        claim = Claim.of(policy)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    rules = []
    for rule in policy.rules:
        try:
            condition = Condition.of(rule.when)
        except ValueError as error:
            raise ValueError(f"{where}, rule {rule.name}: {error}") from None
        rules.append(Rule(rule.name, condition, _action(rule.action, tiers, f"{where}, rule {rule.name}")))
    default = _action(policy.default_action, tiers, f"{where}, default")
    named = [action.tier for action in (*(rule.action for rule in rules), default) if action.tier]
    reach = {other for name in named for other in (name, *tiers[name].fallback_tiers, *tiers[name].spill_tiers)}
    return PolicyEntry(
        id=policy.id,
        claim=claim,
        rules=tuple(rules),
        default=default,
        inject_usage=policy.stream_usage == pb.STREAM_USAGE_INJECT,
        tiers=tuple(sorted(reach, key=lambda name: (-tiers[name].level, name))),
    )


def _action(action: pb.Action, tiers: Mapping[str, pb.Tier], where: str) -> Action:
    use = action.WhichOneof("use")
    if use == "reject":
        reject = action.reject
        if not 400 <= reject.status <= 599:
            raise ValueError(f"{where}: rejects with status {reject.status}, which is not 400 to 599")
        refusal = Refusal(reject.status, reject.code, reject.message)
        return Action("", refusal, 0, "")
    if use != "tier":
        raise ValueError(f"{where}: uses neither a tier nor a refusal")
    if action.tier not in tiers:
        raise ValueError(f"{where}: uses tier {action.tier}, which is not in the snapshot")
    return Action(action.tier, None, action.output_cap, action.reasoning_effort.lower())


def _facts(pool: pb.Pool) -> Facts:
    capabilities = frozenset(word.lower() for word in pool.model.capabilities)
    blocked = _PREFILLS if pool.role == pb.ROLE_PREFILL else pool.blocked
    return Facts(
        ready=not blocked and (any(not each.draining for each in pool.endpoints) or is_service(pool)),
        blocked=blocked,
        window=pool.model.context_window,
        capabilities=capabilities,
        api_declared=not capabilities.isdisjoint(_API_CAPABILITIES),
        # A newer operator may name APIs that are unknown here.
        apis=frozenset(_API_WORDS[word] for word in pool.apis if word in _API_WORDS) if pool.apis else None,
    )


def _concrete(pools: Sequence[pb.Pool]) -> dict[str, tuple[tuple[str, str], ...]]:
    found: dict[str, dict[str, str]] = {}
    for pool in sorted(pools, key=lambda pool: pool.id):
        if pool.role == pb.ROLE_PREFILL:
            continue
        # Within a pool the server's own name wins over an adapter, and that over an alias.
        for name in pool.model.aliases:
            found.setdefault(name, {})[pool.id] = pool.model.name
        for name in (*pool.model.adapters, pool.model.name):
            found.setdefault(name, {})[pool.id] = name
    return {name: tuple(sorted(servers.items())) for name, servers in found.items()}


def _models(
    virtual: Mapping[str, object], concrete: Mapping[str, Sequence[tuple[str, str]]], pools: Mapping[str, pb.Pool]
) -> tuple[ModelInfo, ...]:
    return tuple(
        ModelInfo(name, True, 0)
        if name in virtual
        else ModelInfo(name, False, max(pools[pool].model.context_window for pool, _ in concrete[name]))
        for name in sorted({*virtual, *concrete})
    )
