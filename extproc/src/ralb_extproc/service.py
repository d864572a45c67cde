"""The ext_proc stream: Envoy's messages in, replies out. Nothing is decided here.

One stream serves one request. The reply to its body comes at once, or when a prefill pod has computed its prompt. Then the stream
is closed from this side: the answer does not pass here, so a long answer holds nothing in this process. Streams of the rewriting
filter are told by their initial metadata.

Trap: a handler that raises makes Envoy answer with a bare error, so every fault becomes a reply.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from ralb_api import headers as names
from ralb_api.errors import ClientError, Code
from ralb_extproc.answer import (
    CONTINUE,
    REWRITE_HEADERS,
    models_body,
    models_reply,
    more_time,
    reply,
    rewritten,
    routed,
    upstream_body,
    upstream_fields,
)
from ralb_extproc.decision import Decision
from ralb_extproc.prefill.body import decode_body
from ralb_extproc.prefill.legs import Leg, Legs
from ralb_extproc.protocol import METHOD, Reply, headers_of, parsed, pass_on, serialized
from ralb_extproc.router import NOT_READY, Router
from ralb_extproc.types import Api, Handoff, HandoffReason
from ralb_extproc.wire import Call, Handler, Server

_LOG = logging.getLogger(__name__)
_MODELS = "/v1/models"
_APIS = frozenset(str(api) for api in Api)
# Where the rewriting filter's streams say which model they want; set by the operator in the cluster's config.
_REWRITE_MODEL = "x-ralb-rewrite-model"
_INTERNAL = ClientError(500, Code.INTERNAL_ERROR, "The gateway failed to handle this request; it has been logged.")

# Envoy reports the end of a request within this time.
_REPORT_S: Final = 5.0

# Called once per request with the finished decision; routed ones are reported on by the access log later.
OnDecision = Callable[[Decision], None]
# Called once per request for a pool that hands prompts over: that pool, what became of it, and the leg's seconds if it had one.
OnHandoff = Callable[[str, Handoff, float | None], None]


class ProcessorService:
    """Serves ext_proc streams.

    Args:
        router: the stages.
        on_decision: told of every decision made here.
        explain: a line about a decision, for clients that ask.
        legs: runs prefill legs.
        on_handoff: told who computed a prompt.
    """

    def __init__(
        self,
        router: Router,
        on_decision: OnDecision,
        explain: Callable[[Decision], str],
        legs: Legs,
        on_handoff: OnHandoff,
    ) -> None:
        self._router = router
        self._on_decision = on_decision
        self._explain = explain
        self.legs = legs
        self._on_handoff = on_handoff

    def add_to(self, server: Server) -> None:
        """Register with a server."""
        server.add(METHOD, self._open)

    def _open(self, call: Call) -> Handler:
        model = call.metadata.get(_REWRITE_MODEL)
        return _Request(self, call) if model is None else _Rewrite(call, model)

    def on_headers(self, path: str, headers: dict[str, str], *, last: bool) -> Reply:
        """Answer from the headers alone where no body is needed, else go on to the body."""
        method = headers.get(":method", "")
        if path == _MODELS or path.startswith(_MODELS + "/"):
            return self._models(path, method)
        if path not in _APIS:
            known = ", ".join(sorted((*_APIS, _MODELS)))
            return self._refuse(
                path, ClientError(404, Code.UNKNOWN_PATH, f"There is no {path[:200]}. There are: {known}.")
            )
        if method != "POST":
            error = ClientError(
                405, Code.METHOD_NOT_ALLOWED, f"{path} takes POST, not {method[:20]}.", headers=(("allow", "POST"),)
            )
            return self._refuse(path, error)
        if last:
            return self._refuse(
                path, ClientError(400, Code.BODY_REQUIRED, "The request has no body; send a JSON object.")
            )
        return CONTINUE

    def _models(self, path: str, method: str) -> Reply:
        if method not in ("GET", "HEAD"):
            error = ClientError(
                405, Code.METHOD_NOT_ALLOWED, f"{_MODELS} takes GET, not {method[:20]}.", headers=(("allow", "GET"),)
            )
            return self._refuse(path, error)
        table = self._router.table
        if table is None:
            return self._refuse(path, NOT_READY)
        body = models_body(table, path)
        if body is None:
            name = path.removeprefix(_MODELS + "/")[:200]
            return self._refuse(
                path, ClientError(404, Code.MODEL_NOT_FOUND, f"There is no model {name}; GET {_MODELS} lists them.")
            )
        self._on_decision(self._router.open(path))
        return models_reply(body)

    def _refuse(self, path: str, error: ClientError) -> Reply:
        decision = self._router.open(path)
        decision.error = error
        self._on_decision(decision)
        return reply(error, path=path)

    def on_body(self, path: str, headers: dict[str, str], body: bytes) -> "Reply | Waiting":
        """Decide a request that came whole; where another pod computes its prompt first, the reply comes when that is over."""
        start = time.perf_counter()
        try:
            decision = self._router.decide(path, headers, body)
            answer = self._answer(decision, path, headers)
            decision.stages["total"] = time.perf_counter() - start
        except Exception:
            # The last line of defence: whatever went wrong, this client gets an answer and the others go on.
            _LOG.exception("a request on %s could not be decided", path)
            return self._refuse(path, _INTERNAL)
        self._on_decision(decision)
        return answer

    def _answer(self, decision: Decision, path: str, headers: dict[str, str]) -> "Reply | Waiting":
        if decision.error is not None:
            return reply(decision.error, path=path)
        request, plan, placement = decision.request, decision.plan, decision.placement
        assert request is not None
        assert plan is not None
        assert placement is not None
        handoff = placement.handoff
        if handoff is not None:
            if handoff.remote and not handoff.sidecar:
                fields = upstream_fields(request, plan, placement.attempts[0].model)
                if not self.legs.full:
                    return Waiting(self, decision, headers, fields)
                self.legs.release(decision.id)
                handoff = self._router.fall_back(decision, HandoffReason.BUSY)
            elif handoff.remote:
                self.legs.told(decision.id, handoff)
            self._on_handoff(placement.attempts[0].pool, handoff, None)
        return self._routed(decision, headers, upstream_body(request, plan, placement.attempts[0].model))

    def _routed(self, decision: Decision, headers: dict[str, str], body: bytes) -> Reply:
        plan, placement = decision.plan, decision.placement
        assert plan is not None
        assert placement is not None
        handoff = placement.handoff
        wants = headers.get(names.EXPLAIN, "").lower() == "true"
        return routed(
            body,
            placement,
            decision_id=decision.id,
            tier=plan.tier_name,
            remove=[name for name in headers if name.startswith(names.OWN_PREFIX)],
            explanation=self._explain(decision) if wants else "",
            prefiller=handoff.endpoint if handoff is not None and handoff.remote and handoff.sidecar else "",
        )

    def after_leg(
        self,
        decision: Decision,
        headers: dict[str, str],
        fields: dict[str, Any],
        reason: HandoffReason,
        params: Mapping[str, Any] | None,
        seconds: float,
    ) -> Reply:
        """The reply to a request whose prefill leg is over, well or not."""
        decision.prefill_s = seconds
        try:
            if params is None:
                self._router.fall_back(decision, reason)
            body = orjson.dumps(fields) if params is None else decode_body(fields, params)
            answer = self._routed(decision, headers, body)
        except Exception:
            _LOG.exception("a request on %s could not be answered after its prefill leg", decision.path)
            answer = reply(_INTERNAL, path=decision.path)
        placement = decision.placement
        assert placement is not None
        assert placement.handoff is not None
        self._on_handoff(placement.attempts[0].pool, placement.handoff, seconds)
        return answer

    def abandoned(self, decision: Decision, handoff: Handoff) -> None:
        """The client of a request went away while its prompt was being computed."""
        placement = decision.placement
        assert placement is not None
        handoff = replace(handoff, reason=HandoffReason.ABORTED)
        decision.placement = replace(placement, handoff=handoff)
        self._on_handoff(placement.attempts[0].pool, handoff, None)
        # Envoy's report of the end takes the load off too, but not if it cannot be told whose end it is.
        asyncio.get_running_loop().call_later(_REPORT_S, self._router.pods.finish, decision.id)


class Waiting:
    """A routed request whose prompt a prefill pod computes meanwhile.

    Its decision is told of before the leg begins: should the client leave, Envoy reports the end at any time from then on.
    """

    __slots__ = ("_answered", "_decision", "_fields", "_handoff", "_headers", "_service", "_task")

    def __init__(
        self, service: ProcessorService, decision: Decision, headers: dict[str, str], fields: dict[str, Any]
    ) -> None:
        assert decision.placement is not None
        assert decision.placement.handoff is not None
        self._service = service
        self._decision = decision
        self._headers = headers
        self._fields = fields
        self._handoff = decision.placement.handoff
        self._task: asyncio.Task[None] | None = None
        self._answered: Callable[[Reply], None] | None = None

    @property
    def more_time(self) -> Reply:
        """What to tell Envoy first."""
        return more_time(self._handoff.timeout)

    def start(self, answered: Callable[[Reply], None]) -> None:
        """Run the leg; ``answered`` is called once with the reply, unless this is cancelled."""
        self._answered = answered
        decision = self._decision
        leg = Leg(decision.id, self._handoff, decision.path, self._fields, decision.request_id)
        self._task = self._service.legs.start(leg, self._ended)

    def cancel(self) -> None:
        """The client went away."""
        self._answered = None
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._service.abandoned(self._decision, self._handoff)

    def _ended(self, reason: HandoffReason, params: Mapping[str, Any] | None, seconds: float) -> None:
        if self._answered is not None:
            self._answered(
                self._service.after_leg(self._decision, self._headers, self._fields, reason, params, seconds)
            )


class _Request:
    """One request's stream."""

    __slots__ = ("_call", "_headers", "_path", "_service", "_waiting")

    def __init__(self, service: ProcessorService, call: Call) -> None:
        self._service = service
        self._call = call
        self._headers: dict[str, str] = {}
        self._path = ""
        self._waiting: Waiting | None = None

    def message(self, data: bytes) -> None:
        message = parsed(self._call, data)
        kind = message.WhichOneof("request") if message is not None else None
        if kind == "request_headers":
            headers = self._headers = headers_of(message.request_headers)
            path = self._path = headers.get(":path", "").partition("?")[0]
            answer = self._service.on_headers(path, headers, last=message.request_headers.end_of_stream)
            self._call.send(serialized(answer))
            if answer is not CONTINUE:
                self._call.finish()
        elif kind == "request_body":
            answer = self._service.on_body(self._path, self._headers, message.request_body.body)
            if isinstance(answer, Waiting):
                self._waiting = answer
                self._call.send(serialized(answer.more_time))
                answer.start(self._answer)
            else:
                self._answer(answer)
        elif message is not None:
            self._call.send(serialized(pass_on(kind)))

    def _answer(self, answer: Reply) -> None:
        self._waiting = None
        self._call.send(serialized(answer))
        # The answer to the client does not pass here, so there is nothing to wait for.
        self._call.finish()

    def end(self) -> None:
        self.lost()
        self._call.finish()

    def lost(self) -> None:
        """Nothing is held for a request, unless its prompt is being computed."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class _Rewrite:
    """The stream of one attempt whose body gets another model name."""

    __slots__ = ("_call", "_model")

    def __init__(self, call: Call, model: str) -> None:
        self._call = call
        self._model = model

    def message(self, data: bytes) -> None:
        message = parsed(self._call, data)
        kind = message.WhichOneof("request") if message is not None else None
        if kind == "request_headers":
            self._call.send(REWRITE_HEADERS)
        elif kind == "request_body":
            self._call.send(serialized(rewritten(message.request_body.body, self._model)))
            self._call.finish()
        elif message is not None:
            self._call.send(serialized(pass_on(kind)))

    def end(self) -> None:
        self._call.finish()

    def lost(self) -> None:
        """Nothing is held."""
