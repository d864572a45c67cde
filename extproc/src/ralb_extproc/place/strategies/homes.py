"""Where conversations are: the pod that had each one's last request, for strategies that remember; bounded, and it forgets.

65,536 of them per pool, about 15 MB; those silent for longest leave first, and all after a time without a request.
"""

from typing import Final, NamedTuple

from ralb_extproc.place.strategies.slots import PerSlot
from ralb_extproc.place.views import PoolView

MAX_SESSIONS: Final = 65_536
TTL_SECONDS: Final = 600.0


class Home(NamedTuple):
    """A conversation's pod.

    Attributes:
        slot: the pod's.
        life: how often the slot had been forgotten.
        seen: monotonic seconds of the last request.
        tokens: that the pod should hold of the conversation, where the strategy keeps count.
    """

    slot: int
    life: float
    seen: float
    tokens: float


class Homes:
    """By conversation, a 64-bit key.

    Args:
        ttl: seconds without a request after which one is forgotten; 0 = ten minutes.
    """

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl or TTL_SECONDS
        self._lives = PerSlot()
        self._homes: dict[int, Home] = {}  # the longest silent first

    def __len__(self) -> int:
        return len(self._homes)

    def get(self, session: int, now: float) -> Home | None:
        """Where a conversation is, unless it was silent for too long or its pod has left or restarted."""
        home = self._homes.get(session)
        if home is None or now - home.seen > self._ttl or self._lives[home.slot] != home.life:
            return None
        return home

    def put(self, session: int, slot: int, now: float, tokens: float = 0.0) -> None:
        """A request of a conversation went to a pod."""
        homes = self._homes
        homes.pop(session, None)
        homes[session] = Home(slot, self._lives[slot], now, tokens)
        for _ in range(2):  # two out for one in: what expired does not pile up
            oldest = next(iter(homes))
            if len(homes) <= MAX_SESSIONS and now - homes[oldest].seen <= self._ttl:
                break
            del homes[oldest]

    def forget(self, slot: int) -> None:
        """The pod in a slot left or restarted."""
        self._lives[slot] += 1.0


def position(view: PoolView, home: Home | None) -> int:
    """Position of a conversation's pod; -1 = it has none, or none among these."""
    try:
        return view.slots.index(home.slot) if home is not None else -1
    except ValueError:
        return -1
