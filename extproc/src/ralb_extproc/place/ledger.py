"""Requests in flight: who was sent where, with how much work, until an outcome or a time limit ends it.

Envoy's access log is the only thing that tells of the end, and log records can be lost; so every flight has a time limit and
the ledger a size limit. What leaves by a limit is handed back like what finished: the caller releases its load either way.
Not safe for threads; the request path is one event loop.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ralb_extproc.place.model import Note
from ralb_extproc.place.prefix import NO_PREFIX, Prefix


class FlightInfo(NamedTuple):
    """What is remembered of a request for learning from its outcome.

    Attributes:
        pool: pool id of the first attempt.
        tier: tier id of the first attempt's candidate; "" for a concrete model name.
        intent: the understood intent.
        effort / adapter: as in ``Ask``.
        stream: whether a stream was asked for.
        input_tokens: estimated prompt tokens.
        hit_tokens: prompt tokens expected in the first pod's prefix cache.
        attempts: (slot, generation) of every planned attempt; slot -1 where Envoy chooses the endpoint.
        pools: pool id of every planned attempt.
        prefix: the hashed prompt, while few enough are in flight to keep it.
        remote: another pod computes the prompt, so times and cached tokens say nothing about this one's prefill.
    """

    pool: str = ""
    tier: str = ""
    intent: str = ""
    effort: str = ""
    adapter: str = ""
    stream: bool = False
    input_tokens: int = 0
    hit_tokens: int = 0
    attempts: tuple[tuple[int, int], ...] = ()
    pools: tuple[str, ...] = ()
    prefix: Prefix = NO_PREFIX
    remote: bool = False


NO_INFO = FlightInfo()


@dataclass(slots=True, eq=False)
class Flight:
    """One request in flight.

    Attributes:
        id: the key it was begun with.
        slot / generation: the pod it was placed on; slot -1 = no pod of ours.
        prefill / decode: tokens charged to the pod; ``prefill`` falls to 0 when the first token is seen.
        uncached: prefill tokens as first charged.
        begun: monotonic seconds.
        ahead: prefill backlog of the pod just before this request, tokens.
        load: requests the pod had just before this one, as far as known.
        queued: whether others were waiting there then, as the pod said.
        recent: still counted as "since the scrape".
        open: False once finished, swept or pushed out.
        info: for learning.
        note: what was known of the pod just before.
    """

    id: str
    slot: int
    generation: int
    prefill: float
    decode: float
    uncached: float
    begun: float
    ahead: float = 0.0
    load: float = 0.0
    queued: bool = False
    recent: bool = False
    open: bool = True
    info: FlightInfo = NO_INFO
    note: Note | None = None


class Ledger:
    """Flights by id, oldest first, at most ``limit`` of them."""

    def __init__(self, limit: int, ttl: float) -> None:
        """Make an empty one; ``ttl`` in seconds."""
        if limit < 1 or ttl <= 0:
            raise ValueError(f"ledger limit and ttl must be positive, not {limit} and {ttl}")
        self.limit = limit
        self.ttl = ttl
        self._flights: dict[str, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights.values())

    def get(self, request_id: str) -> Flight | None:
        """The flight, or None."""
        return self._flights.get(request_id)

    def add(self, flight: Flight) -> Flight | None:
        """Enter a flight; returns the one that had to leave for it, if any: the same id's, else the oldest when full."""
        flights = self._flights
        left = flights.pop(flight.id, None)
        if left is None and len(flights) >= self.limit:
            left = flights.pop(next(iter(flights)))
        flights[flight.id] = flight
        return left

    def take(self, request_id: str) -> Flight | None:
        """Remove and return a flight."""
        return self._flights.pop(request_id, None)

    def expired(self, now: float, at_most: int = 1000) -> list[Flight]:
        """Remove and return up to ``at_most`` flights older than the time limit.

        Flights are in order of ``begun``, so this looks only at those it removes and one more.
        """
        out: list[Flight] = []
        for flight in self._flights.values():
            if now - flight.begun < self.ttl or len(out) >= at_most:
                break
            out.append(flight)
        for flight in out:
            del self._flights[flight.id]
        return out
