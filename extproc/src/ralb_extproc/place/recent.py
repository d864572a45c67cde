"""Requests that a pod's last reading cannot have counted: what we sent since comes on top of what the pod says.

Kept up in the columns SINCE, SINCE_TOKENS and SEEN, because every decision needs them and readings are rare beside decisions.
"""

from collections import defaultdict, deque
from typing import Final

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Cells
from ralb_extproc.place.ledger import Flight

_LIMIT: Final = 4096  # per pod


class Recent:
    """By slot, oldest first."""

    def __init__(self) -> None:
        self._by_slot: defaultdict[int, deque[Flight]] = defaultdict(deque)

    def forget(self, slot: int) -> None:
        """The slot is nobody's, and its columns as new."""
        self._by_slot.pop(slot, None)

    def add(self, cells: Cells, flight: Flight) -> None:
        """A request was sent."""
        slot = flight.slot
        cells[col.SINCE_TOKENS, slot] += flight.uncached
        cells[col.SINCE, slot] += 1.0
        cells[col.SEEN, slot] += 1.0
        flight.recent = True
        waiting = self._by_slot[slot]
        waiting.append(flight)
        while not waiting[0].open or len(waiting) > _LIMIT:
            self.leave(cells, waiting.popleft())

    def leave(self, cells: Cells, flight: Flight) -> None:
        """A request ended, or a reading counts it."""
        if flight.recent:
            flight.recent = False
            slot = flight.slot
            cells[col.SINCE, slot] -= 1.0
            cells[col.SINCE_TOKENS, slot] -= flight.uncached
            cells[col.SEEN, slot] -= 1.0

    def counted(self, cells: Cells, slot: int, cutoff: float, said: float) -> None:
        """A reading says how many requests the pod has, and can have counted those sent before ``cutoff``."""
        waiting = self._by_slot[slot]
        while waiting and (not waiting[0].open or waiting[0].begun < cutoff):
            self.leave(cells, waiting.popleft())
        cells[col.SEEN, slot] = said + cells[col.SINCE, slot]
        if not cells[col.SINCE, slot]:
            cells[col.SINCE_TOKENS, slot] = 0.0  # wipes what rounding left
