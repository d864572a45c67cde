"""One request through the stages: parse, understand, plan, place. The only place that knows their order.

Used by the ext_proc service and by ``ralb explain`` alike, so what is explained is what is done. Does no I/O.
"""

import itertools
import secrets
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import replace

from ralb_api.errors import ClientError, Code
from ralb_api.headers import REQUEST_ID, RETRY_AFTER
from ralb_extproc.decision import Decision
from ralb_extproc.feedback import MAX_ID
from ralb_extproc.place import Ask, Dice, NowhereError, PodTable, commit, place_plan, prefix_of
from ralb_extproc.place.disaggregate import charge, fall_back, hand_over
from ralb_extproc.plan import plan
from ralb_extproc.prefill.body import splittable
from ralb_extproc.request import PATHS, parse, session_of
from ralb_extproc.request.tokens import estimate_json
from ralb_extproc.table import RoutingTable
from ralb_extproc.types import Candidate, Handoff, HandoffReason, Plan, Request, Understanding
from ralb_extproc.understand import Understander

# (pool id, intent, effort, adapter) -> expected answer tokens
ExpectedOutput = Callable[[str, str, str, str], int]

NOT_READY = ClientError(
    503, Code.NOT_READY, "The gateway has no configuration yet; try again in a moment.", headers=(("retry-after", "1"),)
)


def no_endpoint() -> ClientError:
    """Nobody is there to serve a request."""
    message = "No model server is ready for this request; try again."
    return ClientError(503, Code.NO_ENDPOINT, message, headers=((RETRY_AFTER, "1"),))


def overloaded(message: str) -> ClientError:
    """Somebody is there, but there is no room for this request now."""
    return ClientError(429, Code.OVERLOADED, message, headers=((RETRY_AFTER, "1"),))


