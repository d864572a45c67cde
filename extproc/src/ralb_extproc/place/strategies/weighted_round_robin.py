"""Weighted round robin with weights that follow the pods.

Algorithm: earliest deadline first. A request puts the deadline of its pod, of weight w, 1/w later, and the earliest is next, so
shares are the weights and turns are spaced evenly. A pod that was away joins at the present deadline: it gets no arrears.

    weight = residency / (pace x queue x memory)

pace       95th percentile of the time per token against the pool's mean of it (``pace``)
queue      (1 + requests waiting) / (1 + mean of the pool), as far as readings are fresh
memory     grows as the KV cache fills; start: of the slow start (both: ``place.load``)
residency  1/2 where the request's adapter is not known to be loaded while another pod has it, else 1

Limits: answers teach it, so a pod that turns slow is noticed some answers later. Blind to prefixes.
"""

from typing import ClassVar, Final

import numpy as np

from ralb_extproc.place import columns as col
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.strategies.pace import Paces
from ralb_extproc.place.strategies.slots import PerSlot
from ralb_extproc.place.strategy import Scene, Served, Strategy
from ralb_extproc.place.views import PoolView

_ABSENT: Final = 0.5


class WeightedRoundRobin(Strategy):
    """See the module."""

    spreads: ClassVar[bool] = False

    def __init__(self) -> None:
        self._paces = Paces()
        self._deadline = PerSlot()
        self._stride = PerSlot(1.0)  # 1 / weight as last computed
        self._reached = 0.0  # the last deadline that was served

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``: how far away each pod's deadline is."""
        self._stride.put(scene.view, 1.0 / self.weights(scene))
        out: Floats = np.maximum(self._deadline.of(scene.view) - self._reached, 0.0)
        return out

    def weights(self, scene: Scene) -> Floats:
        """The pods' weights for a request."""
        waiting = scene.block[col.WAITING] * scene.steady.trust
        out: Floats = self._paces.high(scene.view, scene.now)
        out *= (1.0 + waiting) / (1.0 + float(waiting.mean()))
        out *= scene.steady.factor
        np.reciprocal(out, out=out)
        if scene.resident is not None:
            out[~scene.resident] *= _ABSENT
        return out

    def placed(self, view: PoolView, slot: int, ask: Ask, now: float) -> None:
        """See ``Strategy.placed``."""
        self._reached = max(self._deadline[slot], self._reached)
        self._deadline[slot] = self._reached + self._stride[slot]

    def finished(self, slot: int, served: Served, now: float) -> None:
        """See ``Strategy.finished``."""
        self._paces.learn(slot, served, now)

    def forget(self, slot: int) -> None:
        """See ``Strategy.forget``."""
        self._paces.forget(slot)
        self._deadline.forget(slot)
