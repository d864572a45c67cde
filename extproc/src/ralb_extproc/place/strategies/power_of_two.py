"""Power of two choices, weighted by latency.

Algorithm: of two random pods that work, the one with the lower load x pace (Mitzenmacher: The Power of Two Choices in
Randomized Load Balancing, 2001; with latency as Finagle's peak-EWMA balancer has it). The others follow by the same measure,
for tries after the first.
Signal: ``place.load`` with memory, and the mean time per token of the pods' answers (``pace``).
Limits: with few pods it is worse than looking at all of them; it is for many pods and stale readings, where always taking the
best sends everybody to the same one. Blind to prefixes.
"""

from typing import ClassVar

from ralb_extproc.place.columns import Floats
from ralb_extproc.place.strategies.loads import pressed
from ralb_extproc.place.strategies.pace import Paces
from ralb_extproc.place.strategy import Scene, Served, Strategy


class PowerOfTwo(Strategy):
    """See the module."""

    spreads: ClassVar[bool] = False

    def __init__(self) -> None:
        self._paces = Paces()

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``."""
        out = pressed(scene)
        out *= self._paces.mean(scene.view, scene.now)
        if len(out) > 2:
            lots = scene.dice.many(len(out)).copy()
            if scene.steady.failing is not None:
                lots[scene.steady.failing] += 1.0
            chosen = lots.argpartition(2)[:2]
            kept = out[chosen]
            out += out.max()
            out[chosen] = kept
        return out

    def finished(self, slot: int, served: Served, now: float) -> None:
        """See ``Strategy.finished``."""
        self._paces.learn(slot, served, now)

    def forget(self, slot: int) -> None:
        """See ``Strategy.forget``."""
        self._paces.forget(slot)
