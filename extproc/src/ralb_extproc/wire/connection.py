"""One HTTP/2 connection with gRPC calls on it, without I/O: bytes in, handler calls and bytes out.

A handler answers from within ``message`` or later; flow control may hold its answers back (``output``). What a peer may make us
keep is bounded: streams, header blocks, the size of a message, and over all streams the unfinished messages and the answers it
does not take. Receive windows are given back at once: were they kept for whole messages only, many large messages at once could
each wait for the others' window for ever.
"""

import logging
from collections.abc import Callable
from typing import Final

from ralb_extproc.wire import frames
from ralb_extproc.wire.blocks import MAX_BLOCK, Blocks
from ralb_extproc.wire.calls import Call, Handler, Limits, Status
from ralb_extproc.wire.frames import ErrorCode, Kind, PeerError, Setting
from ralb_extproc.wire.output import Output, Stream
from ralb_extproc.wire.reader import Reader, peer_settings

_LOG = logging.getLogger(__name__)
_PREFIX: Final = 5  # gRPC: one byte of flags, four of length
_RECEIVE_WINDOW: Final = 256 * 1024 * 1024
_GIVE_BACK: Final = 4 * 1024 * 1024


class Connection:
    """The protocol.

    Args:
        accept: makes the handler of a call; None refuses it as unimplemented.
        limits: bounds.
        wake: called when there is output outside of ``receive``.
    """

    def __init__(
        self, accept: Callable[[Call], Handler | None], limits: Limits, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._accept = accept
        self._limits = limits
        self._wake = wake
        self._reader = Reader(self._frame)
        self._configured = False
        self._blocks = Blocks()
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._left_at: int | None = None  # the last stream taken before ``leave``
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, block so far, until END_HEADERS
        self._consumed = 0
        self._buffered = 0
        self._receiving = False
        self._output = Output(self._forget)
        self._stream_window = min(max(limits.message * 2, frames.DEFAULT_WINDOW), frames.MAX_WINDOW)
        self._stream_give_back = min(_GIVE_BACK, self._stream_window // 2)
        self._output.out += (
            frames.settings(
                {
                    # No dynamic table: equal header blocks then are equal bytes, and are decoded once.
                    Setting.HEADER_TABLE_SIZE: 0,
                    Setting.MAX_CONCURRENT_STREAMS: limits.streams,
                    Setting.INITIAL_WINDOW_SIZE: self._stream_window,
                    Setting.MAX_HEADER_LIST_SIZE: MAX_BLOCK,
                }
            ),
            frames.window_update(0, _RECEIVE_WINDOW - frames.DEFAULT_WINDOW),
        )

    @property
    def calls(self) -> int:
        """Calls open now."""
        return len(self._streams)

    @property
    def kept(self) -> int:
        """Bytes kept for the peer now: input, unfinished messages, answers without window, a header block."""
        block = 0 if self._block is None else len(self._block[2])
        return len(self._reader.rest) + self._buffered + self._output.held + block

    def take(self) -> bytes:
        """All output since the last time."""
        data = b"".join(self._output.out)
        self._output.out.clear()
        return data

    def receive(self, data: bytes) -> None:
        """Bytes from the peer.

        Raises:
            PeerError: the connection must be closed; ``take`` still has what is to be said, GOAWAY included.
        """
        self._receiving = True
        try:
            self._reader.feed(data)
        except PeerError as error:
            self._go_away(error.code)
            raise
        finally:
            self._receiving = False

    def lost(self) -> None:
        """The connection is gone: every open call is lost, and nothing is kept."""
        self._reader.rest, self._block = b"", None
        for stream in list(self._streams.values()):
            self._forget(stream)
            self._tell_lost(stream)

    def leave(self) -> None:
        """Take no further calls; those open go on."""
        if self._left_at is None:
            self._left_at = self._last_stream
            self._go_away(ErrorCode.NO_ERROR)
            self._woken()

    # ---- what handlers say ----

    def send(self, number: int, data: bytes) -> None:
        """See ``Call.send``."""
        stream = self._streams.get(number)
        if stream is None or stream.trailers is not None:
            return
        self._output.message(stream, data)
        if self._output.held > self._limits.unsent:
            _LOG.warning("the answers of %s are not taken by the peer; the call is reset", stream.call.path)
            self._reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
        self._woken()

    def finish(self, number: int, status: Status, message: str) -> None:
        """See ``Call.finish``."""
        stream = self._streams.get(number)
        if stream is None or stream.trailers is not None:
            return
        block = frames.literal(b"grpc-status", b"%d" % status)
        if message:
            text = "".join(c if " " <= c <= "~" and c != "%" else "?" for c in message[:120])
            block += frames.literal(b"grpc-message", text.encode())
        stream.handler = None
        self._drop_input(stream)
        self._output.trailers(stream, block)
        self._woken()

    def _woken(self) -> None:
        if not self._receiving:
            self._wake()

    # ---- how calls end ----

    def _forget(self, stream: Stream) -> None:
        if self._streams.pop(stream.number, None) is not None:
            self._output.drop(stream)
            self._drop_input(stream)

    def _drop_input(self, stream: Stream) -> None:
        self._buffered -= len(stream.buffer)
        stream.buffer = bytearray()

    def _reset(self, stream: Stream, code: ErrorCode) -> None:
        self._output.out.append(frames.reset(stream.number, code))
        self._forget(stream)
        self._tell_lost(stream)

    def _fail(self, stream: Stream, status: Status, message: str) -> None:
        """End a call for a reason its handler does not know."""
        handler = stream.handler
        self.finish(stream.number, status, message)
        stream.handler = handler
        self._tell_lost(stream)

    def _tell_lost(self, stream: Stream) -> None:
        handler, stream.handler = stream.handler, None
        if handler is not None:
            try:
                handler.lost()
            except Exception:
                _LOG.exception("%s failed when a call was lost", stream.call.path)

    def _crashed(self, stream: Stream) -> None:
        _LOG.exception("a call of %s failed", stream.call.path)
        self._fail(stream, Status.INTERNAL, "the server failed; see its log")

    def _go_away(self, code: ErrorCode) -> None:
        # It may never rise: the peer repeats elsewhere what is above it.
        last = self._last_stream if self._left_at is None else self._left_at
        self._output.out.append(frames.go_away(last, code))

    # ---- what the peer says ----

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != Kind.CONTINUATION:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        if not self._configured:
            if kind != Kind.SETTINGS or flags & frames.ACK:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
            self._configured = True
        if kind == Kind.DATA:
            self._data(flags, number, payload)
        elif kind == Kind.HEADERS:
            self._headers(flags, number, payload)
        elif kind == Kind.CONTINUATION:
            self._continuation(flags, number, payload)
        elif kind == Kind.WINDOW_UPDATE:
            self._window_update(number, payload)
        elif kind == Kind.RST_STREAM:
            self._expect(number, payload, 4, "RST_STREAM")
            stream = self._streams.get(number)
            if stream is not None:
                self._forget(stream)
                self._tell_lost(stream)
        elif kind == Kind.SETTINGS:
            self._settings(flags, number, payload)
        elif kind == Kind.PING:
            if number:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "a PING on a stream")
            if len(payload) != 8:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a PING of a wrong size")
            if not flags & frames.ACK:
                self._output.out.append(frames.frame(Kind.PING, frames.ACK, 0, payload))
        elif kind == Kind.PUSH_PROMISE:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a client may not push")
        # GOAWAY (its calls end as they like), PRIORITY (deprecated) and unknown kinds need no answer.

    def _expect(self, number: int, payload: bytes, size: int, what: str) -> None:
        """Check a frame that concerns a stream which is or was open."""
        if len(payload) != size:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"a {what} of a wrong size")
        if self._idle(number):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"a {what} of a stream that was never opened")

    def _idle(self, number: int) -> bool:
        return number % 2 == 0 or number > self._last_stream

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            return
        said = peer_settings(payload)
        self._output.out.append(frames.frame(Kind.SETTINGS, frames.ACK, 0))
        self._output.configure(list(self._streams.values()), said.window, said.max_frame)

    def _window_update(self, number: int, payload: bytes) -> None:
        if number:
            self._expect(number, payload, 4, "WINDOW_UPDATE")
        elif len(payload) != 4:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a WINDOW_UPDATE of a wrong size")
        increment = int.from_bytes(payload, "big") & frames.MAX_WINDOW
        if not number:
            if not increment:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
            self._output.widen(increment)
            return
        stream = self._streams.get(number)
        if stream is not None:
            if not increment:
                self._reset(stream, ErrorCode.PROTOCOL_ERROR)
            elif not self._output.widen_stream(stream, increment):
                self._reset(stream, ErrorCode.FLOW_CONTROL_ERROR)

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        block = frames.unpad(flags, payload)
        if block is None or (flags & frames.PRIORITY and len(block) < 5) or number % 2 == 0:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "broken HEADERS")
        if flags & frames.PRIORITY:
            block = block[5:]
        if flags & frames.END_HEADERS:
            self._block_done(flags, number, block)
        else:
            self._block = (number, flags, bytearray(block))

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        _, first_flags, block = self._block
        block += payload
        if len(block) > MAX_BLOCK:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a header block that is too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._block_done(first_flags, number, bytes(block))

    def _block_done(self, flags: int, number: int, block: bytes) -> None:
        headers = self._blocks.decode(block)
        last = flags & frames.END_STREAM
        stream = self._streams.get(number)
        if stream is not None:
            # Trailers: gRPC clients have none that matter.
            if stream.half_closed:
                self._reset(stream, ErrorCode.STREAM_CLOSED)
            elif not last:
                self._reset(stream, ErrorCode.PROTOCOL_ERROR)
            else:
                self._half_close(stream)
        elif number > self._last_stream:
            self._last_stream = number
            if self._left_at is not None or len(self._streams) >= self._limits.streams:
                self._output.out.append(frames.reset(number, ErrorCode.REFUSED_STREAM))
                return
            stream = self._open(Call(self, number, headers.get(":path", ""), headers))
            if last:
                self._half_close(stream)
        elif not last:
            # With END_STREAM: trailers of a call that is over, on their way before our reset arrived.
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"stream {number} is opened after {self._last_stream}")

    def _open(self, call: Call) -> Stream:
        stream = self._streams[call.number] = Stream(call.number, call, self._output.initial_window)
        try:
            handler = self._accept(call)
        except Exception:
            self._crashed(stream)
            return stream
        if handler is None:
            call.finish(Status.UNIMPLEMENTED, f"there is no {call.path}")
        elif stream.trailers is None:
            stream.handler = handler
        return stream

    def _half_close(self, stream: Stream) -> None:
        stream.half_closed = True
        if stream.handler is None:
            return
        if stream.buffer:
            self._fail(stream, Status.INTERNAL, "the call ended within a message")
            return
        try:
            stream.handler.end()
        except Exception:
            self._crashed(stream)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._consumed += size
        if self._consumed >= _GIVE_BACK:
            self._output.out.append(frames.window_update(0, self._consumed))
            self._consumed = 0
        data = frames.unpad(flags, payload)
        if data is None:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "broken padding")
        stream = self._streams.get(number)
        if stream is None:
            if self._idle(number):
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "DATA of a stream that was never opened")
            return  # of a call that is over: on its way before our reset arrived
        if stream.half_closed:
            self._reset(stream, ErrorCode.STREAM_CLOSED)
            return
        stream.given += size
        if stream.given >= self._stream_give_back:
            self._output.out.append(frames.window_update(number, stream.given))
            stream.given = 0
        if stream.handler is not None:
            self._bytes(stream, data)
        if flags & frames.END_STREAM:
            self._half_close(stream)

    def _bytes(self, stream: Stream, data: bytes) -> None:
        """Cut messages out of a stream's bytes."""
        buffer = stream.buffer
        size = len(data) - _PREFIX
        if size >= 0 and not buffer and data[0] == 0 and _length(data) == size <= self._limits.message:
            self._message(stream, data[_PREFIX:])  # the usual: one message, one frame
            return
        self._buffered += len(data)
        buffer += data
        position, size = 0, len(buffer)
        while stream.handler is not None and size - position >= _PREFIX:
            length = _length(buffer, position)
            if buffer[position] != 0:
                self._fail(stream, Status.UNIMPLEMENTED, "compressed messages are not supported")
            elif length > self._limits.message:
                text = f"a message of {length} bytes; {self._limits.message} are allowed"
                self._fail(stream, Status.RESOURCE_EXHAUSTED, text)
            elif size - position < _PREFIX + length:
                break
            else:
                start = position + _PREFIX
                position = start + length
                self._message(stream, bytes(memoryview(buffer)[start:position]))
        if stream.handler is None:
            return  # and what was buffered is dropped
        del buffer[:position]
        self._buffered -= position
        if self._buffered > self._limits.buffered:
            self._fail(stream, Status.RESOURCE_EXHAUSTED, "too many large messages at once on this connection")

    def _message(self, stream: Stream, data: bytes) -> None:
        assert stream.handler is not None
        try:
            stream.handler.message(data)
        except Exception:
            self._crashed(stream)


def _length(data: bytes | bytearray, position: int = 0) -> int:
    return int.from_bytes(data[position + 1 : position + _PREFIX], "big")
