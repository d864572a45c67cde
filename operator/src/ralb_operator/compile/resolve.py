"""References between objects: what each points to, whether it is there, and whether pointing goes in circles.

A broken reference takes out as little as possible. A tier loses the pool that is missing and serves while it has another; a
chain of fallback or spill tiers goes on behind a tier that can not serve; a policy keeps its traffic, and only the rules that
point to a missing tier refuse theirs (with 503): were they skipped, requests would silently go to a tier nobody meant for them.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from ralb_api.objects import ModelPool, ModelTier, Role, RoutingPolicy
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.compile.precedence import Ordered, conflicts, in_order
from ralb_operator.compile.result import Reason
from ralb_operator.view import View

# A request has far fewer attempts than this; without a bound a chain of n tiers would put n * n / 2 ids into the snapshot.
MAX_FALLBACKS = 16
_MAX_NAMED = 10
# As ObjectKey sorts, but much faster for thousands.
_ORDER = attrgetter("kind", "namespace", "name")


@dataclass(frozen=True, slots=True)
class Resolved:
    """The usable part of a view, with references checked.

    Attributes:
        pools: all pools, sorted by key; what they refer to is looked up in ``backends``.
        prefill: Decode pool -> the Prefill pool that computes its prompts; pools whose reference is broken are absent and
            compute all prompts themselves.
        tiers: tiers that have a pool, sorted by key.
        tier_pools: tier -> indexes into ``spec.pools`` that resolve.
        fallbacks: tier -> the usable tiers after it, nearest first, free of cycles, at most ``MAX_FALLBACKS``.
        spills: the same of the tiers it spills over to.
        policies: policies that own traffic, in order of precedence; they may name tiers that are not in ``tiers``.
        problems: what was found, by object.
    """

    pools: Mapping[ObjectKey, ModelPool]
    prefill: Mapping[ObjectKey, ObjectKey]
    tiers: Mapping[ObjectKey, ModelTier]
    tier_pools: Mapping[ObjectKey, tuple[int, ...]]
    fallbacks: Mapping[ObjectKey, tuple[ObjectKey, ...]]
    spills: Mapping[ObjectKey, tuple[ObjectKey, ...]]
    policies: Ordered
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Link:
    """A field by which a tier names the next."""

    field: str
    words: str
    target: Callable[[ModelTier], str | None]

    @property
    def path(self) -> str:
        return f"spec.{self.field}"


_FALLBACK = _Link("fallbackTier", "fallback tiers", lambda tier: tier.spec.fallback_tier)
_SPILL = _Link("spillTier", "spill tiers", lambda tier: tier.spec.spill_tier)


def resolve(view: View) -> Resolved:
    """Check every reference of the view."""
    found = _Findings(view)
    prefill = _prefill_pools(found)
    tier_pools = {key: _existing_pools(found, key, view.tiers[key]) for key in sorted(view.tiers)}
    tiers = {key: view.tiers[key] for key, indexes in tier_pools.items() if indexes}
    fallbacks = _chains(found, tiers, _FALLBACK)
    spills = _chains(found, tiers, _SPILL)
    for key in sorted(view.policies):
        _check_uses(found, key, view.policies[key], tiers)
    for key in sorted(view.others):
        message = f"this version of RALB does not act on {key.kind} objects yet"
        hint = "it may stay; nothing else depends on it"
        found.add(key, "", Reason.NOT_SUPPORTED, message, hint, severity=Severity.WARNING)
    return Resolved(
        pools={key: view.pools[key] for key in sorted(view.pools, key=_ORDER)},
        prefill=prefill,
        tiers=tiers,
        tier_pools={key: tier_pools[key] for key in tiers},
        fallbacks=fallbacks,
        spills=spills,
        policies=_owners(found),
        problems=tuple(found.problems),
    )


@dataclass(slots=True)
class _Findings:
    """Problems so far, and what is needed to word them without looking through the whole view each time."""

    view: View
    problems: list[Problem] = field(default_factory=list)
    _broken: frozenset[ObjectKey] = field(init=False)
    _names: dict[tuple[str, str], list[str]] = field(init=False)

    def __post_init__(self) -> None:
        errors = (problem for problem in self.view.problems if problem.severity is Severity.ERROR)
        self._broken = frozenset(problem.object for problem in errors if problem.object is not None)
        self._names = defaultdict(list)
        for key in sorted((*self.view.pools, *self.view.tiers), key=_ORDER):
            self._names[key.kind, key.namespace].append(key.name)

    def add(
        self,
        key: ObjectKey,
        path: str,
        reason: Reason,
        message: str,
        hint: str,
        severity: Severity = Severity.ERROR,
    ) -> None:
        self.problems.append(Problem(key, path, reason, message, hint, self.view.sources.get(key, ""), severity))

    def unusable(self, key: ObjectKey, path: str, target: ObjectKey) -> None:
        """``key`` refers to ``target``, which is not there, or there but not fit for use."""
        if target in self.view.tiers:
            self.add(key, path, Reason.REF_NOT_ACCEPTED, f"{target} has no pool it could use", "give it one")
        elif target in self._broken:
            message = f"{target} has errors of its own"
            self.add(key, path, Reason.REF_NOT_ACCEPTED, message, "fix that object first")
        else:
            hint = f"create it or name another; {self._existing(target)}"
            self.add(key, path, Reason.REF_NOT_FOUND, f"there is no {target}", hint)

    def _existing(self, target: ObjectKey) -> str:
        names = self._names.get((target.kind, target.namespace), [])
        if not names:
            return f"there is no {target.kind} in namespace {target.namespace}"
        return "there are: " + ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")


def _prefill_pools(found: _Findings) -> dict[ObjectKey, ObjectKey]:
    prefill: dict[ObjectKey, ObjectKey] = {}
    path = "spec.disaggregation.prefillPool"
    for key, pool in sorted(found.view.pools.items(), key=lambda item: _ORDER(item[0])):
        if pool.spec.disaggregation is None:
            continue
        target = ObjectKey("ModelPool", key.namespace, pool.spec.disaggregation.prefill_pool)
        other = found.view.pools.get(target)
        if other is None:
            found.unusable(key, path, target)
        elif other.spec.role is not Role.PREFILL:
            message = f"{target} has role {other.spec.role}, not Prefill"
            found.add(key, path, Reason.REF_NOT_ACCEPTED, message, "set its role to Prefill, or name another")
        elif other.spec.model.name != pool.spec.model.name:
            message = f"{target} serves {other.spec.model.name}, this pool {pool.spec.model.name}"
            hint = "KV blocks fit the same model only: name a pool that serves it under the same name"
            found.add(key, path, Reason.REF_NOT_ACCEPTED, message, hint)
        else:
            prefill[key] = target
    return prefill


def _existing_pools(found: _Findings, key: ObjectKey, tier: ModelTier) -> tuple[int, ...]:
    existing: list[int] = []
    for index, entry in enumerate(tier.spec.pools):
        target = ObjectKey("ModelPool", key.namespace, entry.name)
        pool = found.view.pools.get(target)
        if pool is None:
            found.unusable(key, f"spec.pools[{index}].name", target)
        elif pool.spec.role is Role.PREFILL:
            message = f"{target} has role Prefill: it computes prompts for Decode pools and serves no requests"
            hint = "name the Decode pool instead"
            found.add(key, f"spec.pools[{index}].name", Reason.REF_NOT_ACCEPTED, message, hint)
        else:
            existing.append(index)
    if not existing:
        message = "none of the tier's pools can be used, so it can not serve"
        found.add(key, "spec.pools", Reason.REF_NOT_FOUND, message, "name at least one ModelPool that exists")
    return tuple(existing)


def _chains(
    found: _Findings, usable: Mapping[ObjectKey, ModelTier], link: _Link
) -> dict[ObjectKey, tuple[ObjectKey, ...]]:
    following: dict[ObjectKey, ObjectKey] = {}
    for key, tier in sorted(found.view.tiers.items()):
        name = link.target(tier)
        if name is None:
            continue
        target = ObjectKey("ModelTier", key.namespace, name)
        if target in found.view.tiers:
            following[key] = target
        if target not in usable:
            found.unusable(key, link.path, target)
    for cycle in _cycles(following):
        for position, key in enumerate(cycle):
            around = [step.name for step in (*cycle[position:], *cycle[:position], key)]
            if len(around) > _MAX_NAMED:
                around = [*around[: _MAX_NAMED - 2], "...", key.name]
            message = f"the chain of {link.words} comes back to where it began: " + " -> ".join(around)
            found.add(key, link.path, Reason.CYCLE, message, f"leave {link.field} out of one of these tiers")
            # The cycle is cut at every tier on it: which one was meant to be last can not be known.
            del following[key]
    return {key: _chain(found, following, key, usable, link) for key in usable}


def _cycles(following: Mapping[ObjectKey, ObjectKey]) -> list[list[ObjectKey]]:
    cycles: list[list[ObjectKey]] = []
    settled: set[ObjectKey] = set()
    for start in following:
        path: dict[ObjectKey, None] = {}
        step: ObjectKey | None = start
        while step is not None and step not in settled and step not in path:
            path[step] = None
            step = following.get(step)
        if step is not None and step in path:
            steps = list(path)
            cycles.append(steps[steps.index(step) :])
        settled.update(path)
    return cycles


def _chain(
    found: _Findings,
    following: Mapping[ObjectKey, ObjectKey],
    start: ObjectKey,
    usable: Mapping[ObjectKey, ModelTier],
    link: _Link,
) -> tuple[ObjectKey, ...]:
    chain: list[ObjectKey] = []
    step = following.get(start)
    # Unusable tiers are passed by, but counted, so that this ends soon.
    for _ in range(MAX_FALLBACKS):
        if step is None:
            return tuple(chain)
        if step in usable:
            chain.append(step)
        step = following.get(step)
    if step is not None:
        message = f"the chain of {link.words} is longer than {MAX_FALLBACKS}; the rest is not used"
        found.add(start, link.path, Reason.CHAIN_TOO_LONG, message, "shorten the chain", severity=Severity.WARNING)
    return tuple(chain)


def _check_uses(found: _Findings, key: ObjectKey, policy: RoutingPolicy, usable: Mapping[ObjectKey, ModelTier]) -> None:
    uses = [(f"spec.rules[{index}].use.tier", rule.use.tier) for index, rule in enumerate(policy.spec.rules)]
    for path, name in (*uses, ("spec.default.use.tier", policy.spec.default.use.tier)):
        target = None if name is None else ObjectKey("ModelTier", key.namespace, name)
        if target is not None and target not in usable:
            found.unusable(key, path, target)


def _owners(found: _Findings) -> Ordered:
    policies = found.view.policies
    lost = conflicts(policies.items())
    for key, (owner, traffic) in sorted(lost.items()):
        message = f"{owner} already claims the same traffic ({traffic})"
        hint = "narrow spec.match of one of the two, or merge them; the older one keeps the traffic"
        found.add(key, "spec.match", Reason.CONFLICTED, message, hint)
    return in_order((key, policy) for key, policy in policies.items() if key not in lost)
