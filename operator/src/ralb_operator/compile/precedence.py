"""Which policy owns which traffic: conflicts between equal claims, and the order in which policies are asked.

A policy claims every combination of one of its hostnames, paths and models together with all its header conditions. Two
policies with one combination in common conflict, and the older one keeps all it claims. Claims that merely overlap (a
wildcard and a host below it, a path and a longer one) do not: there the more specific policy is asked first.

Trap: a policy has one place in the order, so it is as specific as the least specific of its hostnames and paths.
"""

from collections.abc import Iterable, Iterator

from ralb_api.objects import RoutingPolicy
from ralb_api.problems import ObjectKey

Ordered = tuple[tuple[ObjectKey, RoutingPolicy], ...]
_Headers = tuple[tuple[str, str, str], ...]
_Claim = tuple[str, str, str, _Headers]


def conflicts(policies: Iterable[tuple[ObjectKey, RoutingPolicy]]) -> dict[ObjectKey, tuple[ObjectKey, str]]:
    """Policies that lose their traffic: loser -> (the older policy that keeps it, the first traffic both claim in words)."""
    owners: dict[_Claim, ObjectKey] = {}
    lost: dict[ObjectKey, tuple[ObjectKey, str]] = {}
    for key, policy in sorted(policies, key=lambda item: _age(*item)):
        claims = tuple(_claims(policy))
        clash = next((claim for claim in claims if claim in owners), None)
        if clash is None:
            owners.update(dict.fromkeys(claims, key))
        else:
            lost[key] = (owners[clash], _in_words(clash))
    return lost


def in_order(policies: Iterable[tuple[ObjectKey, RoutingPolicy]]) -> Ordered:
    """Most specific first: exact hosts, then wildcards, then any host; then longer paths; then more headers; then age."""
    return tuple(sorted(policies, key=lambda item: (_generality(item[1]), _age(*item))))


def _claims(policy: RoutingPolicy) -> Iterator[_Claim]:
    match = policy.spec.match
    wanted = tuple(sorted({(header.name, str(header.type), header.value) for header in match.headers}))
    for host in sorted(match.hostnames) or ("",):
        for path in sorted(match.paths) or ("",):
            for model in sorted(match.models):
                yield host, path, model, wanted


def _in_words(claim: _Claim) -> str:
    host, path, model, wanted = claim
    parts = [f"model {model}", f"host {host}" if host else "every host", f"path {path}" if path else "every path"]
    return ", ".join([*parts, *(f"header {name}" for name, _, _ in wanted)])


def _age(key: ObjectKey, policy: RoutingPolicy) -> tuple[str, str, str]:
    # Older first; files have no timestamps, there namespace and name decide. RFC 3339 in UTC sorts as text.
    return (policy.metadata.creation_timestamp, key.namespace, key.name)


def _generality(policy: RoutingPolicy) -> tuple[int, int, int, int]:
    match = policy.spec.match
    exact = min((0 if host.startswith("*.") else 1 for host in match.hostnames), default=-1)
    shortest_host = min((len(host) for host in match.hostnames), default=0)
    shortest_path = min((len(path) for path in match.paths), default=0)
    return (-exact, -shortest_host, -shortest_path, -len(match.headers))
