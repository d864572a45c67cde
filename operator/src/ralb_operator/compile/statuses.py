"""What each object's author is told: conditions from what was found."""

from collections import defaultdict
from collections.abc import Mapping
from operator import attrgetter

from ralb_api.objects import KINDS
from ralb_api.objects.common import Object
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.compile.pools import PoolEndpoints
from ralb_operator.compile.resolve import Resolved
from ralb_operator.compile.result import Condition, ConditionType, Reason, Status
from ralb_operator.view import View

# As ObjectKey sorts, but much faster for thousands.
_ORDER = attrgetter("kind", "namespace", "name")
# The reason under which ``files`` reports a second object of a name that is taken.
_SECOND = "Duplicate"
_REFERENCE = {Reason.REF_NOT_FOUND, Reason.REF_NOT_ACCEPTED, Reason.CYCLE}


def statuses(view: View, resolved: Resolved, endpoints: Mapping[ObjectKey, PoolEndpoints]) -> dict[ObjectKey, Status]:
    """A status for every valid object of the view and for every object of our kinds that has an error."""
    objects: dict[ObjectKey, Object] = {**view.pools, **view.tiers, **view.policies}
    found: dict[ObjectKey, list[Problem]] = defaultdict(list)
    for problem in sorted((*view.problems, *resolved.problems), key=Problem.sort_key):
        if problem.object is not None and problem.object.kind in KINDS and problem.severity is Severity.ERROR:
            if problem.reason == _SECOND and problem.object in objects:
                continue  # it is about another object of the same name; this one is fine
            found[problem.object].append(problem)
    return {
        key: _status(key, objects.get(key), found.get(key, []), endpoints.get(key))
        for key in sorted({*objects, *found}, key=_ORDER)
    }


def _status(key: ObjectKey, obj: Object | None, problems: list[Problem], endpoints: PoolEndpoints | None) -> Status:
    own = [problem for problem in problems if problem.reason not in _REFERENCE]
    references = [problem for problem in problems if problem.reason in _REFERENCE]
    conditions = [_condition(ConditionType.ACCEPTED, Reason.ACCEPTED, "The object is valid.", own)]
    if obj is not None:
        conditions.append(
            _condition(ConditionType.RESOLVED_REFS, Reason.RESOLVED_REFS, "All references resolve.", references)
        )
    counts = None
    if key.kind == "ModelPool" and obj is not None:
        if endpoints is None:
            ready, message = True, "Balanced behind its service."
        else:
            counts = (len(endpoints.ready), endpoints.total)
            ready, message = bool(endpoints.ready), f"{counts[0]} of {counts[1]} pods are ready."
            if not endpoints.total:
                message = "No pod carries the labels of spec.backend.pods.selector."
        conditions.append(
            Condition(ConditionType.READY, ready, Reason.READY if ready else Reason.NO_ENDPOINTS, message)
        )
    return Status(tuple(conditions), obj.metadata.generation if obj is not None else 0, counts)


def _condition(type_: ConditionType, good: Reason, message: str, problems: list[Problem]) -> Condition:
    if not problems:
        return Condition(type_, True, good, message)
    reason = Reason(problems[0].reason) if problems[0].reason in set(Reason) else Reason.INVALID
    texts = [": ".join(part for part in (problem.field, problem.message) if part) for problem in problems]
    return Condition(type_, False, reason, "; ".join(texts)[:32_768])
