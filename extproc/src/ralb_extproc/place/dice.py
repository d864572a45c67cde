"""Random numbers for decisions: seeded, and drawn in bulk, because one small draw costs as much as a hundred numbers."""

from typing import Final

import numpy as np

from ralb_extproc.place.columns import Floats

NEAR: Final = 0.02
_BUFFER: Final = 8192


class Dice:
    """Uniform numbers in [0, 1).

    Args:
        seed: for repeatable runs; None = from the system, so that replicas differ.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._rng = np.random.default_rng(seed)
        self._at = 0
        self._fill(_BUFFER)

    def many(self, count: int) -> Floats:
        """So many numbers; not to be written to."""
        start = self._take(count)
        return self._buffer[start : start + count]

    def near(self, count: int) -> Floats:
        """So many factors from 1 to 1 + NEAR; not to be written to. They take the place of as many numbers."""
        start = self._take(count)
        return self._factors[start : start + count]

    def _take(self, count: int) -> int:
        if self._at + count > len(self._buffer):
            self._fill(max(_BUFFER, count))
        self._at += count
        return self._at - count

    def _fill(self, count: int) -> None:
        self._buffer = self._rng.random(count)
        self._factors = self._buffer * NEAR + 1.0
        self._at = 0

    def one(self) -> float:
        """One number."""
        return float(self.many(1)[0])
