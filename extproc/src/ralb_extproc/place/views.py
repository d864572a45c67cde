"""Names of things in the pod table: a pool's slots, who a slot is, what an update changed."""

from collections.abc import Container
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ralb_extproc.place.columns import Slots


@dataclass(frozen=True, slots=True)
class PoolView:
    """The slots of one pool, in order of address.

    Attributes:
        pool: pool id.
        addresses: endpoint addresses.
        slots: their slots.
        select: the same as an index into the table: a slice where the slots are adjacent, else an array.
        cap: most requests at once per pod; 0 = no cap.
    """

    pool: str
    addresses: tuple[str, ...]
    slots: tuple[int, ...]
    select: slice | Slots
    cap: int

    def narrowed(self, addresses: Container[str]) -> "PoolView | None":
        """Only those pods whose addresses are among these; None when that is nobody."""
        kept = [pair for pair in zip(self.addresses, self.slots, strict=True) if pair[0] in addresses]
        if not kept:
            return None
        slots = tuple(slot for _, slot in kept)
        return PoolView(self.pool, tuple(address for address, _ in kept), slots, select(slots), self.cap)


@dataclass(frozen=True, slots=True)
class Change:
    """What an update did: slots that appeared and that went, and endpoints refused for lack of room."""

    added: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    refused: int = 0


@dataclass(frozen=True, slots=True)
class PodKey:
    """Who a slot is: pool id, ``ip:port``, and the slot's generation."""

    pool: str
    address: str
    generation: int


def select(slots: tuple[int, ...]) -> slice | Slots:
    """An index for these slots: a slice where they are adjacent and ascending, because views are cheaper than copies."""
    if all(b - a == 1 for a, b in pairwise(slots)):
        return slice(slots[0], slots[-1] + 1)
    return np.array(slots, dtype=np.intp)
