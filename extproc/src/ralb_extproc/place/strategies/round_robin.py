"""Round robin.

Algorithm: the pod that has waited longest for a request is next.
Signal: when each pod was last sent one; nothing else.
Limits: blind to sizes and loads, so long answers pile up wherever they happen to go. Each processor takes its own turns. Envoy
runs it where it can, taking turns per worker thread.
"""

from typing import ClassVar

from ralb_extproc.place.ask import Ask
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.strategies.slots import PerSlot
from ralb_extproc.place.strategy import Scene, Strategy
from ralb_extproc.place.views import PoolView


class RoundRobin(Strategy):
    """See the module."""

    spreads: ClassVar[bool] = False

    def __init__(self) -> None:
        self._last = PerSlot()
        self._count = 0

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``: number of the last request each pod was sent, from the earliest on."""
        last = self._last.of(scene.view)
        out: Floats = last - last.min()
        return out

    def placed(self, view: PoolView, slot: int, ask: Ask, now: float) -> None:
        """See ``Strategy.placed``."""
        self._count += 1
        self._last[slot] = self._count

    def forget(self, slot: int) -> None:
        """See ``Strategy.forget``."""
        self._last.forget(slot)
