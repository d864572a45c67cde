"""One gRPC call as its handler sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Status(IntEnum):
    """gRPC status codes used here."""

    OK = 0
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds.

    Attributes:
        message: bytes of one message from the peer.
        streams: calls open at once on a connection.
        buffered: bytes of unfinished messages from the peer on a connection; a call that needs more fails.
        unsent: bytes of answers for which the peer gives no window, on a connection; a call that needs more is reset.
    """

    message: int = 17 * 1024 * 1024
    streams: int = 50_000
    buffered: int = 256 * 1024 * 1024
    unsent: int = 256 * 1024 * 1024


class Handler(Protocol):
    """The server's side of one call.

    Nothing is called any more after ``Call.finish`` or ``lost``. An exception ends the call with status INTERNAL (and ``lost``)
    and leaves the other calls of the connection alone.
    """

    def message(self, data: bytes) -> None:
        """A message of the client."""

    def end(self) -> None:
        """The client has said all."""

    def lost(self) -> None:
        """The call ended before it was finished: reset, its connection is gone, or the client sent what cannot be taken."""


class Sender(Protocol):
    """Where a call's answers go: the connection."""

    def send(self, number: int, data: bytes) -> None:
        """See ``Call.send``."""

    def finish(self, number: int, status: Status, message: str) -> None:
        """See ``Call.finish``."""


class Call:
    """What a handler answers with.

    Attributes:
        number: of its stream.
        path: ``/package.Service/Method``.
        metadata: the client's initial metadata, lower-case names; the last value of a repeated name.
    """

    __slots__ = ("_connection", "metadata", "number", "path")

    def __init__(self, connection: Sender, stream: int, path: str, metadata: Mapping[str, str]) -> None:
        self._connection = connection
        self.number = stream
        self.path = path
        self.metadata = metadata

    def send(self, data: bytes) -> None:
        """Send a message; nothing happens when the call is over."""
        self._connection.send(self.number, data)

    def finish(self, status: Status = Status.OK, message: str = "") -> None:
        """End the call after what was sent; once."""
        self._connection.finish(self.number, status, message)
