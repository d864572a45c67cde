"""Session affinity that never blocks.

Algorithm: a session's requests go to the pod that had the last one, while it works, is below its cap and not over the bound on
load (``loads``, 1.5 times the mean). Otherwise, and for a new session, pods are ordered by rendezvous hashing of the session
(Thaler, Ravishankar: Using Name-Based Mappings to Increase Hit Rates, 1998), so that replicas of the processor agree without
talking, pods over the bound last. Wherever the request goes is the session's pod from then on. Requests without a session go to
the least loaded pod. It only puts pods in order, so tries after the first go elsewhere as ever.
Signal: the session's id; ``place.load`` for the bound.
Limits: after an overflow replicas may disagree for a while. Sessions are remembered for ``affinity.ttl`` after their last
request, as many as ``homes`` has room for.
"""

from typing import ClassVar

import numpy as np

from ralb.v1.snapshot_pb2 import Balancing
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.strategies.homes import Homes, position
from ralb_extproc.place.strategies.keys import digests, key_of, mixed, written
from ralb_extproc.place.strategies.loads import SESSION_BOUND, loads, over, pressed
from ralb_extproc.place.strategies.slots import PerPods
from ralb_extproc.place.strategy import Scene, Strategy
from ralb_extproc.place.views import PoolView


class SessionAffinity(Strategy):
    """See the module."""

    spreads: ClassVar[bool] = False

    def __init__(self, balancing: Balancing) -> None:
        self._digests = PerPods(digests)
        self._homes = Homes(balancing.affinity_ttl_s)

    def __len__(self) -> int:
        return len(self._homes)

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``: below 1 for the session's pod, to 3 for the others, from 4 on beyond the bound."""
        if not scene.ask.session:
            out = pressed(scene)
            out *= scene.dice.near(len(out))
            return out
        view = scene.view
        session = key_of(scene.ask)
        out = mixed(self._digests.of(view) ^ np.uint64(session)) / 2.0**64
        out += 2.0
        home = position(view, self._homes.get(session, scene.now))
        if home >= 0:
            out[home] = 0.5
        requests = loads(scene)
        full = over(requests, SESSION_BOUND)
        if full.any():
            out[full] = 4.0 + requests[full]
        return out

    def hash_key(self, ask: Ask, now: float) -> str:
        """See ``Strategy.hash_key``: what comes nearest where Envoy chooses."""
        return written(key_of(ask))

    def placed(self, view: PoolView, slot: int, ask: Ask, now: float) -> None:
        """See ``Strategy.placed``."""
        if ask.session:
            self._homes.put(key_of(ask), slot, now)

    def forget(self, slot: int) -> None:
        """See ``Strategy.forget``."""
        self._homes.forget(slot)
