"""KV-aware.

Algorithm: the pod whose KV cache will be least full when all that was sent to it, this request included, has been answered.

    predicted = usage + (prompt tokens we sent and it has not taken in + answer tokens still expected + this request) / capacity

Signal: KV cache use and capacity from the pods' metrics, as far as readings are fresh; our requests in flight. A pod that does
not tell its capacity counts as its peers do, and where none does as 100,000 tokens.
Limits: memory is not time: a fast pod and a slow one with equally full caches are equal. Other processors' requests are seen
only once they are in a reading. Blind to prefixes.
"""

from typing import Final

import numpy as np

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.strategy import Scene, Strategy

_CAPACITY: Final = 100_000.0
_LEAST: Final = 0.01  # makes equals of empty pods, and so random ones


class KVAware(Strategy):
    """See the module."""

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``."""
        block, ask = scene.block, scene.ask
        capacity = block[col.KV_CAPACITY]
        known = int(np.count_nonzero(capacity))
        if known < len(capacity):
            capacity = np.where(capacity > 0.0, capacity, float(capacity.sum()) / known if known else _CAPACITY)
        out: Floats = block[col.PREFILL] + block[col.DECODE]
        out += ask.input_tokens + ask.output_tokens
        out /= capacity
        out += block[col.KV_USAGE] * scene.steady.trust
        out += _LEAST
        return out
