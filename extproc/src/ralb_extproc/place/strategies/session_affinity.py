"""Session affinity that never blocks.

Algorithm: a session's requests go to the pod that had the last one, while it works, is below its cap and not over the bound on
load (``loads``, 1.5 times the mean). Otherwise, and for a new session, pods are ordered by rendezvous hashing of the session
(Thaler, Ravishankar: Using Name-Based Mappings to Increase Hit Rates, 1998), so that replicas of the processor agree without
talking, pods over the bound last. Wherever the request goes is the session's pod from then on. Requests without a session go to
the least loaded pod. It only puts pods in order, so tries after the first go elsewhere as ever.
Signal: the session's id; ``place.load`` for the bound.
Limits: after an overflow replicas may disagree for a while. Sessions are remembered for ``affinity.ttl`` after their last
request, 65,536 of them per pool (about 15 MB), those silent for longest forgotten first.
"""

from typing import ClassVar, Final

import numpy as np

from ralb.v1.snapshot_pb2 import Balancing
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.strategies.keys import digests, key_of, mixed, written
from ralb_extproc.place.strategies.loads import SESSION_BOUND, loads, over, pressed
from ralb_extproc.place.strategies.slots import PerPods, PerSlot
from ralb_extproc.place.strategy import NEAR, Scene, Strategy
from ralb_extproc.place.views import PoolView

MAX_SESSIONS: Final = 65_536
_TTL_SECONDS: Final = 600.0


class SessionAffinity(Strategy):
    """See the module."""

    spreads: ClassVar[bool] = False

    def __init__(self, balancing: Balancing) -> None:
        self._ttl = balancing.affinity_ttl_s or _TTL_SECONDS
        self._digests = PerPods(digests)
        self._lives = PerSlot()  # how often a slot was forgotten
        self._homes: dict[int, tuple[int, float, float]] = {}  # session -> slot, its life, last request; oldest first

    def __len__(self) -> int:
        return len(self._homes)

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``: below 1 for the session's pod, to 3 for the others, from 4 on beyond the bound."""
        if not scene.ask.session:
            out = pressed(scene)
            out *= 1.0 + NEAR * scene.dice.many(len(out))
            return out
        view = scene.view
        session = key_of(scene.ask)
        out = mixed(self._digests.of(view) ^ np.uint64(session)) / 2.0**64
        out += 2.0
        home = self._home(view, session, scene.now)
        if home >= 0:
            out[home] = 0.5
        requests = loads(scene)
        full = over(requests, SESSION_BOUND)
        if full.any():
            out[full] = 4.0 + requests[full]
        return out

    def _home(self, view: PoolView, session: int, now: float) -> int:
        """Position of the session's pod; -1 = it has none, or none among these."""
        slot, life, seen = self._homes.get(session, (-1, 0.0, 0.0))
        if slot < 0 or now - seen > self._ttl or self._lives[slot] != life:
            return -1
        try:
            return view.slots.index(slot)
        except ValueError:
            return -1

    def hash_key(self, ask: Ask, now: float) -> str:
        """See ``Strategy.hash_key``: what comes nearest where Envoy chooses."""
        return written(key_of(ask))

    def placed(self, view: PoolView, slot: int, ask: Ask, now: float) -> None:
        """See ``Strategy.placed``."""
        if not ask.session:
            return
        homes, session = self._homes, key_of(ask)
        homes.pop(session, None)
        homes[session] = (slot, self._lives[slot], now)
        for _ in range(2):  # two out for one in: what expired does not pile up
            oldest = next(iter(homes))
            if len(homes) <= MAX_SESSIONS and now - homes[oldest][2] <= self._ttl:
                break
            del homes[oldest]

    def forget(self, slot: int) -> None:
        """See ``Strategy.forget``."""
        self._lives[slot] += 1.0
