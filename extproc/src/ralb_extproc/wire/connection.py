"""One HTTP/2 connection with gRPC calls on it, without I/O: bytes in, handler calls and bytes out.

A handler answers from within ``message`` or later; flow control may hold its answers back. What a peer may make us keep is
bounded: streams, header blocks, message sizes, and by the connection's receive window, which is given back only for whole
messages.
"""

import struct
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from ralb_extproc.wire import frames
from ralb_extproc.wire.calls import Call, Handler, Limits, Status
from ralb_extproc.wire.frames import ErrorCode, Kind, Setting

_PREFIX: Final = 5  # gRPC: one byte of flags, four of length
_RECEIVE_WINDOW: Final = 256 * 1024 * 1024
_GIVE_BACK: Final = 4 * 1024 * 1024
_MAX_HEADER_BLOCK: Final = 64 * 1024
_KEPT_BLOCKS: Final = 1024
_ANSWER: Final = b"\x88" + frames.literal(b"content-type", b"application/grpc")  # 0x88 = ":status: 200"


@dataclass(slots=True)
class _Stream:
    call: Call
    handler: Handler | None = None
    window: int = 0  # how much the peer takes
    buffer: bytearray = field(default_factory=bytearray)
    given: int = 0  # received since the stream's window was last given back
    pending: deque[bytes] = field(default_factory=deque)  # DATA payloads that wait for window
    answered: bool = False
    trailers: bytes | None = None
    half_closed: bool = False


