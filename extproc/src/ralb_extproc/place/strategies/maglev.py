"""Maglev hashing with bounded load and a cap on heavy keys.

Algorithm: a lookup table filled by the pods in turn, each taking the next free entry of its own permutation (Eisenbud et al.:
Maglev: A Fast and Reliable Software Network Load Balancer, 2016). A key goes to the pod of its entry, then to those of the
entries that follow. What is common with ring hash, bound and cap, is in ``hashed``.
Signal: the key; requests per pod for the bound.
Limits: shares of the table are equal to within an entry, more so than a ring's; in return somewhat more keys move when a pod
comes or goes. The table has at least 1021 entries and 20 per pod, 65,537 at most; filling it takes a few milliseconds for tens
of pods, 30 for hundreds, when the pods change.
"""

from typing import Final

import numpy as np
import xxhash

from ralb.v1.snapshot_pb2 import Balancing
from ralb_extproc.place.columns import Slots
from ralb_extproc.place.strategies.hashed import WALK, Hashed
from ralb_extproc.place.strategies.slots import PerPods
from ralb_extproc.place.views import PoolView

# Primes, so that every step visits every entry.
_SIZES: Final = (1021, 2039, 4093, 8191, 16_381, 32_749, 65_537)
_EACH: Final = 20


def table(addresses: tuple[str, ...]) -> Slots:
    """Position of the pod of each entry; goes on with its own begin, for walks over the end."""
    count = len(addresses)
    size = next((size for size in _SIZES if size >= count * _EACH), _SIZES[-1])
    digests = [xxhash.xxh3_128_intdigest(address.encode()) for address in addresses]
    at = [(digest >> 64) % size for digest in digests]
    steps = [digest % 2**64 % (size - 1) + 1 for digest in digests]
    entries = [-1] * size
    left = size
    while left:
        for pod in range(min(count, left)):
            entry, step = at[pod], steps[pod]
            while entries[entry] >= 0:
                entry += step
                if entry >= size:
                    entry -= size
            entries[entry] = pod
            at[pod] = entry
        left -= min(count, left)
    out = np.array(entries, dtype=np.intp)
    return np.concatenate([out, out[:WALK]])


class Maglev(Hashed):
    """See the module."""

    def __init__(self, balancing: Balancing) -> None:
        super().__init__(balancing)
        self._tables = PerPods(table)

    def walk(self, view: PoolView, key: int) -> Slots:
        """See ``Hashed.walk``."""
        entries = self._tables.of(view)
        start = key % (len(entries) - WALK)
        return entries[start : start + WALK]
