"""One request's stream, phase by phase.

    request headers with end_of_stream      the pick, at once
    request headers                         nothing yet
    request body, until end_of_stream       kept; then the pick as the reply to the headers, then the body back in pieces
    request trailers instead of the end     the same, then a reply to them
    response headers, body, trailers        answered at once, each body part given back; looked at in passing

That is full duplex, which the protocol demands. Gateways that say they use another mode for a body (``protocol_config``) are
answered in theirs: a buffered body gets the pick as its reply; with a streamed or unsent one the pick is made from the
headers.

Traps: Envoy since 1.35 may send the last part of a large body twice, so all of a body after its first end is passed over;
answers may begin before the request is complete, and without it having been placed (Envoy's own refusals). Load is charged
once, and released once, however the stream ends: at the end of the answer, the end of the call, its loss, or a message out
of order.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode

from ralb_api import headers as names
from ralb_api.errors import ClientError, Code
from ralb_extproc.answer import CONTINUE, reply
from ralb_extproc.decision import Decision
from ralb_extproc.epp import replies
from ralb_extproc.epp.answer import Answer
from ralb_extproc.epp.subset import Subset, subset_of
from ralb_extproc.protocol import Reply, headers_of, parsed, pass_on, serialized
from ralb_extproc.router import overloaded
from ralb_extproc.wire import Call, Status

if TYPE_CHECKING:
    from ralb_extproc.epp.service import Picker

_LOG = logging.getLogger(__name__)
_NONE: Final = ProcessingMode.NONE
_STREAMED: Final = ProcessingMode.STREAMED
_PARTIAL: Final = ProcessingMode.BUFFERED_PARTIAL
_WHOLE: Final = (ProcessingMode.BUFFERED, _PARTIAL)
_DUPLEX: Final = ProcessingMode.FULL_DUPLEX_STREAMED
_INTERNAL: Final = ClientError(
    500, Code.INTERNAL_ERROR, "The gateway failed to handle this request; it has been logged."
)


class PickerStream:
    """The handler of one call."""

    __slots__ = (
        "_answer",
        "_answered",
        "_began",
        "_body",
        "_call",
        "_complete",
        "_headers",
        "_path",
        "_picker",
        "_request_mode",
        "_response_mode",
        "_subset",
    )

    def __init__(self, picker: "Picker", call: Call) -> None:
        self._picker = picker
        self._call = call
        self._began = 0.0
        self._headers: dict[str, str] | None = None
        self._path = ""
        self._subset: Subset | None = None
        self._request_mode = self._response_mode = _DUPLEX
        self._body = bytearray()  # so far; not a list of parts, which may be many and tiny
        self._complete = False  # nothing more of the request counts
        self._answered = False  # nothing more of the answer counts
        self._answer: Answer | None = None  # from when the request is placed until its load is released

    # ---- what the call says ----

    def message(self, data: bytes) -> None:
        """See ``Handler``."""
        message = parsed(self._call, data)
        if message is None:
            self._leave(aborted=True)
            return
        kind = message.WhichOneof("request")
        try:
            step = _STEPS.get(kind)
            if step is None:
                self._broken("a message without a request")
            else:
                step(self, message)
        except Exception:
            # Whatever went wrong, this client gets an answer and the others go on.
            _LOG.exception("a %s on %s could not be handled", kind, self._path)
            if self._complete:
                self._leave(aborted=True)
                self._call.finish(Status.INTERNAL, "the picker failed; see its log")
            else:
                self._refuse(_INTERNAL)

    def end(self) -> None:
        """The gateway has nothing more to say: all is over, or the rest of the answer is not shown to us."""
        self._leave(aborted=not (self._answer is not None and self._answer.status and self._response_mode == _NONE))
        self._call.finish()

    def lost(self) -> None:
        """See ``Handler``."""
        self._leave(aborted=True)

    def _leave(self, *, aborted: bool) -> None:
        """Give back what is held for this request: its body's room and its load."""
        self._drop_body()
        answer, self._answer = self._answer, None
        if answer is not None:
            self._picker.settle(answer.outcome(aborted=aborted))

    def _drop_body(self) -> None:
        self._picker.room.give(len(self._body))
        self._body = bytearray()

    def _broken(self, what: str) -> None:
        self._leave(aborted=True)
        self._call.finish(Status.INVALID_ARGUMENT, what)

    def _send(self, answer: Reply) -> None:
        self._call.send(serialized(answer))

    # ---- the request ----

    def _request_headers(self, message: Any) -> None:
        if self._headers is not None:
            self._broken("request headers twice")
            return
        self._began = time.monotonic()
        self._headers = headers_of(message.request_headers)
        self._path = self._picker.path_of(self._headers.get(":path", ""))
        self._subset = subset_of(message.metadata_context)
        if message.HasField("protocol_config"):
            self._request_mode = message.protocol_config.request_body_mode
            self._response_mode = message.protocol_config.response_body_mode
        if message.request_headers.end_of_stream:
            self._pick(b"")
        elif self._request_mode in (_NONE, _STREAMED):
            self._pick(None)
        elif self._request_mode in _WHOLE:
            self._send(CONTINUE)

    def _request_body(self, message: Any) -> None:
        if self._headers is None:
            self._broken("a request body before the headers")
            return
        if self._complete:
            if self._request_mode == _STREAMED:
                self._send(pass_on("request_body"))
            return
        body = message.request_body
        if not self._keep(body.body):
            return
        if body.end_of_stream or self._request_mode in _WHOLE:
            # Of a body that is larger than the gateway keeps only a part comes: that is not to be understood.
            part = self._request_mode == _PARTIAL and not body.end_of_stream
            self._pick(None if part else bytes(self._body), end_of_stream=True)

    def _keep(self, chunk: bytes) -> bool:
        """Take a part of the body; False after refusing the request for it."""
        picker = self._picker
        if len(self._body) + len(chunk) > picker.max_body_bytes:
            text = f"The body is larger than the {picker.max_body_bytes} bytes allowed."
            self._refuse(ClientError(413, Code.REQUEST_TOO_LARGE, text))
            return False
        if not picker.room.take(len(chunk)):
            self._refuse(overloaded("Too many large requests are on their way at once; try again."))
            return False
        self._body += chunk
        return True

    def _request_trailers(self, message: Any) -> None:
        if self._headers is None:
            self._broken("request trailers before the headers")
            return
        if self._request_mode == _DUPLEX and not self._complete and not self._pick(bytes(self._body)):
            return
        self._send(pass_on("request_trailers"))

    def _pick(self, body: bytes | None, *, end_of_stream: bool = False) -> bool:
        """Place the request and say where to; False if it is refused.

        Args:
            body: all of it; None when it is not known.
            end_of_stream: the request ended with its body.
        """
        headers = self._headers
        assert headers is not None
        decision = self._picker.pick(self._path, headers, body, self._subset)
        if decision.error is not None:
            self._refuse(decision.error, decision)
            return False
        assert decision.placement is not None
        size = len(self._body)
        self._complete = True
        self._answer = Answer(decision, self._began, size)
        self._picker.decided(decision)
        self._drop_body()
        self._headers = {}
        picks = ",".join(attempt.endpoint for attempt in decision.placement.attempts)
        remove = [name for name in headers if name.startswith(names.OWN_PREFIX)]
        if end_of_stream and self._request_mode in _WHOLE:
            self._send(replies.body_reply(picks, remove))
            return True
        duplex = self._request_mode == _DUPLEX and body is not None and (end_of_stream or bool(body))
        # With trailers to come a length would be wrong in HTTP/1.1.
        self._send(replies.headers_reply(picks, remove, size if duplex and end_of_stream else None))
        if duplex and body is not None:
            for piece in replies.pieces(body, answer=False, last=end_of_stream):
                self._send(piece)
        return True

    def _refuse(self, error: ClientError, decision: Decision | None = None) -> None:
        """Answer the client here, and end."""
        self._complete = self._answered = True
        self._leave(aborted=True)
        self._picker.refused(self._path, error, decision)
        self._send(reply(error, path=self._path))
        self._call.finish()

    # ---- the answer ----

    def _response_headers(self, message: Any) -> None:
        answer = self._answer
        if answer is not None:
            answer.headers(headers_of(message.response_headers), message)
        self._send(replies.answer_headers(answer.decision.id if answer is not None else ""))
        if message.response_headers.end_of_stream:
            self._over()

    def _response_body(self, message: Any) -> None:
        if self._answered:
            return
        body = message.response_body
        answer = self._answer
        if answer is not None:
            answer.look(message)
            if answer.body(body.body):
                self._picker.first_token(answer.decision.id)
        if self._response_mode == _DUPLEX:
            for piece in replies.pieces(body.body, answer=True, last=body.end_of_stream):
                self._send(piece)
        else:
            self._send(pass_on("response_body"))
        if body.end_of_stream:
            self._over()

    def _response_trailers(self, message: Any) -> None:
        if not self._answered:
            self._send(pass_on("response_trailers"))
            self._over()

    def _over(self) -> None:
        """The answer is complete. The call stays for the gateway to end: what it repeats is passed over until then."""
        self._answered = True
        self._leave(aborted=False)


_STEPS: Final[dict[str, Callable[[PickerStream, Any], None]]] = {
    "request_headers": PickerStream._request_headers,
    "request_body": PickerStream._request_body,
    "request_trailers": PickerStream._request_trailers,
    "response_headers": PickerStream._response_headers,
    "response_body": PickerStream._response_body,
    "response_trailers": PickerStream._response_trailers,
}
