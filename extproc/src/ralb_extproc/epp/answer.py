"""What the passing answer of one placed request tells, as an ``Outcome``.

Which try answered is known only where the gateway says which endpoint served. Where it does not, nothing is said about pods,
so that nobody is praised or blamed for another: load is released, tokens and times are counted, that is all.
"""

import time
from typing import Any, Final

from ralb_api.headers import METADATA_LB, METADATA_SERVED_KEY
from ralb_extproc.decision import Decision
from ralb_extproc.epp.usage import UsageReader
from ralb_extproc.feedback import Failure, Outcome
from ralb_extproc.feedback.outcome import MAX_ID

# Envoy's name for the same where its filter is set to send attributes.
_ATTRIBUTE: Final = "upstream.address"


class Answer:
    """The answer so far.

    Args:
        decision: of the request; it was placed.
        began: monotonic seconds at which the request came.
        request_bytes: size of its body.

    Attributes:
        status: HTTP status; 0 before there is one.
        served: endpoint that answered, "" where nobody says.
    """

    __slots__ = ("_began", "_first", "_request_bytes", "_usage", "decision", "served", "status")

    def __init__(self, decision: Decision, began: float, request_bytes: int) -> None:
        self.decision = decision
        self.status = 0
        self.served = ""
        self._began = began
        self._first: float | None = None
        self._request_bytes = request_bytes
        self._usage = UsageReader()

    def headers(self, headers: dict[str, str], message: Any) -> None:
        """Response headers came, in this ``ProcessingRequest``."""
        said = headers.get(":status", "")
        self.status = int(said) if said.isascii() and said.isdigit() and len(said) == 3 else 0
        self.look(message)

    def look(self, message: Any) -> None:
        """Find who served in a message's metadata or attributes, if that is not known yet."""
        if not self.served:
            self.served = _served(message)[:MAX_ID]

    def body(self, data: bytes) -> bool:
        """A part of the body came; whether it is the first that is not empty."""
        if not data:
            return False
        first = self._first is None
        if first:
            self._first = time.monotonic()
        self._usage.feed(data)
        return first

    def outcome(self, *, aborted: bool) -> Outcome:
        """How it ended; ``aborted``: before the answer was complete."""
        decision = self.decision
        tokens = self._usage.tokens()
        understood = decision.understanding is not None
        endpoints = [a.endpoint for a in decision.placement.attempts] if decision.placement is not None else []
        attempts = endpoints.index(self.served) + 1 if self.served in endpoints else int(bool(self.status))
        return Outcome(
            decision_id=decision.id,
            request_id=decision.request_id,
            path=decision.path[:MAX_ID],
            status=self.status,
            attempts=attempts,
            upstream=self.served,
            failure=Failure.STATUS if self.status >= 500 else Failure.NONE,
            aborted=aborted,
            ttft=None if self._first is None else self._first - self._began,
            duration=time.monotonic() - self._began,
            ended=time.time(),
            # Of what was not understood, such as a look at /metrics, no tokens are guessed.
            input_tokens=tokens.input if tokens.input is not None or understood else 0,
            output_tokens=tokens.output if tokens.output is not None or understood else 0,
            cached_tokens=tokens.cached,
            reasoning_tokens=tokens.reasoning,
            request_bytes=self._request_bytes,
            response_bytes=self._usage.size,
        )


def _served(message: Any) -> str:
    metadata = message.metadata_context.filter_metadata
    if METADATA_LB in metadata:
        fields = metadata[METADATA_LB].fields
        if METADATA_SERVED_KEY in fields:
            return str(fields[METADATA_SERVED_KEY].string_value)
    for group in message.attributes.values():
        if _ATTRIBUTE in group.fields:
            return str(group.fields[_ATTRIBUTE].string_value)
    return ""
