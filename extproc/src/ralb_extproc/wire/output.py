"""What goes to the peer: frames in order, and DATA as far as the peer's windows allow (RFC 9113, 5.2 and 6.9).

Invariant outside of a method: the connection's window is used up, or every waiting stream's own window is. So one stream's
news concerns that stream alone, and only the connection's window and settings concern all.
"""

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ralb_extproc.wire import frames
from ralb_extproc.wire.calls import Call, Handler
from ralb_extproc.wire.frames import ErrorCode, Kind, PeerError

_ANSWER: Final = b"\x88" + frames.literal(b"content-type", b"application/grpc")  # 0x88 = ":status: 200"
# Larger frames save little and make others wait.
_LARGEST_FRAME: Final = 256 * 1024


@dataclass(slots=True, eq=False)
class Stream:
    """One call's state.

    Attributes:
        handler: None once nothing may be told to it any more.
        window: bytes of DATA the peer takes; negative after it lowered its settings.
        buffer: the begin of an unfinished message of the peer.
        given: bytes received since the peer was last given window for them.
        pending: answers that wait for window.
        answered: response headers are out.
        trailers: the header block that ends the call, once that is decided.
        half_closed: the peer has said all.
    """

    number: int
    call: Call
    window: int
    handler: Handler | None = None
    buffer: bytearray = field(default_factory=bytearray)
    given: int = 0
    pending: deque[memoryview] = field(default_factory=deque)
    answered: bool = False
    trailers: bytes | None = None
    half_closed: bool = False


class Output:
    """Frames to send.

    Args:
        over: told of a stream whose last frame is out.

    Attributes:
        out: bytes to send, in order.
        held: bytes of DATA that wait for window.
    """

    def __init__(self, over: Callable[[Stream], None]) -> None:
        self.out: list[bytes] = []
        self.held = 0
        self.initial_window = frames.DEFAULT_WINDOW
        self._over = over
        self._window = frames.DEFAULT_WINDOW
        self._max_frame = frames.DEFAULT_FRAME
        self._waiting: dict[Stream, None] = {}  # those with pending data, in order

    def message(self, stream: Stream, data: bytes) -> None:
        """A gRPC message (one byte of flags, four of length, the data), with response headers before the first."""
        if not stream.answered:
            stream.answered = True
            self.out.append(frames.frame(Kind.HEADERS, frames.END_HEADERS, stream.number, _ANSWER))
        payload = struct.pack(">BI", 0, len(data)) + data
        size = len(payload)
        if not stream.pending and size <= self._max_frame and size <= stream.window and size <= self._window:
            stream.window -= size
            self._window -= size
            self.out.append(frames.frame(Kind.DATA, 0, stream.number, payload))
            return
        # A view: what is sent of it is not copied again and again.
        stream.pending.append(memoryview(payload))
        self.held += size
        self._waiting[stream] = None
        self._send(stream)

    def trailers(self, stream: Stream, block: bytes) -> None:
        """End a stream after its pending data."""
        stream.trailers = block if stream.answered else _ANSWER + block
        if not stream.pending:
            self._close(stream)

    def drop(self, stream: Stream) -> None:
        """Forget what a stream has pending."""
        if not stream.pending:
            return
        del self._waiting[stream]
        self.held -= sum(map(len, stream.pending))
        stream.pending.clear()

    def widen(self, increment: int) -> None:
        """The peer takes more on the connection.

        Raises:
            PeerError: more than 2^31 - 1.
        """
        self._window += increment
        if self._window > frames.MAX_WINDOW:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflows")
        self._send_all()

    def widen_stream(self, stream: Stream, increment: int) -> bool:
        """The peer takes more on a stream; False if that is more than 2^31 - 1."""
        stream.window += increment
        if stream.window > frames.MAX_WINDOW:
            return False
        self._send(stream)
        return True

    def configure(self, streams: list[Stream], window: int | None, max_frame: int | None) -> None:
        """The peer's settings: the initial window (which changes those of all open streams) and the largest frame.

        Raises:
            PeerError: a window becomes larger than 2^31 - 1.
        """
        if max_frame is not None:
            self._max_frame = min(max_frame, _LARGEST_FRAME)
        if window is not None:
            change, self.initial_window = window - self.initial_window, window
            for stream in streams:
                stream.window += change
                if stream.window > frames.MAX_WINDOW:
                    raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "the window of a stream overflows")
            if change > 0:
                self._send_all()

    def _send_all(self) -> None:
        for stream in list(self._waiting):
            if self._window <= 0:
                return
            self._send(stream)

    def _send(self, stream: Stream) -> None:
        pending = stream.pending
        if not pending:
            return
        while pending and stream.window > 0 and self._window > 0:
            head = pending[0]
            size = min(len(head), stream.window, self._window, self._max_frame)
            self.out.append(frames.frame(Kind.DATA, 0, stream.number, head[:size]))
            stream.window -= size
            self._window -= size
            self.held -= size
            if size == len(head):
                pending.popleft()
            else:
                pending[0] = head[size:]
        if not pending:
            del self._waiting[stream]
            if stream.trailers is not None:
                self._close(stream)

    def _close(self, stream: Stream) -> None:
        assert stream.trailers is not None
        flags = frames.END_HEADERS | frames.END_STREAM
        self.out.append(frames.frame(Kind.HEADERS, flags, stream.number, stream.trailers))
        if not stream.half_closed:
            # All is said; the peer need not go on.
            self.out.append(frames.reset(stream.number, ErrorCode.NO_ERROR))
        self._over(stream)
