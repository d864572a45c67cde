"""``compile_view(view) -> Result``: pure, deterministic, free of order.

May not enter: I/O of any kind, clocks, randomness. Broken objects make problems and statuses, never exceptions; the rest of the
view is compiled as if they were not there.
"""

from ralb_api.objects import ModelPool
from ralb_api.objects.common import seconds
from ralb_api.problems import ObjectKey, Problem
from ralb_operator.compile.envoy.clusters import PoolCluster, nowhere_cluster, pool_cluster, processor_cluster
from ralb_operator.compile.envoy.endpoints import assignment
from ralb_operator.compile.envoy.listener import listener
from ralb_operator.compile.envoy.routes import routes
from ralb_operator.compile.grants import needs
from ralb_operator.compile.pools import PoolEndpoints, endpoints
from ralb_operator.compile.resolve import Resolved, resolve
from ralb_operator.compile.result import Condition, ConditionType, Reason, Result, Status
from ralb_operator.compile.snapshot import snapshot
from ralb_operator.compile.statuses import statuses
from ralb_operator.view import Gateway, View
from ralb_operator.xds.resources import Resources

__all__ = ["Condition", "ConditionType", "Reason", "Result", "Status", "compile_view", "needs"]


def compile_view(view: View) -> Result:
    """Everything the view means.

    Args:
        view: objects, pods and settings.

    Returns:
        Snapshot, xDS resources, statuses and all problems (the view's own included), sorted.
    """
    resolved = resolve(view)
    found = endpoints(resolved.pools, view.pods)
    clusters = {key: _cluster(key, pool) for key, pool in resolved.pools.items()}
    problems = sorted((*view.problems, *resolved.problems), key=_order)
    return Result(
        snapshot=snapshot(resolved, found, clusters),
        xds=_resources(view.gateway, resolved, found, clusters),
        statuses=statuses(view, resolved, found),
        problems=tuple(problems),
    )


def _order(problem: Problem) -> tuple[tuple[str, ...], str, str]:
    return (problem.sort_key(), problem.severity, problem.hint)


def _cluster(key: ObjectKey, pool: ModelPool) -> PoolCluster:
    spec = pool.spec
    service = spec.backend.service
    breaker = spec.balancing.circuit_breaker
    return PoolCluster(
        pool=key.id,
        model=spec.model.name,
        service=None if service is None or service.host is None else (service.host, service.port),
        slow_start_s=seconds(spec.balancing.slow_start),
        max_requests=breaker.max_requests,
        retry_budget_percent=breaker.retry_budget_percent,
        min_retries=breaker.min_retries,
    )


def _resources(
    gateway: Gateway,
    resolved: Resolved,
    found: dict[ObjectKey, PoolEndpoints],
    clusters: dict[ObjectKey, PoolCluster],
) -> Resources:
    resources = [processor_cluster(gateway), nowhere_cluster(), listener(gateway), routes(gateway)]
    for key in resolved.pools:
        resources.append(pool_cluster(clusters[key], gateway, rewrite=False))
        resources.append(pool_cluster(clusters[key], gateway, rewrite=True))
        if key in found:
            resources.append(assignment(key.id, tuple(address for address, _ in found[key].ready)))
    return Resources.of(resources)
