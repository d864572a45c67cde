"""References between objects: what each points to, whether it is there, and whether pointing goes in circles.

An object is *usable* when it can serve traffic as its author meant. A broken reference takes out as little as possible: a
tier loses the pool that is missing and stays usable while it has another; a rule that points to a missing tier makes its
policy unusable, since traffic would silently go elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ralb_api.objects import ModelPool, ModelTier, RoutingPolicy
from ralb_api.problems import ObjectKey, Problem

from ralb_operator.compile.result import Reason
from ralb_operator.view import View


@dataclass(frozen=True, slots=True)
class Resolved:
    """The usable part of a view, with references checked.

    Attributes:
        pools: all pools (a pool refers to nothing but pods).
        tiers: usable tiers, with those of their pools that exist.
        tier_pools: tier -> indexes into ``spec.pools`` that resolve.
        fallbacks: tier -> the tiers after it, nearest first, free of cycles.
        policies: usable policies in order of precedence.
        problems: what was found, by object.
    """

    pools: Mapping[ObjectKey, ModelPool]
    tiers: Mapping[ObjectKey, ModelTier]
    tier_pools: Mapping[ObjectKey, tuple[int, ...]]
    fallbacks: Mapping[ObjectKey, tuple[ObjectKey, ...]]
    policies: tuple[tuple[ObjectKey, RoutingPolicy], ...]
    problems: tuple[Problem, ...]


def resolve(view: View) -> Resolved:
    """Check every reference of the view."""
    problems: list[Problem] = []
    tiers: dict[ObjectKey, ModelTier] = {}
    tier_pools: dict[ObjectKey, tuple[int, ...]] = {}
    for key in sorted(view.tiers):
        indexes = _existing_pools(view, key, problems)
        if indexes:
            tiers[key], tier_pools[key] = view.tiers[key], indexes
    fallbacks = _fallbacks(view, tiers, problems)
    referring = [key for key in sorted(view.policies) if not _missing_tiers(view, key, tiers, problems)]
    policies = _without_conflicts(view, referring, problems)
    return Resolved(dict(sorted(view.pools.items())), tiers, tier_pools, fallbacks, policies, tuple(problems))


def _problem(view: View, key: ObjectKey, field: str, reason: Reason, message: str, hint: str) -> Problem:
    return Problem(key, field, reason, message, hint, view.sources.get(key, ""))


def _names(view_part: Mapping[ObjectKey, object], namespace: str) -> str:
    names = sorted(key.name for key in view_part if key.namespace == namespace)
    if not names:
        return "there are none in this namespace"
    return "there are: " + ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _unparsed(view: View, key: ObjectKey) -> bool:
    return any(problem.object == key for problem in view.problems)


def _existing_pools(view: View, key: ObjectKey, problems: list[Problem]) -> tuple[int, ...]:
    tier = view.tiers[key]
    found: list[int] = []
    seen: dict[str, int] = {}
    for index, entry in enumerate(tier.spec.pools):
        field = f"spec.pools[{index}].name"
        target = ObjectKey("ModelPool", key.namespace, entry.name)
        if entry.name in seen:
            message = f"pool {entry.name} is already named by spec.pools[{seen[entry.name]}]"
            problems.append(_problem(view, key, field, Reason.INVALID, message, "name each pool once"))
            continue
        seen[entry.name] = index
        if target in view.pools:
            found.append(index)
        elif _unparsed(view, target):
            message = f"{target} has errors of its own"
            problems.append(_problem(view, key, field, Reason.REF_NOT_ACCEPTED, message, "fix that object first"))
        else:
            message = f"there is no {target}"
            hint = f"create it or name another; {_names(view.pools, key.namespace)}"
            problems.append(_problem(view, key, field, Reason.REF_NOT_FOUND, message, hint))
    if not found:
        message = "none of the tier's pools exists, so it can not serve"
        problems.append(
            _problem(view, key, "spec.pools", Reason.REF_NOT_FOUND, message, "name at least one existing ModelPool")
        )
    return tuple(found)


def _fallbacks(
    view: View, usable: Mapping[ObjectKey, ModelTier], problems: list[Problem]
) -> dict[ObjectKey, tuple[ObjectKey, ...]]:
    following: dict[ObjectKey, ObjectKey] = {}
    for key in sorted(view.tiers):
        name = view.tiers[key].spec.fallback_tier
        if name is None:
            continue
        target = ObjectKey("ModelTier", key.namespace, name)
        if target in view.tiers:
            following[key] = target
            continue
        if _unparsed(view, target):
            message, hint = f"{target} has errors of its own", "fix that object first"
            reason = Reason.REF_NOT_ACCEPTED
        else:
            message, hint = f"there is no {target}", f"create it or name another; {_names(view.tiers, key.namespace)}"
            reason = Reason.REF_NOT_FOUND
        problems.append(_problem(view, key, "spec.fallbackTier", reason, message, hint))
    on_cycle = _on_cycle(following)
    for key in sorted(on_cycle):
        names = [step.name for step in _walk(following, key, stop_at=key)]
        message = "the chain of fallback tiers comes back to where it began: " + " -> ".join([key.name, *names])
        hint = "leave fallbackTier out of one of these tiers"
        problems.append(_problem(view, key, "spec.fallbackTier", Reason.CYCLE, message, hint))
        # The cycle is cut at every tier on it: which one was meant to be last can not be known.
        del following[key]
    return {key: tuple(step for step in _walk(following, key) if step in usable) for key in usable}


def _on_cycle(following: Mapping[ObjectKey, ObjectKey]) -> set[ObjectKey]:
    found: set[ObjectKey] = set()
    settled: set[ObjectKey] = set()
    for start in following:
        path: dict[ObjectKey, int] = {}
        step: ObjectKey | None = start
        while step is not None and step not in settled and step not in path:
            path[step] = len(path)
            step = following.get(step)
        if step is not None and step in path:
            found.update(key for key, position in path.items() if position >= path[step])
        settled.update(path)
    return found


def _walk(
    following: Mapping[ObjectKey, ObjectKey], start: ObjectKey, stop_at: ObjectKey | None = None
) -> list[ObjectKey]:
    steps: list[ObjectKey] = []
    step = following.get(start)
    while step is not None:
        steps.append(step)
        if step == stop_at:
            break
        step = following.get(step)
    return steps


def _missing_tiers(view: View, key: ObjectKey, tiers: Mapping[ObjectKey, ModelTier], problems: list[Problem]) -> bool:
    spec = view.policies[key].spec
    uses = [(f"spec.rules[{index}].use.tier", rule.use.tier) for index, rule in enumerate(spec.rules)]
    uses.append(("spec.default.use.tier", spec.default.use.tier))
    missing = False
    for field, name in uses:
        if name is None:
            continue
        target = ObjectKey("ModelTier", key.namespace, name)
        if target in tiers:
            continue
        missing = True
        if target in view.tiers or _unparsed(view, target):
            problems.append(
                _problem(
                    view,
                    key,
                    field,
                    Reason.REF_NOT_ACCEPTED,
                    f"{target} has errors of its own",
                    "fix that object first",
                )
            )
        else:
            hint = f"create it or name another; {_names(view.tiers, key.namespace)}"
            problems.append(_problem(view, key, field, Reason.REF_NOT_FOUND, f"there is no {target}", hint))
    return missing


Claim = tuple[str, str, str, tuple[tuple[str, str, str], ...]]


def _claims(policy: RoutingPolicy) -> list[Claim]:
    match = policy.spec.match
    wanted = tuple(sorted((header.name, str(header.type), header.value) for header in match.headers))
    return [
        (host, path, model, wanted)
        for host in match.hostnames or ("",)
        for path in match.paths or ("",)
        for model in match.models
    ]


def _age(key: ObjectKey, policy: RoutingPolicy) -> tuple[str, str, str]:
    # Older first; files have no timestamps, there the name decides.
    return (policy.metadata.creation_timestamp, key.namespace, key.name)


def _specificity(policy: RoutingPolicy) -> tuple[int, int, int, int]:
    match = policy.spec.match
    exact = min((0 if host.startswith("*.") else 1 for host in match.hostnames), default=-1)
    longest_host = min((len(host) for host in match.hostnames), default=0)
    longest_path = min((len(path) for path in match.paths), default=0)
    return (-exact, -longest_host, -longest_path, -len(match.headers))


def _without_conflicts(
    view: View, keys: list[ObjectKey], problems: list[Problem]
) -> tuple[tuple[ObjectKey, RoutingPolicy], ...]:
    owners: dict[Claim, ObjectKey] = {}
    kept: list[tuple[ObjectKey, RoutingPolicy]] = []
    for key in sorted(keys, key=lambda key: _age(key, view.policies[key])):
        policy = view.policies[key]
        claims = _claims(policy)
        clash = next((claim for claim in claims if claim in owners), None)
        if clash is None:
            owners.update(dict.fromkeys(claims, key))
            kept.append((key, policy))
            continue
        owner = owners[clash]
        host, path, model, wanted = clash
        parts = [f"model {model}", f"host {host}" if host else "every host", f"path {path}" if path else "every path"]
        parts += [f"header {name}" for name, _, _ in wanted]
        message = f"{owner} already claims the same traffic ({', '.join(parts)})"
        hint = "narrow spec.match of one of the two, or merge them; the older one keeps the traffic"
        problems.append(_problem(view, key, "spec.match", Reason.CONFLICTED, message, hint))
    kept.sort(key=lambda item: (_specificity(item[1]), _age(*item)))
    return tuple(kept)
