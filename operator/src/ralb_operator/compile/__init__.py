"""``compile_view(view) -> Result``: pure, deterministic, free of order.

May not enter: I/O of any kind, clocks, randomness. Broken objects make problems and statuses, never exceptions; the rest of the
view is compiled as if they were not there.
"""

from collections.abc import Mapping

from ralb_api.objects import ModelPool, Role
from ralb_api.problems import ObjectKey, Problem
from ralb_operator.compile.backends import Backing, backends, may_be_elsewhere
from ralb_operator.compile.envoy.balancing import Policy, policy_of
from ralb_operator.compile.envoy.clusters import PoolCluster, nowhere_cluster, pool_cluster, processor_cluster
from ralb_operator.compile.envoy.endpoints import assignment
from ralb_operator.compile.envoy.listener import listener
from ralb_operator.compile.envoy.providers import provider_resources, provider_secrets
from ralb_operator.compile.envoy.routes import routes
from ralb_operator.compile.grants import needs
from ralb_operator.compile.resolve import resolve
from ralb_operator.compile.result import Condition, ConditionType, Reason, Result, Status
from ralb_operator.compile.snapshot import snapshot
from ralb_operator.compile.statuses import statuses
from ralb_operator.view import Gateway, View
from ralb_operator.xds.resources import Resources

__all__ = ["Condition", "ConditionType", "Reason", "Result", "Status", "compile_view", "may_be_elsewhere", "needs"]


def compile_view(view: View) -> Result:
    """Everything the view means.

    Args:
        view: objects, pods and settings.

    Returns:
        Snapshot, xDS resources, statuses and all problems (the view's own included), sorted.
    """
    resolved = resolve(view)
    backed = backends(view, resolved.pools)
    clusters = {key: _cluster(key, pool, backed.by_pool[key]) for key, pool in resolved.pools.items()}
    found = (*view.problems, *resolved.problems, *backed.problems)
    return Result(
        snapshot=snapshot(resolved, backed.by_pool, clusters),
        xds=_resources(view.gateway, backed.by_pool, clusters),
        statuses=statuses(view, found, backed.by_pool),
        problems=tuple(sorted(found, key=_order)),
    )


def _order(problem: Problem) -> tuple[tuple[str, ...], str, str]:
    return (problem.sort_key(), problem.severity, problem.hint)


def _cluster(key: ObjectKey, pool: ModelPool, backing: Backing) -> PoolCluster:
    spec = pool.spec
    breaker = spec.balancing.circuit_breaker
    return PoolCluster(
        pool=key.id,
        model=spec.model.name,
        service=backing.host,
        policy=_policy(pool, backing),
        max_requests=breaker.max_requests,
        retry_budget_percent=breaker.retry_budget_percent,
        min_retries=breaker.min_retries,
        listener="" if backing.provider is None else backing.provider.name,
    )


def _policy(pool: ModelPool, backing: Backing) -> Policy:
    if backing.provider is not None:
        return Policy(picked=False)  # there is but one endpoint, the provider's listener
    # Who computes the prompt must know where the answer is computed.
    exact = pool.spec.role is Role.DECODE
    return policy_of(pool.spec.balancing, known=backing.endpoints is not None, exact=exact)


def _resources(
    gateway: Gateway, backings: Mapping[ObjectKey, Backing], clusters: Mapping[ObjectKey, PoolCluster]
) -> Resources:
    resources = [processor_cluster(gateway), nowhere_cluster(), listener(gateway), routes(gateway)]
    for key, backing in backings.items():
        resources.append(pool_cluster(clusters[key], gateway, rewrite=False))
        resources.append(pool_cluster(clusters[key], gateway, rewrite=True))
        if backing.endpoints is not None:
            resources.append(assignment(key.id, tuple(address for address, _ in backing.endpoints.ready)))
        if backing.provider is not None:
            resources += provider_resources(backing.provider, gateway)
            resources += provider_secrets(backing.provider, backing.key, backing.ca)
    return Resources.of(resources)
