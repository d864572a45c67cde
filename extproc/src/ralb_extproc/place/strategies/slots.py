"""Numbers a strategy keeps per pod and tables it makes of a pool's pods, for those that need more than the pod table has."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import numpy as np

from ralb_extproc.place.columns import Floats
from ralb_extproc.place.views import PoolView

T = TypeVar("T")
_TABLES: Final = 4


class PerSlot:
    """One number per slot of the pod table; grows with the slots it is asked for.

    Args:
        initial: the number of a slot of which nothing is known.
    """

    def __init__(self, initial: float = 0.0) -> None:
        self._initial = initial
        self._values: Floats = np.full(16, initial)

    def of(self, view: PoolView) -> Floats:
        """Those of a view, by position; not to be written to."""
        self._reach(_end(view))
        return self._values[view.select]

    def put(self, view: PoolView, values: Floats) -> None:
        """Write those of a view."""
        self._reach(_end(view))
        self._values[view.select] = values

    def __getitem__(self, slot: int) -> float:
        self._reach(slot + 1)
        return float(self._values[slot])

    def __setitem__(self, slot: int, value: float) -> None:
        self._reach(slot + 1)
        self._values[slot] = value

    def forget(self, slot: int) -> None:
        """As if nothing were known of it."""
        self[slot] = self._initial

    def _reach(self, count: int) -> None:
        have = len(self._values)
        if count > have:
            self._values = np.concatenate([self._values, np.full(max(have, count - have), self._initial)])


def _end(view: PoolView) -> int:
    return view.select.stop if isinstance(view.select, slice) else int(view.select.max()) + 1


class PerPods(Generic[T]):
    """What is computed from a pool's addresses, computed again only when they change.

    Args:
        build: makes it of the addresses, in the order of a view.
    """

    def __init__(self, build: Callable[[tuple[str, ...]], T]) -> None:
        self._build = build
        self._kept: dict[tuple[str, ...], T] = {}

    def of(self, view: PoolView) -> T:
        """That of a view; some are kept, since requests may be confined to a part of the pool."""
        found = self._kept.get(view.addresses)
        if found is None:
            if len(self._kept) >= _TABLES:
                del self._kept[next(iter(self._kept))]
            found = self._kept[view.addresses] = self._build(view.addresses)
        return found
