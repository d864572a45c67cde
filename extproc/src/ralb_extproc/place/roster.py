"""Who is in which slot: the matrix of the pod table, and the pods that come, leave and drain.

Slots are stable while an endpoint stays; after that they are used again under a new generation, so late news of a gone pod
cannot hit its successor. Knows nothing of what is kept elsewhere by slot: it says which slots were freed, and its caller lets
the others know. The trap is ``data`` and ``cells``: they are replaced when they grow.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Cells, Floats
from ralb_extproc.place.views import PodKey, PoolView, select

FIRST_SLOTS: Final = 16


@dataclass(slots=True)
class Moves:
    """What following a snapshot did.

    Attributes:
        entered: slots of new pods.
        left: pool id and slot of pods that are in no view any more, those that drain included.
        freed: slots that were given up, though perhaps to a new pod.
    """

    entered: list[int] = field(default_factory=list)
    left: list[tuple[str, int]] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)


class Roster:
    """Pods by slot, slots by pod.

    Attributes:
        data / cells: (columns x slots), see ``columns``.
        views: by pool id; only pools that have pods.
        draining: slots of pods that left with flights of ours, and until when they are kept.
    """

    def __init__(self) -> None:
        self.data: Floats = col.empty(FIRST_SLOTS)
        self.cells: Cells = col.cells(self.data)
        self.views: dict[str, PoolView] = {}
        self.draining: dict[int, float] = {}
        self._keys: list[PodKey | None] = [None] * FIRST_SLOTS
        self._generation = 0
        self._slot_of: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._slot_of)

    def slot(self, pool: str, address: str) -> int | None:
        """The slot of an endpoint, or None."""
        return self._slot_of.get((pool, address))

    def key(self, slot: int) -> PodKey | None:
        """Who a slot is now."""
        return self._keys[slot] if 0 <= slot < len(self._keys) else None

    def is_current(self, slot: int, generation: int) -> bool:
        """Whether a slot still is the pod it was under that generation."""
        key = self.key(slot)
        return key is not None and key.generation == generation

    def member(self, slot: int) -> PodKey | None:
        """Who a slot is, if it is in its pool's view: not nobody, and not draining."""
        return self.key(slot) if slot not in self.draining else None

    def drained(self) -> Iterator[tuple[PodKey, float, float]]:
        """Pods that left with flights of ours: who, how many flights, until when they are waited for."""
        for slot, until in self.draining.items():
            key = self._keys[slot]
            if key is not None:
                yield key, self.cells[col.INFLIGHT, slot], until

    def follow(
        self,
        wanted: Mapping[str, tuple[tuple[str, ...], int]],
        leaving: Container[tuple[str, str]],
        drain: Mapping[str, float],
        now: float,
    ) -> Moves:
        """Take over which pods there are.

        Args:
            wanted: by pool id the addresses, sorted, at least one, and the most requests at once per pod.
            leaving: pool id and address of pods that take no new work, but are kept while requests of ours are there.
            drain: by pool id, for how many seconds at most.
            now: monotonic seconds.
        """
        moves = Moves()
        moves.freed += self.expire(now, leaving)
        for pool, view in self.views.items():
            keep = set(wanted[pool][0]) if pool in wanted else frozenset()
            for address, slot in zip(view.addresses, view.slots, strict=True):
                if address in keep:
                    continue
                moves.left.append((pool, slot))
                del self._slot_of[pool, address]
                if (pool, address) in leaving and self.data[col.INFLIGHT, slot] > 0.0:
                    # In no view and without an address any more, but still who it was.
                    self.draining[slot] = now + drain[pool]
                else:
                    self.free(slot)
                    moves.freed.append(slot)
        views: dict[str, PoolView] = {}
        for pool, (addresses, cap) in wanted.items():
            old = self.views.get(pool)
            if old is not None and old.addresses == addresses and old.cap == cap:
                views[pool] = old
                continue
            new = [address for address in addresses if (pool, address) not in self._slot_of]
            for address, slot in zip(new, self._allocate(len(new)), strict=True):
                self._enter(pool, address, slot, now if old is not None else -np.inf)
                moves.entered.append(slot)
            slots = tuple(self._slot_of[pool, address] for address in addresses)
            views[pool] = PoolView(pool, addresses, slots, select(slots), cap)
        self.views = views
        return moves

    def expire(self, now: float, leaving: Container[tuple[str, str]] | None = None) -> list[int]:
        """Free the slots of draining pods whose time is over, or which are not among those leaving any more."""
        out = []
        for slot, until in self.draining.items():
            key = self._keys[slot]
            if now >= until or key is None or (leaving is not None and (key.pool, key.address) not in leaving):
                out.append(slot)
        for slot in out:
            self.free(slot)
        return out

    def free(self, slot: int) -> None:
        """The slot is nobody's."""
        self.draining.pop(slot, None)
        self._keys[slot] = None
        col.reset(self.data, slot)

    def _allocate(self, count: int) -> list[int]:
        """Free slots, adjacent ones if there are any so many, growing the table when it is full."""
        if not count:
            return []
        free = [i for i, key in enumerate(self._keys) if key is None]
        if len(free) < count:
            have = len(self._keys)
            more = max(have, count)
            self.data = np.concatenate([self.data, col.empty(more)], axis=1)
            self.cells = col.cells(self.data)
            self._keys.extend([None] * more)
            free.extend(range(have, have + more))
        for i in range(len(free) - count + 1):
            if free[i + count - 1] - free[i] == count - 1:
                return free[i : i + count]
        return free[:count]

    def _enter(self, pool: str, address: str, slot: int, first_seen: float) -> None:
        self._generation += 1
        self._keys[slot] = PodKey(pool, address, self._generation)
        self._slot_of[pool, address] = slot
        col.reset(self.data, slot)
        self.data[col.FIRST_SEEN, slot] = first_seen
        view = self.views.get(pool)
        if view is not None:
            stayed = zip(view.addresses, view.slots, strict=True)
            peer = next((other for named, other in stayed if (pool, named) in self._slot_of), slot)
            self.data[col.PREFILL_RATE, slot] = self.data[col.PREFILL_RATE, peer]
