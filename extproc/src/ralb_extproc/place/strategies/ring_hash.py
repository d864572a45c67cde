"""Ring hash with bounded load and a cap on heavy keys.

Algorithm: consistent hashing on a ring (Karger et al., 1997). Each pod has many points on a ring of 64-bit numbers; a key goes
to the pod of the next point after it, then to the pods of those that follow. When a pod comes or goes, only keys next to its
points move. What is common with Maglev, bound and cap, is in ``hashed``.
Signal: the key; requests per pod for the bound.
Limits: keys are not equal, so shares are not; the bound cuts the worst of that, at the price of warm caches. With 16 to 1024
points per pod (65,536 in all where that allows) shares of the ring differ by 3 to 25 %. Building it takes some milliseconds,
when the pods change.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ralb.v1.snapshot_pb2 import Balancing
from ralb_extproc.place.columns import Slots
from ralb_extproc.place.strategies.hashed import WALK, Hashed
from ralb_extproc.place.strategies.keys import digests, mixed
from ralb_extproc.place.strategies.slots import PerPods
from ralb_extproc.place.views import PoolView

_POINTS: Final = 65_536
_POINTS_MIN: Final = 16
_POINTS_MAX: Final = 1024


def ring(addresses: tuple[str, ...]) -> tuple[npt.NDArray[np.uint64], Slots]:
    """(points in order, the position of each point's pod); the second goes on with its own begin, for walks over the end."""
    count = len(addresses)
    each = min(max(_POINTS // count, _POINTS_MIN), _POINTS_MAX)
    seeds: npt.NDArray[np.uint64] = np.add.outer(digests(addresses), np.arange(each, dtype=np.uint64))
    points = mixed(seeds).ravel()
    order = points.argsort(kind="stable")
    owners = (order // each).astype(np.intp)
    return points[order], np.concatenate([owners, owners[:WALK]])


class RingHash(Hashed):
    """See the module."""

    def __init__(self, balancing: Balancing) -> None:
        super().__init__(balancing)
        self._rings = PerPods(ring)

    def walk(self, view: PoolView, key: int) -> Slots:
        """See ``Hashed.walk``."""
        points, owners = self._rings.of(view)
        start = int(points.searchsorted(np.uint64(key))) % len(points)
        return owners[start : start + min(WALK, len(points))]
