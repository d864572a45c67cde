"""What stays in use when files can no longer be read: the objects they held.

A half-saved or mistyped file must not take running traffic away. An object leaves only when the files that can be read no longer
have it; pure, so that it can be tested without a stack.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from ralb_api.problems import ObjectKey, Severity
from ralb_operator.view import EndpointSlice, Grant, InferencePool, Secret, Service, View

T = TypeVar("T")
L = TypeVar("L", Service, EndpointSlice, InferencePool, Grant, Secret)


def keep_last_good(old: View, new: View) -> tuple[View, tuple[ObjectKey, ...]]:
    """``new``, completed with objects of ``old`` that are only missing because something cannot be read.

    Args:
        old: what is in use.
        new: what was read.

    Returns:
        The view to use, and the objects kept, in order.
    """
    errors = [problem for problem in new.problems if problem.severity is Severity.ERROR]
    broken_objects = {problem.object for problem in errors if problem.object is not None}
    broken_files = {_path(problem.file) for problem in errors if problem.object is None and problem.file}
    kept: list[ObjectKey] = []

    def complete(before: Mapping[ObjectKey, T], now: Mapping[ObjectKey, T]) -> dict[ObjectKey, T]:
        out = dict(now)
        for key, value in before.items():
            if key not in now and (key in broken_objects or _path(old.sources.get(key, "")) in broken_files):
                out[key] = value
                kept.append(key)
        return out

    pools, tiers = complete(old.pools, new.pools), complete(old.tiers, new.tiers)
    policies = complete(old.policies, new.policies)
    pods = new.pods
    if broken_files or any(key.kind == "Pod" for key in broken_objects):
        names = {(pod.namespace, pod.name) for pod in new.pods}
        pods = (*pods, *(pod for pod in old.pods if (pod.namespace, pod.name) not in names))

    def complete_listed(kind: str, before: Iterable[L], now: Iterable[L]) -> tuple[L, ...]:
        return tuple(complete(_by_key(kind, before), _by_key(kind, now)).values())

    secrets = complete_listed("Secret", old.secrets.values(), new.secrets.values())
    others = complete(old.others, new.others)
    services = complete_listed("Service", old.services, new.services)
    slices = complete_listed("EndpointSlice", old.slices, new.slices)
    inference_pools = complete_listed("InferencePool", old.inference_pools, new.inference_pools)
    grants = complete_listed("ReferenceGrant", old.grants, new.grants)
    sources = {**{key: old.sources[key] for key in kept if key in old.sources}, **new.sources}
    view = replace(
        new,
        pools=pools,
        tiers=tiers,
        policies=policies,
        others=others,
        pods=pods,
        services=services,
        slices=slices,
        inference_pools=inference_pools,
        grants=grants,
        secrets={(secret.namespace, secret.name): secret for secret in secrets},
        sources=sources,
    )
    return view, tuple(sorted(kept))


def _by_key(kind: str, values: Iterable[L]) -> dict[ObjectKey, L]:
    return {ObjectKey(kind, value.namespace, value.name): value for value in values}


def _path(source: str) -> str:
    """The path of ``path:line``."""
    path, colon, line = source.rpartition(":")
    return path if colon and line.isdigit() else source
