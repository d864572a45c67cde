"""Loads as most strategies compare them, and the bound on them by which hashing and affinity give way.

Bounded load (Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads, 2018): with m requests in the pool and n
pods, a pod takes another request only while it has fewer than ceil(c (m + 1) / n), so at least one always does.
"""

import math
from typing import Final

from ralb_extproc.place.columns import Bools, Floats
from ralb_extproc.place.load import load
from ralb_extproc.place.strategy import Scene

# For strategies whose bound is no setting.
PREFIX_BOUND: Final = 1.25
SESSION_BOUND: Final = 1.5


def loads(scene: Scene) -> Floats:
    """Requests on each pod, see ``place.load``."""
    return load(scene.block, scene.steady.trust, scene.steady.typical)


def pressed(scene: Scene) -> Floats:
    """The same with the new one, times what memory makes of it."""
    out = loads(scene)
    out += 1.0
    out *= scene.steady.factor
    return out


def over(requests: Floats, bound: float) -> Bools:
    """Which pods have as much as they may.

    Args:
        requests: on each pod.
        bound: c, at least 1.
    """
    out: Bools = requests >= math.ceil(bound * (float(requests.sum()) + 1.0) / len(requests))
    return out
