"""Envoy's gRPC access log: a stream of finished requests in, ``Outcome`` objects out to one sink.

May not enter: what the outcomes mean (``learn``). The log is the only news of the end of a request, so a bad entry or a failing
sink is counted and skipped; it never ends the stream. Entries come in bursts; they are handled a few at a time, so that
decisions do not wait for them.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from google.protobuf.message import DecodeError

from ralb_extproc.feedback.outcome import Outcome, outcome_of
from ralb_extproc.wire import Call, Server, Status

_log = logging.getLogger(__name__)
_METHOD: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
# Entries handled before other work gets its turn.
_SLICE: Final = 8
_MAX_WAITING: Final = 100_000

Sink = Callable[[Outcome], None]


class AccessLogService:
    """``envoy.service.accesslog.v3.AccessLogService``.

    Args:
        sink: called with each outcome, on the event loop; must not block.

    Attributes:
        received: entries seen.
        skipped: entries that could not be used.
        streams: streams now open.
        lost_at: monotonic seconds at which there last was no stream left; None if that never happened.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: deque[Any] = deque()
        self._working = False
        self.received = 0
        self.skipped = 0
        self.streams = 0
        self.lost_at: float | None = None

    def add_to(self, server: Server) -> None:
        """Register with a server."""
        server.add(_METHOD, lambda call: _Stream(self, call))

    def take(self, message: Any) -> None:
        """Queue the entries of a message. Too many waiting ones are skipped: their load is let go by time."""
        for entry in message.http_logs.log_entry:
            self.received += 1
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append(entry)
            else:
                self.skipped += 1
        if self._waiting and not self._working:
            self._working = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        for _ in range(min(_SLICE, len(self._waiting))):
            self._handle(self._waiting.popleft())
        self._working = bool(self._waiting)
        if self._working:
            asyncio.get_running_loop().call_soon(self._work)

    def _handle(self, entry: Any) -> None:
        try:
            outcome = outcome_of(entry)
            if outcome is not None:
                self._sink(outcome)
        except Exception:
            self.skipped += 1
            if self.skipped & (self.skipped - 1) == 0:  # the 1st, 2nd, 4th, 8th ... only
                _log.exception("access log entry skipped (%d so far)", self.skipped)


class _Stream:
    """One Envoy worker's log."""

    __slots__ = ("_call", "_open", "_service")

    def __init__(self, service: AccessLogService, call: Call) -> None:
        self._service = service
        self._call = call
        self._open = True
        service.streams += 1

    def message(self, data: bytes) -> None:
        try:
            message = StreamAccessLogsMessage.FromString(data)
        except DecodeError:
            self._over()
            self._call.finish(Status.INVALID_ARGUMENT, "not a StreamAccessLogsMessage")
            return
        self._service.take(message)

    def end(self) -> None:
        self._over()
        self._call.send(StreamAccessLogsResponse().SerializeToString())
        self._call.finish()

    def lost(self) -> None:
        self._over()

    def _over(self) -> None:
        if self._open:
            self._open = False
            self._service.streams -= 1
            if not self._service.streams:
                self._service.lost_at = time.monotonic()
