"""The record of a decision: what every stage said, how long it took, and, once known, how it ended. No prompt text, ever.

One record per request, as one JSON line. Routed requests are recorded when Envoy reports their end (or when that report is
overdue); requests answered here, at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ralb_api.errors import ClientError
from ralb_extproc.place import Ask
from ralb_extproc.types import Handoff, Placement, Plan, Request, Understanding

_EXPLANATION_LIMIT = 1024
_PATH_LIMIT = 256


@dataclass(slots=True)
class Decision:
    """Everything decided about one request; filled in stage by stage.

    Attributes:
        id: unique; goes to the client as ``x-ralb-decision-id``.
        time: wall clock, seconds since the epoch.
        request, understanding, plan, placement: None from the stage on that refused the request.
        error: why it was refused, else None.
        stages: stage -> seconds.
        snapshot: version decided under.
        path: path without query, for requests that could not be parsed.
        summary: what the record says of a request that was let go.
        request_id: the client's or Envoy's ``x-request-id``; "" if there is none.
        ask: the numbers it was placed by, where another pod computes the prompt: needed again should that fail.
        prefill_s: seconds the prefill leg took, where there was one and it is over.
    """

    id: str
    time: float
    snapshot: str
    path: str
    request: Request | None = None
    understanding: Understanding | None = None
    plan: Plan | None = None
    placement: Placement | None = None
    error: ClientError | None = None
    stages: dict[str, float] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    request_id: str = ""
    ask: Ask | None = None
    prefill_s: float | None = None

    def let_go(self) -> None:
        """Keep of the request only what the record says of it: bodies can be large, and answers take long."""
        if self.request is not None:
            self.summary = _request(self.request)
            self.request = None


def record(decision: Decision, outcome: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The decision as plain JSON data; ``outcome`` as Envoy reported it, None while unknown."""
    out: dict[str, Any] = {
        "id": decision.id,
        "time": round(decision.time, 6),
        "snapshot": decision.snapshot,
        "path": decision.path[:_PATH_LIMIT],
    }
    if decision.request is not None:
        out["request"] = _request(decision.request)
    elif decision.summary is not None:
        out["request"] = decision.summary
    out |= stages(decision)
    if decision.error is not None:
        out["error"] = {"status": decision.error.status, "code": str(decision.error.code)}
    out["stage_us"] = {name: round(seconds * 1e6, 1) for name, seconds in decision.stages.items()}
    if outcome is not None:
        out["outcome"] = dict(outcome)
    return out


def stages(decision: Decision) -> dict[str, Any]:
    """What understanding, plan and placement said; shared by records, ``x-ralb-explain`` and ``ralb explain``."""
    out: dict[str, Any] = {}
    if decision.understanding is not None:
        out["understanding"] = understanding_record(decision.understanding)
    if decision.plan is not None:
        out["plan"] = plan_record(decision.plan)
    if decision.placement is not None:
        out["placement"] = placement_record(decision.placement)
        if decision.prefill_s is not None:
            out["placement"]["handoff"]["seconds"] = round(decision.prefill_s, 6)
    return out


def understanding_record(understanding: Understanding) -> dict[str, Any]:
    """Understanding as JSON data."""
    out: dict[str, Any] = {
        "intent": understanding.intent,
        "complexity": round(understanding.complexity, 4),
        "confidence": round(understanding.confidence, 4),
        "reasons": [[words, round(weight, 3)] for words, weight in understanding.reasons],
        "model": understanding.model,
    }
    if understanding.label:
        out["label"] = understanding.label
    if understanding.workload_class:
        out["workload_class"] = understanding.workload_class
    return out


def plan_record(plan: Plan) -> dict[str, Any]:
    """Plan as JSON data."""
    return {
        "policy": plan.policy,
        "rule": plan.rule,
        "tier": plan.tier_name,
        "candidates": [candidate.pool for candidate in plan.candidates],
        "skipped": [list(pair) for pair in plan.skipped],
        **({"output_cap": plan.output_cap} if plan.output_cap else {}),
        **({"reasoning_effort": plan.reasoning_effort} if plan.reasoning_effort else {}),
    }


def placement_record(placement: Placement) -> dict[str, Any]:
    """Placement as JSON data."""
    first = placement.attempts[0]
    return {
        "pool": first.pool,
        "endpoint": first.endpoint,
        "model": first.model,
        "attempts": [[attempt.pool, attempt.endpoint] for attempt in placement.attempts],
        "prefix_hit": round(placement.prefix_hit, 4),
        "uncached_tokens": placement.uncached_tokens,
        "score": round(placement.score, 3),
        "considered": placement.considered,
        "reason": placement.reason,
        "strategy": placement.strategy,
        **({"held": placement.held} if placement.held else {}),
        **({"spilled": dict(zip(("from", "to"), placement.spilled, strict=True))} if placement.spilled else {}),
        **({"handoff": handoff_record(placement.handoff)} if placement.handoff is not None else {}),
    }


def handoff_record(handoff: Handoff) -> dict[str, Any]:
    """Who computes the prompt, as JSON data; the prefill pod only where there is one."""
    out: dict[str, Any] = {"reason": str(handoff.reason)}
    if handoff.endpoint:
        out |= {
            "pool": handoff.pool,
            "endpoint": handoff.endpoint,
            "connector": "Sidecar" if handoff.sidecar else "NIXL",
            "uncached_tokens": handoff.uncached_tokens,
            "expected_s": round(handoff.expected, 4),
        }
    return out


def _request(request: Request) -> dict[str, Any]:
    return {
        "model": request.model,
        "stream": request.stream,
        "turns": len(request.turns),
        "tools": len(request.tools),
        "input_tokens": request.input_tokens,
        "max_output": request.max_output,
        "size": request.size,
        "session": bool(request.session),
    }


def explanation(decision: Decision) -> str:
    """One line for the ``x-ralb-explanation`` header, ASCII, bounded."""
    understanding, plan, placement = decision.understanding, decision.plan, decision.placement
    if understanding is None or plan is None or placement is None:
        return ""
    reasons = ", ".join(f"{words} {weight:+.2f}" for words, weight in understanding.reasons)
    first = placement.attempts[0]
    rule = (
        f"policy {plan.policy} rule {plan.rule} -> tier {plan.tier_name}" if plan.policy else "model asked for by name"
    )
    text = (
        f"intent {understanding.intent}, complexity {understanding.complexity:.2f} "
        f"(confidence {understanding.confidence:.2f}: {reasons or 'nothing special'}); {rule}; "
        f"{_overflow(placement)}pool {first.pool} pod {first.endpoint or 'by Envoy'} of {placement.considered} "
        f"by {placement.strategy} ({placement.reason}, prefix hit {placement.prefix_hit:.0%}{_prefilled(placement.handoff)})"
    )
    return text.encode("ascii", "replace").decode()[:_EXPLANATION_LIMIT]


def _overflow(placement: Placement) -> str:
    if placement.spilled is None:
        return ""
    saturated, other = placement.spilled
    return f"{saturated} is saturated and {other} takes it; "


def _prefilled(handoff: Handoff | None) -> str:
    if handoff is None:
        return ""
    return f", prompt by {handoff.pool} pod {handoff.endpoint}" if handoff.remote else f", prompt {handoff.reason}"
