"""What ring hash and Maglev share: the key, the bound on load, and the spreading of keys that are too heavy for one pod.

A request goes to the first pod in its key's order that the bound on load lets take it (``loads``). A key with more than its
share of the pool's requests (``heavy``) takes turns among the first ceil(share / allowed share) pods of its order. A request
without a key goes to a random pod. Envoy, where it chooses, is given the key with the number of the turn behind it.
"""

from typing import ClassVar, Final

import numpy as np

from ralb.v1.snapshot_pb2 import Balancing
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.columns import Floats, Slots
from ralb_extproc.place.strategies.heavy import HeavyKeys
from ralb_extproc.place.strategies.keys import NO_KEY, key_of, written
from ralb_extproc.place.strategies.loads import loads, over
from ralb_extproc.place.strategy import Scene, Strategy
from ralb_extproc.place.views import PoolView

# So far along its order a key is followed; pods not met by then come after, in a row that begins where the key says.
WALK: Final = 256


class Hashed(Strategy):
    """A strategy that gives each key its own order of the pods.

    Args:
        balancing: the pool's settings.
    """

    spreads: ClassVar[bool] = False

    def __init__(self, balancing: Balancing) -> None:
        self._header = balancing.hash_header
        self._bound = (balancing.bounded_load_percent or 125) / 100.0
        self._heavy = HeavyKeys((balancing.max_key_share_percent or 25) / 100.0)

    def walk(self, view: PoolView, key: int) -> Slots:
        """Positions of pods in the key's order; may name a pod again and again, and leave others out."""
        raise NotImplementedError

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``: ranks in the key's order, pods beyond the bound after all others."""
        count = len(scene.view.slots)
        key = key_of(scene.ask, self._header)
        if key == NO_KEY:
            out = scene.dice.many(count) * count
        else:
            path = self.walk(scene.view, key)
            met = len(path)
            out = np.arange(key % count, key % count + count, dtype=np.float64) % count
            out += met
            out[path[::-1]] = np.arange(met - 1, -1, -1)  # of several entries the first one counts
            pods, turn = self._heavy.spread(key, scene.now)
            if pods > 1:
                nearest = out.argsort()[:pods]
                out[nearest] = (np.arange(len(nearest)) - turn) % len(nearest)
        full = over(loads(scene), self._bound)
        out += full * (count + WALK)
        return out

    def hash_key(self, ask: Ask, now: float) -> str:
        """See ``Strategy.hash_key``."""
        key = key_of(ask, self._header)
        _, turn = self._heavy.spread(key, now)
        return f"{written(key)}-{turn}" if turn else written(key)

    def placed(self, view: PoolView, slot: int, ask: Ask, now: float) -> None:
        """See ``Strategy.placed``."""
        self.sent(ask, now)

    def sent(self, ask: Ask, now: float) -> None:
        """See ``Strategy.sent``; requests without a key count as requests."""
        self._heavy.count(key_of(ask, self._header), now)