class PeerError(Exception):
    """The peer broke the protocol; the connection must be closed after what is left to send."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Connection:
    """The protocol.

    Args:
        accept: makes the handler of a call; None refuses it as unimplemented.
        limits: bounds.
        wake: called when there is output outside of ``receive``.

    Attributes:
        out: bytes to send, in order; ``take`` empties it.
    """

    def __init__(
        self, accept: Callable[[Call], Handler | None], limits: Limits, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._accept = accept
        self._limits = limits
        self._wake = wake
        self._input = bytearray()
        self._greeted = False
        self._decoder = Decoder(max_header_list_size=_MAX_HEADER_BLOCK)
        self._blocks: dict[bytes, tuple[str, Mapping[str, str]]] = {}
        self._streams: dict[int, _Stream] = {}
        self._last_stream = 0
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, block so far, until END_HEADERS
        self._window = frames.DEFAULT_WINDOW
        self._initial_window = frames.DEFAULT_WINDOW
        self._max_frame = frames.DEFAULT_FRAME
        self._consumed = 0
        self._waiting: dict[int, None] = {}  # streams with pending data, in order
        self._receiving = False
        self._leaving = False
        self.out: list[bytes] = [
            frames.settings(
                {
                    # No dynamic table: equal header blocks then are equal bytes, and are decoded once.
                    Setting.HEADER_TABLE_SIZE: 0,
                    Setting.MAX_CONCURRENT_STREAMS: limits.streams,
                    Setting.INITIAL_WINDOW_SIZE: max(limits.message * 2, frames.DEFAULT_WINDOW),
                    Setting.MAX_HEADER_LIST_SIZE: _MAX_HEADER_BLOCK,
                }
            ),
            frames.window_update(0, _RECEIVE_WINDOW - frames.DEFAULT_WINDOW),
        ]

    @property
    def calls(self) -> int:
        """Calls open now."""
        return len(self._streams)

    def take(self) -> bytes:
        """All output so far."""
        data = b"".join(self.out)
        self.out.clear()
        return data

    def receive(self, data: bytes) -> None:
        """Bytes from the peer.

        Raises:
            PeerError: the connection must be closed; ``take`` still has what is to be said, GOAWAY included.
        """
        self._receiving = True
        try:
            self._read(data)
        except PeerError as error:
            self.out.append(frames.go_away(self._last_stream, error.code))
            raise
        finally:
            self._receiving = False

    def lost(self) -> None:
        """The connection is gone: every open call is lost."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            if stream.handler is not None:
                stream.handler.lost()

    def leave(self) -> None:
        """Take no further calls; those open go on."""
        self._leaving = True
        self.out.append(frames.go_away(self._last_stream, ErrorCode.NO_ERROR))
        self._woken()

    # ---- what handlers say ----

    def send(self, number: int, data: bytes) -> None:
        """See ``Call.send``."""
        stream = self._streams.get(number)
        if stream is None or stream.trailers is not None:
            return
        if not stream.answered:
            stream.answered = True
            self.out.append(frames.frame(Kind.HEADERS, frames.END_HEADERS, number, _ANSWER))
        payload = b"\x00" + struct.pack(">I", len(data)) + data
        if not stream.pending and len(payload) <= min(stream.window, self._window, self._max_frame):
            stream.window -= len(payload)
            self._window -= len(payload)
            self.out.append(frames.frame(Kind.DATA, 0, number, payload))
        else:
            stream.pending.append(payload)
            self._waiting[number] = None
            self._flush()
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
        stream.trailers = block if stream.answered else _ANSWER + block
        if not stream.pending:
            self._close(number, stream)
        self._woken()

    def _woken(self) -> None:
        if not self._receiving:
            self._wake()

    def _close(self, number: int, stream: _Stream) -> None:
        assert stream.trailers is not None
        flags = frames.END_HEADERS | frames.END_STREAM
        self.out.append(frames.frame(Kind.HEADERS, flags, number, stream.trailers))
        if not stream.half_closed:
            # All is said; the peer need not go on.
            self.out.append(frames.reset(number, ErrorCode.NO_ERROR))
        self._forget(number)

    def _forget(self, number: int) -> _Stream | None:
        self._waiting.pop(number, None)
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._give_back(len(stream.buffer))
        return stream

    def _flush(self) -> None:
        """Send pending data as far as windows allow, oldest stream first."""
        for number in list(self._waiting):
            if self._window <= 0:
                return
            stream = self._streams[number]
            while stream.pending and stream.window > 0 and self._window > 0:
                head = stream.pending[0]
                size = min(len(head), stream.window, self._window, self._max_frame)
                self.out.append(frames.frame(Kind.DATA, 0, number, head[:size]))
                stream.window -= size
                self._window -= size
                if size == len(head):
                    stream.pending.popleft()
                else:
                    stream.pending[0] = head[size:]
            if not stream.pending:
                del self._waiting[number]
                if stream.trailers is not None:
                    self._close(number, stream)

    # ---- what the peer says ----

    def _read(self, data: bytes) -> None:
        buffer = self._input
        buffer += data
        position, size = 0, len(buffer)
        if not self._greeted:
            if not frames.PREFACE.startswith(bytes(buffer[: len(frames.PREFACE)])):
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "not HTTP/2")
            if size < len(frames.PREFACE):
                return
            self._greeted = True
            position = len(frames.PREFACE)
        try:
            while size - position >= frames.HEADER_BYTES:
                length = buffer[position] << 16 | buffer[position + 1] << 8 | buffer[position + 2]
                if length > frames.DEFAULT_FRAME:
                    raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                end = position + frames.HEADER_BYTES + length
                if size < end:
                    break
                kind, flags = buffer[position + 3], buffer[position + 4]
                number = int.from_bytes(buffer[position + 5 : position + 9], "big") & frames.MAX_WINDOW
                payload = bytes(buffer[position + frames.HEADER_BYTES : end])
                position = end
                self._frame(kind, flags, number, payload)
        finally:
            del buffer[:position]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != Kind.CONTINUATION:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        if kind == Kind.DATA:
            self._data(flags, number, payload)
        elif kind == Kind.HEADERS:
            self._headers(flags, number, payload)
        elif kind == Kind.CONTINUATION:
            self._continuation(flags, number, payload)
        elif kind == Kind.WINDOW_UPDATE:
            self._window_update(number, payload)
        elif kind == Kind.RST_STREAM:
            stream = self._forget(number)
            if stream is not None and stream.handler is not None:
                stream.handler.lost()
        elif kind == Kind.SETTINGS:
            self._settings(flags, payload)
        elif kind == Kind.PING:
            if len(payload) != 8:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a ping of a wrong size")
            if not flags & frames.ACK:
                self.out.append(frames.frame(Kind.PING, frames.ACK, 0, payload))
        elif kind == Kind.PUSH_PROMISE:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a client may not push")
        # GOAWAY, PRIORITY and unknown kinds need no answer.

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        if len(payload) % 6:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "settings of a wrong size")
        for key, value in struct.iter_unpack(">HI", payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                if value > frames.MAX_WINDOW:
                    raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
                change, self._initial_window = value - self._initial_window, value
                for stream in self._streams.values():
                    stream.window += change
            elif key == Setting.MAX_FRAME_SIZE:
                self._max_frame = max(frames.DEFAULT_FRAME, min(value, 1024 * 1024))
        self.out.append(frames.frame(Kind.SETTINGS, frames.ACK, 0))
        self._flush()

    def _window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a window update of a wrong size")
        increment = int.from_bytes(payload, "big") & frames.MAX_WINDOW
        if number == 0:
            self._window += increment
            if self._window > frames.MAX_WINDOW or not increment:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflows")
        else:
            stream = self._streams.get(number)
            if stream is None:
                return
            stream.window += increment
            if stream.window > frames.MAX_WINDOW or not increment:
                self._reset(number, ErrorCode.FLOW_CONTROL_ERROR)
                return
        self._flush()

    def _reset(self, number: int, code: ErrorCode) -> None:
        self.out.append(frames.reset(number, code))
        stream = self._forget(number)
        if stream is not None and stream.handler is not None:
            stream.handler.lost()

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
        block = self._block[2]
        block += payload
        if len(block) > _MAX_HEADER_BLOCK:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a header block that is too large")
        if flags & frames.END_HEADERS:
            first_flags, self._block = self._block[1], None
            self._block_done(first_flags, number, bytes(block))

    def _block_done(self, flags: int, number: int, block: bytes) -> None:
        path, metadata = self._decode(block)
        stream = self._streams.get(number)
        if stream is None and number > self._last_stream:
            self._last_stream = number
            if self._leaving or len(self._streams) >= self._limits.streams:
                self.out.append(frames.reset(number, ErrorCode.REFUSED_STREAM))
                return
            stream = self._open(number, path, metadata)
        if stream is not None and flags & frames.END_STREAM:  # of a call without messages, or trailers
            self._half_close(number, stream)

    def _decode(self, block: bytes) -> tuple[str, Mapping[str, str]]:
        known = self._blocks.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table.dynamic_entries
        stateless = not table
        try:
            headers = self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise PeerError(ErrorCode.COMPRESSION_ERROR, f"broken header block: {error}") from error
        metadata = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in headers}
        path = metadata.get(":path", "")
        if stateless and not self._decoder.header_table.dynamic_entries:
            # Only then do the same bytes mean the same headers again.
            if len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.clear()
            self._blocks[block] = (path, metadata)
        return path, metadata

    def _open(self, number: int, path: str, metadata: Mapping[str, str]) -> _Stream:
        call = Call(self, number, path, metadata)
        stream = self._streams[number] = _Stream(call, window=self._initial_window)
        stream.handler = self._accept(call)
        if stream.handler is None:
            call.finish(Status.UNIMPLEMENTED, f"there is no {path}")
        return stream

    def _half_close(self, number: int, stream: _Stream) -> None:
        if number not in self._streams or stream.half_closed:
            return
        stream.half_closed = True
        if stream.handler is not None:
            stream.handler.end()

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        stream = self._streams.get(number)
        if stream is None or stream.half_closed:
            # Of a call that is over: on its way before our reset arrived.
            self._give_back(size)
            if number > self._last_stream or number == 0:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "DATA of a stream that was never opened")
            return
        data = frames.unpad(flags, payload)
        if data is None:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "broken padding")
        self._give_back(size - len(data))
        stream.given += size
        if stream.given >= _GIVE_BACK:
            self.out.append(frames.window_update(number, stream.given))
            stream.given = 0
        if not stream.buffer and len(data) >= _PREFIX and data[0] == 0 and _length(data) + _PREFIX == len(data):
            self._message(number, stream, data[_PREFIX:], len(data))
        else:
            stream.buffer += data
            self._messages(number, stream)
        if flags & frames.END_STREAM:
            self._half_close(number, stream)

    def _messages(self, number: int, stream: _Stream) -> None:
        buffer = stream.buffer
        while number in self._streams and stream.trailers is None and len(buffer) >= _PREFIX:
            length = _length(buffer)
            if buffer[0] != 0:
                stream.call.finish(Status.UNIMPLEMENTED, "compressed messages are not supported")
                return
            if length > self._limits.message:
                text = f"a message of {length} bytes; {self._limits.message} are allowed"
                stream.call.finish(Status.RESOURCE_EXHAUSTED, text)
                return
            if len(buffer) < _PREFIX + length:
                return
            data = bytes(buffer[_PREFIX : _PREFIX + length])
            del buffer[: _PREFIX + length]
            self._message(number, stream, data, _PREFIX + length)

    def _message(self, number: int, stream: _Stream, data: bytes, size: int) -> None:
        self._give_back(size)
        if stream.handler is not None and number in self._streams and stream.trailers is None:
            stream.handler.message(data)

    def _give_back(self, size: int) -> None:
        self._consumed += size
        if self._consumed >= _GIVE_BACK:
            self.out.append(frames.window_update(0, self._consumed))
            self._consumed = 0


def _length(data: bytes | bytearray) -> int:
    return int.from_bytes(data[1:_PREFIX], "big")