class Router:
    """The stages over the current table and pods.

    Args:
        pods: state of the pods; ``decide`` charges the chosen one.
        understander: estimates intent and complexity.
        expected_output: how long answers of a pool tend to be.
        max_attempts: most tries per request.
        seed: for reproducible choices; None for random ones.

    Attributes:
        table: the snapshot in use; None before the first one.
    """

    def __init__(
        self,
        pods: PodTable,
        understander: Understander,
        expected_output: ExpectedOutput,
        *,
        max_attempts: int = 4,
        seed: int | None = None,
    ) -> None:
        self.table: RoutingTable | None = None
        self.pods = pods
        self._understander = understander
        self._expected_output = expected_output
        self._max_attempts = max_attempts
        self._dice = Dice(seed)
        self._prefix = secrets.token_hex(5)
        self._count = itertools.count(1)

    def open(self, path: str) -> Decision:
        """An empty decision for a request on ``path``, under an id unique among all processors."""
        version = self.table.version if self.table is not None else ""
        return Decision(f"{self._prefix}-{next(self._count):x}", time.time(), version, path)

    def decide(self, path: str, headers: Mapping[str, str], body: bytes) -> Decision:
        """Take a request through all stages and charge the chosen pod; the outcome takes the charge off again.

        Args:
            path: path without query.
            headers: lower-case names.
            body: as received.

        Returns:
            The decision; refused requests have ``error`` set and lack the later stages.
        """
        decision = self.open(path)
        decision.request_id = headers.get(REQUEST_ID, "")[:MAX_ID]
        try:
            self._stages(decision, path, headers, body)
        except ClientError as error:
            # A copy: the raised one holds on to its frames, and through them to the body and to this very decision.
            decision.error = replace(error)
        return decision

    def _stages(self, decision: Decision, path: str, headers: Mapping[str, str], body: bytes) -> None:
        table = self.table
        if table is None:
            raise replace(NOT_READY)  # a fresh one: an exception raised again and again keeps every traceback
        clock, stages = time.perf_counter, decision.stages
        start = clock()
        request = decision.request = parse(path, headers, body)
        parsed = clock()
        stages["parse"] = parsed - start
        understanding = decision.understanding = self._understander.understand(request)
        understood = clock()
        stages["understand"] = understood - parsed
        chosen = decision.plan = plan(table, request, understanding)
        planned = clock()
        stages["plan"] = planned - understood
        first = chosen.candidates[0]
        ask = self._ask(
            table, request, understanding.intent, first.pool, first.model, chosen.output_cap, chosen.reasoning_effort
        )
        now = time.monotonic()
        try:
            placement = place_plan(table, self.pods, chosen, ask, now, self._dice, self._max_attempts)
        except NowhereError as error:
            raise no_endpoint() from error
        placement = hand_over(table, self.pods, placement, ask, now, self._dice, splittable=lambda: splittable(request))
        decision.placement = placement
        commit(self.pods, decision.id, placement, chosen, ask, now)
        if placement.handoff is not None and placement.handoff.remote:
            charge(self.pods, decision.id, placement, ask, now)
            decision.ask = ask
        stages["place"] = clock() - planned

    def fall_back(self, decision: Decision, reason: HandoffReason) -> Handoff:
        """The prefill leg of a decision failed: its decode pod computes the prompt, and is charged for it.

        A request that is over by now is charged nothing.
        """
        plan, placement, ask = decision.plan, decision.placement, decision.ask
        assert plan is not None
        assert placement is not None
        assert ask is not None
        decision.placement = placement = fall_back(placement, ask, reason)
        if self.pods.finish(decision.id) is not None:
            commit(self.pods, decision.id, placement, plan, ask, time.monotonic())
        assert placement.handoff is not None
        return placement.handoff

    def pick(
        self,
        pool: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        only: Container[str] | None = None,
        sheddable: bool = False,
    ) -> Decision:
        """Place a request in one pool, whatever model it names, and charge the chosen pod.

        Args:
            pool: pool id.
            path: one of ``request.PATHS`` if the body is to be understood; any other is placed by load alone.
            headers: lower-case names.
            body: as received; None when it is not known.
            only: addresses it may go to; None = any of the pool.
            sheddable: refuse it where no pod that works is below its concurrency cap.

        Returns:
            The decision; every attempt has an endpoint. Refused requests have ``error`` set.
        """
        decision = self.open(path)
        decision.request_id = headers.get(REQUEST_ID, "")[:MAX_ID]
        try:
            self._pick(decision, pool, headers, body, only, sheddable)
        except ClientError as error:
            decision.error = replace(error)
        return decision

    def _pick(
        self,
        decision: Decision,
        pool: str,
        headers: Mapping[str, str],
        body: bytes | None,
        only: Container[str] | None,
        sheddable: bool,
    ) -> None:
        table = self.table
        if table is None:
            raise replace(NOT_READY)
        clock, stages = time.perf_counter, decision.stages
        start = clock()
        model = intent = ""
        if body is not None and decision.path in PATHS:
            request = decision.request = parse(decision.path, headers, body)
            parsed = clock()
            stages["parse"] = parsed - start
            understanding: Understanding = self._understander.understand(request)
            decision.understanding = understanding
            start = clock()
            stages["understand"] = start - parsed
            model, intent = request.model, understanding.intent
            ask = replace(self._ask(table, request, intent, pool, model), only=only)
        else:
            tokens = estimate_json(body) if body and body[:1] in b"{[" else 0
            expected = self._expected_output(pool, "", "", "")
            ask = Ask(tokens, expected, only=only, session=session_of(headers), headers=headers)
        chosen = decision.plan = Plan("", "", "", "", (Candidate(pool, model, "", 0, 1),))
        now = time.monotonic()
        try:
            placement = place_plan(table, self.pods, chosen, ask, now, self._dice, self._max_attempts, exact=True)
        except NowhereError as error:
            raise no_endpoint() from error
        if not placement.attempts[0].endpoint:
            raise no_endpoint()
        if sheddable and placement.reason == "saturated" and table.pools[pool].concurrency_per_replica:
            raise overloaded("Every model server of this pool is busy, and this request is one that may wait.")
        decision.placement = placement
        commit(self.pods, decision.id, placement, chosen, ask, now)
        stages["place"] = clock() - start

    def _ask(
        self, table: RoutingTable, request: Request, intent: str, pool: str, model: str, cap: int = 0, effort: str = ""
    ) -> Ask:
        """``cap`` and ``effort`` are the plan's, for requests that do not say themselves."""
        limits = [limit for limit in (request.max_output, cap) if limit]
        effort = request.reasoning_effort or effort
        adapter = model if pool in table.pools and model in table.pools[pool].model.adapters else ""
        expected = min([self._expected_output(pool, intent, effort, adapter), *limits])
        return Ask(
            input_tokens=request.input_tokens,
            output_tokens=expected * request.choices,
            prefix=prefix_of(request),
            intent=intent,
            effort=effort,
            stream=request.stream,
            session=request.session,
            adapter=adapter,
            headers=request.headers,
        )
