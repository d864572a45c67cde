"""What an engine's cache stored and removed, in order, for whoever publishes it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stored:
    """Consecutive blocks that entered the cache.

    Attributes:
        hashes: Of the blocks.
        parent: Hash of the block before them; None at the beginning of a sequence.
        tokens: Their tokens.
    """

    hashes: tuple[int, ...]
    parent: int | None
    tokens: bytes


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks that left the cache."""

    hashes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cleared:
    """The cache was emptied."""


KvEvent = Stored | Removed | Cleared


class KvLog:
    """Events since they were last taken."""

    def __init__(self) -> None:
        self._events: list[KvEvent] = []
        self._removed: list[int] = []

    def removed(self, digest: int) -> None:
        """A block left."""
        self._removed.append(digest)

    def stored(self, hashes: Sequence[int], parent: int | None, tokens: bytes) -> None:
        """Blocks came."""
        self._flush()
        self._events.append(Stored(tuple(hashes), parent, tokens))

    def cleared(self) -> None:
        """All blocks left."""
        self._flush()
        self._events.append(Cleared())

    def take(self) -> list[KvEvent]:
        """Return the events and forget them."""
        self._flush()
        events, self._events = self._events, []
        return events

    def _flush(self) -> None:
        if self._removed:
            self._events.append(Removed(tuple(self._removed)))
            self._removed.clear()
