"""The ext_proc stream: Envoy's messages in, replies out. Nothing is decided here.

One stream serves one request. After the reply to its body the stream is closed from this side: the answer does not pass here,
so a long answer holds nothing in this process. Streams of the rewriting filter are told by their initial metadata.

Trap: a handler that raises makes Envoy answer with a bare error, so every fault becomes a reply.
"""

import logging
import time
from collections.abc import Callable

from ralb_api import headers as names
from ralb_api.errors import ClientError, Code
from ralb_extproc.answer import (
    CONTINUE,
    REWRITE_HEADERS,
    models_body,
    models_reply,
    reply,
    rewritten,
    routed,
    upstream_body,
)
from ralb_extproc.decision import Decision
from ralb_extproc.protocol import METHOD, Reply, headers_of, parsed, pass_on, serialized
from ralb_extproc.router import NOT_READY, Router
from ralb_extproc.types import Api
from ralb_extproc.wire import Call, Handler, Server

_LOG = logging.getLogger(__name__)
_MODELS = "/v1/models"
_APIS = frozenset(str(api) for api in Api)
# Where the rewriting filter's streams say which model they want; set by the operator in the cluster's config.
_REWRITE_MODEL = "x-ralb-rewrite-model"
_INTERNAL = ClientError(500, Code.INTERNAL_ERROR, "The gateway failed to handle this request; it has been logged.")

# Called once per request with the finished decision; routed ones are reported on by the access log later.
OnDecision = Callable[[Decision], None]


class ProcessorService:
    """Serves ext_proc streams.

    Args:
        router: the stages.
        on_decision: told of every decision made here.
    """

    def __init__(self, router: Router, on_decision: OnDecision, explain: Callable[[Decision], str]) -> None:
        self._router = router
        self._on_decision = on_decision
        self._explain = explain

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

    def on_body(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Decide a request that came whole."""
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

    def _answer(self, decision: Decision, path: str, headers: dict[str, str]) -> Reply:
        if decision.error is not None:
            return reply(decision.error, path=path)
        request, plan, placement = decision.request, decision.plan, decision.placement
        assert request is not None
        assert plan is not None
        assert placement is not None
        wants = headers.get(names.EXPLAIN, "").lower() == "true"
        return routed(
            upstream_body(request, plan, placement.attempts[0].model),
            placement,
            decision_id=decision.id,
            tier=plan.tier_name,
            remove=[name for name in headers if name.startswith(names.OWN_PREFIX)],
            explanation=self._explain(decision) if wants else "",
        )


class _Request:
    """One request's stream."""

    __slots__ = ("_call", "_headers", "_path", "_service")

    def __init__(self, service: ProcessorService, call: Call) -> None:
        self._service = service
        self._call = call
        self._headers: dict[str, str] = {}
        self._path = ""

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
            self._call.send(serialized(answer))
            # The answer to the client does not pass here, so there is nothing to wait for.
            self._call.finish()
        elif message is not None:
            self._call.send(serialized(pass_on(kind)))

    def end(self) -> None:
        self._call.finish()

    def lost(self) -> None:
        """Nothing is held for a request that was not routed yet."""


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
