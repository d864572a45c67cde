"""One gRPC call as its handler sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Status(IntEnum):
    """gRPC status codes used here."""

    OK = 0
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds.

    Attributes:
        message: bytes of one message from the peer.
        streams: calls open at once on a connection.
    """

    message: int = 17 * 1024 * 1024
    streams: int = 50_000


class Handler(Protocol):
    """The server's side of one call."""

    def message(self, data: bytes) -> None:
        """A message of the client."""

    def end(self) -> None:
        """The client has said all."""

    def lost(self) -> None:
        """The call ended before it was finished: reset by the client, or its connection is gone."""


class Sender(Protocol):
    """Where a call's answers go: the connection."""

    def send(self, number: int, data: bytes) -> None:
        """See ``Call.send``."""

    def finish(self, number: int, status: Status, message: str) -> None:
        """See ``Call.finish``."""


class Call:
    """What a handler answers with.

    Attributes:
        path: ``/package.Service/Method``.
        metadata: the client's initial metadata, lower-case names; the last value of a repeated name.
    """

    __slots__ = ("_connection", "_id", "metadata", "path")

    def __init__(self, connection: Sender, stream: int, path: str, metadata: Mapping[str, str]) -> None:
        self._connection = connection
        self._id = stream
        self.path = path
        self.metadata = metadata

    def send(self, data: bytes) -> None:
        """Send a message; nothing happens when the call is over."""
        self._connection.send(self._id, data)

    def finish(self, status: Status = Status.OK, message: str = "") -> None:
        """End the call after what was sent; once."""
        self._connection.finish(self._id, status, message)
