"""A client's side of HTTP/2, byte by byte, for tests of the processor's gRPC server."""

import struct

import pytest
from hpack import Encoder

from ralb_extproc.wire import Call, Limits, Status
from ralb_extproc.wire.connection import Connection
from ralb_extproc.wire.frames import HEADER_BYTES, PREFACE, Kind, PeerError, frame, settings

HELLO = PREFACE + settings({})
END_STREAM, END_HEADERS = 1, 4


def head(path: str = "/t.E/Talk", **extra: str) -> list[tuple[str, str]]:
    return [(":method", "POST"), (":scheme", "http"), (":path", path), ("te", "trailers"), *extra.items()]


def block(*headers: tuple[str, str]) -> bytes:
    """A header block without a table."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(headers or head(), huffman=False))


def headers(number: int, flags: int = END_HEADERS, data: bytes | None = None) -> bytes:
    return frame(Kind.HEADERS, flags, number, block() if data is None else data)


def data(number: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(Kind.DATA, flags, number, payload)


def grpc(message: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(message)) + message


def parsed(out: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame."""
    found = []
    while out:
        size = int.from_bytes(out[:3], "big")
        assert len(out) >= HEADER_BYTES + size
        found.append((out[3], out[4], int.from_bytes(out[5:9], "big"), out[HEADER_BYTES : HEADER_BYTES + size]))
        out = out[HEADER_BYTES + size :]
    return found


class Recorder:
    """A handler that writes down what it is told, echoes messages and ends when the client does."""

    def __init__(self, call: Call, events: list[tuple[object, ...]]) -> None:
        self.call = call
        self.events = events
        events.append(("open", call.number, call.path, tuple(call.metadata.items())))

    def message(self, data: bytes) -> None:
        self.events.append(("message", self.call.number, data))
        if data == b"finish":
            self.call.finish(Status.OK, "enough")
        self.call.send(data)

    def end(self) -> None:
        self.events.append(("end", self.call.number))
        self.call.finish()

    def lost(self) -> None:
        self.events.append(("lost", self.call.number))


class Client:
    """A connection, what its handlers were told, and what it said."""

    def __init__(self, limits: Limits | None = None, hello: bytes = HELLO) -> None:
        self.events: list[tuple[object, ...]] = []
        self.handlers: dict[int, Recorder] = {}
        self.woken = 0
        self.connection = Connection(self._accept, limits or Limits(), self._wake)
        if hello:
            self.connection.receive(hello)
            self.said()

    def _accept(self, call: Call) -> Recorder | None:
        if call.path != "/t.E/Talk":
            return None
        self.handlers[call.number] = Recorder(call, self.events)
        return self.handlers[call.number]

    def _wake(self) -> None:
        self.woken += 1

    def send(self, *pieces: bytes) -> list[tuple[int, int, int, bytes]]:
        self.connection.receive(b"".join(pieces))
        return self.said()

    def said(self) -> list[tuple[int, int, int, bytes]]:
        return parsed(self.connection.take())

    def told(self) -> list[tuple[object, ...]]:
        """Events since the last time; of opened calls the number only."""
        events = [event[:2] if event[0] == "open" else event for event in self.events]
        self.events.clear()
        return events

    def error(self, *pieces: bytes) -> tuple[int, list[tuple[int, int, int, bytes]]]:
        """The code of the GOAWAY that these bytes cause, and the frames before it."""
        with pytest.raises(PeerError) as raised:
            self.connection.receive(b"".join(pieces))
        *before, last = self.said()
        assert last[0] == Kind.GOAWAY
        code = int.from_bytes(last[3][4:8], "big")
        assert code == raised.value.code
        return code, before
