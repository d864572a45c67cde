"""Bytes of the peer into frames. What frames mean may not enter."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from ralb_extproc.wire import frames
from ralb_extproc.wire.frames import ErrorCode, PeerError, Setting


class Reader:
    """Cuts frames.

    Args:
        on_frame: called with kind, flags, stream number and payload of each frame, in order.

    Attributes:
        rest: bytes of an unfinished frame; less than one frame.
    """

    def __init__(self, on_frame: Callable[[int, int, int, bytes], None]) -> None:
        self._on_frame = on_frame
        self._greeted = False
        self.rest = b""

    def feed(self, data: bytes) -> None:
        """Take bytes.

        Raises:
            PeerError: not HTTP/2, or a frame larger than we allow. Do not feed it any more then.
        """
        buffer = self.rest + data if self.rest else data
        position, size = 0, len(buffer)
        if not self._greeted:
            if not frames.PREFACE.startswith(buffer[: len(frames.PREFACE)]):
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "not HTTP/2")
            if size < len(frames.PREFACE):
                self.rest = buffer
                return
            self._greeted = True
            position = len(frames.PREFACE)
        on_frame = self._on_frame
        while size - position >= frames.HEADER_BYTES:
            length = buffer[position] << 16 | buffer[position + 1] << 8 | buffer[position + 2]
            if length > frames.DEFAULT_FRAME:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = position + frames.HEADER_BYTES + length
            if size < end:
                break
            number = int.from_bytes(buffer[position + 5 : position + 9], "big") & frames.MAX_WINDOW
            on_frame(buffer[position + 3], buffer[position + 4], number, buffer[position + frames.HEADER_BYTES : end])
            position = end
        self.rest = buffer[position:]


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What a SETTINGS frame changes for us; None = nothing said.

    Attributes:
        window: bytes of DATA a new stream takes.
        max_frame: bytes of the largest payload.
    """

    window: int | None = None
    max_frame: int | None = None


def peer_settings(payload: bytes) -> PeerSettings:
    """Read SETTINGS (RFC 9113, 6.5). Unknown ones, and those about what we never do, are skipped; the last value counts.

    Raises:
        PeerError: a wrong size, or a value that is not allowed.
    """
    if len(payload) % 6:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
    window = max_frame = None
    for key, value in struct.iter_unpack(">HI", payload):
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "an initial window that is too large")
            window = value
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME <= value <= frames.MAX_FRAME:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "a frame size that is not allowed")
            max_frame = value
        elif key == Setting.ENABLE_PUSH and value > 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
    return PeerSettings(window, max_frame)
