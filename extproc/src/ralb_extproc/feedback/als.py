"""Envoy's gRPC access log: a stream of finished requests in, ``Outcome`` objects out to one sink.

May not enter: what the outcomes mean (``learn``). The log is the only news of the end of a request, so a bad entry or a failing
sink is counted and skipped; it never ends the stream.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from ralb_extproc.feedback.outcome import Outcome, outcome_of

_log = logging.getLogger(__name__)
# Entries handled before other tasks get their turn.
_SLICE: Final = 32

Sink = Callable[[Outcome], None]


class AccessLogService(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]
    """``envoy.service.accesslog.v3.AccessLogService`` for grpc.aio.

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
        self.received = 0
        self.skipped = 0
        self.streams = 0
        self.lost_at: float | None = None

    def add_to(self, server: "grpc.aio.Server") -> None:
        """Register with a grpc.aio server."""
        als_pb2_grpc.add_AccessLogServiceServicer_to_server(self, server)

    async def StreamAccessLogs(
        self, request_iterator: AsyncIterator[Any], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> Any:
        """Read a stream to its end."""
        self.streams += 1
        try:
            async for message in request_iterator:
                for i, entry in enumerate(message.http_logs.log_entry, 1):
                    self._take(entry)
                    if i % _SLICE == 0:
                        await asyncio.sleep(0)
        finally:
            self.streams -= 1
            if not self.streams:
                self.lost_at = time.monotonic()
        return als_pb2.StreamAccessLogsResponse()

    def _take(self, entry: Any) -> None:
        self.received += 1
        try:
            outcome = outcome_of(entry)
            if outcome is not None:
                self._sink(outcome)
        except Exception:
            self.skipped += 1
            if self.skipped & (self.skipped - 1) == 0:  # the 1st, 2nd, 4th, 8th ... only
                _log.exception("access log entry skipped (%d so far)", self.skipped)
