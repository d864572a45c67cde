"""Random numbers for decisions: seeded, and drawn in bulk, because one small draw costs as much as a hundred numbers."""

from typing import Final

import numpy as np

from ralb_extproc.place.columns import Floats

_BUFFER: Final = 8192


class Dice:
    """Uniform numbers in [0, 1).

    Args:
        seed: for repeatable runs; None = from the system, so that replicas differ.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._rng = np.random.default_rng(seed)
        self._buffer = self._rng.random(_BUFFER)
        self._at = 0

    def many(self, count: int) -> Floats:
        """So many numbers; not to be written to."""
        start = self._at
        if start + count > len(self._buffer):
            self._buffer = self._rng.random(max(_BUFFER, count))
            start = 0
        self._at = start + count
        return self._buffer[start : start + count]

    def one(self) -> float:
        """One number."""
        return float(self.many(1)[0])
