"""What each object's author is told: conditions from what was found."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import attrgetter

from ralb_api.objects import KINDS, ModelPool
from ralb_api.objects.common import Object
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.compile.backends import Backing
from ralb_operator.compile.result import Condition, ConditionType, Reason, Status
from ralb_operator.view import View

# As ObjectKey sorts, but much faster for thousands.
_ORDER = attrgetter("kind", "namespace", "name")
# The reason under which ``files`` reports a second object of a name that is taken.
_SECOND = "Duplicate"
_REFERENCE = {
    Reason.REF_NOT_FOUND,
    Reason.REF_NOT_ACCEPTED,
    Reason.REF_NOT_PERMITTED,
    Reason.SECRET_KEY_NOT_FOUND,
    Reason.SECRET_KEY_INVALID,
    Reason.CYCLE,
}


def statuses(view: View, problems: Iterable[Problem], backings: Mapping[ObjectKey, Backing]) -> dict[ObjectKey, Status]:
    """A status for every valid object of the view and for every object of our kinds that has an error.

    Args:
        view: has the objects.
        problems: everything that was found.
        backings: of every pool.
    """
    objects: dict[ObjectKey, Object] = {**view.pools, **view.tiers, **view.policies, **view.others}
    found: dict[ObjectKey, list[Problem]] = defaultdict(list)
    for problem in sorted(problems, key=Problem.sort_key):
        if problem.object is not None and problem.object.kind in KINDS and problem.severity is Severity.ERROR:
            if problem.reason == _SECOND and problem.object in objects:
                continue  # it is about another object of the same name; this one is fine
            found[problem.object].append(problem)
    return {key: _status(key, view, found.get(key, []), backings) for key in sorted({*objects, *found}, key=_ORDER)}


def _status(key: ObjectKey, view: View, problems: list[Problem], backings: Mapping[ObjectKey, Backing]) -> Status:
    own = [problem for problem in problems if problem.reason not in _REFERENCE]
    references = [problem for problem in problems if problem.reason in _REFERENCE]
    accepted = _condition(ConditionType.ACCEPTED, Reason.ACCEPTED, "The object is valid.", own)
    if (other := view.others.get(key)) is not None:
        return Status((accepted,), other.metadata.generation)
    obj = view.pools.get(key) or view.tiers.get(key) or view.policies.get(key)
    if obj is None:
        return Status((accepted,))
    generation = obj.metadata.generation
    resolved = _condition(ConditionType.RESOLVED_REFS, Reason.RESOLVED_REFS, "All references resolve.", references)
    if not isinstance(obj, ModelPool):
        return Status((accepted, resolved), generation)
    counts = None
    # A Decode pool without its Prefill pool computes its prompts itself.
    if backings[key].resolved:
        ready, counts = _ready(obj, backings[key])
    else:
        message = "No request is sent here until all references resolve."
        ready = Condition(ConditionType.READY, False, resolved.reason, message)
    return Status((accepted, resolved, ready), generation, counts)


def _ready(pool: ModelPool, backing: Backing) -> tuple[Condition, tuple[int, int] | None]:
    backend, found = pool.spec.backend, backing.endpoints
    if backing.provider is not None:
        how = "with the key of its Secret" if backing.provider.credentials else "without a key"
        return _is_ready(f"Sent to {backing.provider.host} {how}."), None
    if found is None:
        return _is_ready("Balanced behind its service."), None
    what = "pods" if backend.pods is not None else "endpoints"
    message = f"{len(found.ready)} of {found.total} {what} are ready."
    if not found.total:
        if backend.pods is not None:
            message = "No pod carries the labels of spec.backend.pods.selector."
        elif backend.inference_pool is not None:
            message = "No pod carries the labels that the InferencePool selects."
        else:
            message = "The Service has no endpoints."
    counts = (len(found.ready), found.total)
    if found.ready:
        return _is_ready(message), counts
    return Condition(ConditionType.READY, False, Reason.NO_ENDPOINTS, message), counts


def _is_ready(message: str) -> Condition:
    return Condition(ConditionType.READY, True, Reason.READY, message)


def _condition(type_: ConditionType, good: Reason, message: str, problems: list[Problem]) -> Condition:
    if not problems:
        return Condition(type_, True, good, message)
    reason = Reason(problems[0].reason) if problems[0].reason in set(Reason) else Reason.INVALID
    texts = [": ".join(part for part in (problem.field, problem.message) if part) for problem in problems]
    return Condition(type_, False, reason, "; ".join(texts)[:32_768])
