"""Joining decisions with their outcomes into one record each.

A routed decision waits here until the access log reports its end, or until it is overdue; then it is recorded without
outcome. The waiting room is bounded: when it is full, the longest waiting goes out.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ralb_extproc.cost import dollars, top_tier_dollars
from ralb_extproc.decision import Decision, record
from ralb_extproc.feedback import Settled
from ralb_extproc.table import RoutingTable

_LIMIT = 50_000
_OVERDUE_S = 900.0


class Records:
    """Makes the records.

    Args:
        put: takes a finished record.
        limit: most decisions waiting.
        overdue: seconds after which an outcome is no longer waited for.
    """

    def __init__(
        self, put: Callable[[dict[str, Any]], None], *, limit: int = _LIMIT, overdue: float = _OVERDUE_S
    ) -> None:
        self._put = put
        self._limit = limit
        self._overdue = overdue
        self._waiting: OrderedDict[str, Decision] = OrderedDict()
        # x-request-id -> decision id of those waiting; clients may choose ids, then the latest counts.
        self._named: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def decided(self, decision: Decision) -> None:
        """A decision was made: record it now if it ends here, else wait for its outcome."""
        if decision.placement is None:
            self._put(record(decision))
            return
        decision.let_go()
        self._waiting[decision.id] = decision
        if decision.request_id:
            self._named[decision.request_id] = decision.id
        if len(self._waiting) > self._limit:
            self._put(record(self._oldest()))

    def named(self, request_id: str) -> str:
        """The id of the decision that waits under an ``x-request-id``; "" if there is none.

        When a client leaves at the very moment its request is decided, Envoy logs the end without ever having taken our
        answer, and so without the decision's id.
        """
        return self._named.get(request_id, "")

    def _oldest(self) -> Decision:
        _, decision = self._waiting.popitem(last=False)
        self._forget(decision)
        return decision

    def _forget(self, decision: Decision) -> None:
        if self._named.get(decision.request_id) == decision.id:
            del self._named[decision.request_id]

    def settled(self, settled: Settled, table: RoutingTable | None) -> float | None:
        """An outcome arrived: record it with its decision, if one is waiting.

        Returns:
            What the request would have cost on the policy's top tier, in US dollars; None where that cannot be said.
        """
        decision = self._waiting.pop(settled.outcome.decision_id, None)
        if decision is None:
            return None
        self._forget(decision)
        outcome = outcome_record(decision, settled, table)
        self._put(record(decision, outcome))
        top: float | None = outcome.get("top_tier_cost_usd")
        return top

    def sweep(self, now: float | None = None) -> int:
        """Record decisions whose outcome is overdue (wall clock seconds); returns how many."""
        limit = (time.time() if now is None else now) - self._overdue
        count = 0
        while self._waiting:
            first = next(iter(self._waiting.values()))
            if first.time > limit:
                break
            self._put(record(self._oldest()))
            count += 1
        return count

    def flush(self) -> None:
        """Record everything that is waiting, without outcomes."""
        while self._waiting:
            self._put(record(self._oldest()))


def outcome_record(decision: Decision, settled: Settled, table: RoutingTable | None) -> dict[str, Any]:
    """How it ended, as JSON data. Times in seconds, cost in US dollars; what is not known is left out."""
    outcome = settled.outcome
    out: dict[str, Any] = {
        "status": outcome.status,
        "attempts": outcome.attempts,
        "pool": settled.pool,
        "endpoint": settled.endpoint,
        "duration_s": _rounded(outcome.duration),
    }
    if outcome.ttft is not None:
        out["ttft_s"] = _rounded(outcome.ttft)
    if outcome.aborted:
        out["aborted"] = True
    usage = settled.usage
    if usage is not None:
        out["tokens"] = {
            "in": usage.input,
            "out": usage.output,
            "cached": usage.cached,
            "reasoning": usage.reasoning,
            "estimated": usage.estimated,
        }
        pool = table.pools.get(settled.pool) if table is not None else None
        if table is not None and pool is not None:
            out["cost_usd"] = dollars(pool, usage)
            top = top_tier_dollars(table, decision.plan.policy if decision.plan is not None else "", usage)
            if top is not None:
                out["top_tier_cost_usd"] = top
    return out


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
