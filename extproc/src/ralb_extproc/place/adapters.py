"""Which pods hold which LoRA adapter, as far as their readings tell.

vLLM names the adapters that have requests, and how many it can hold at once. One that had requests lately is held until others
push it out, so each pod's last ones are remembered, up to that number. Only adapters that the pool's object names count, so what
pods write cannot grow this. Loading an adapter takes from tens of milliseconds to seconds, which a pod that holds it is spared.
"""

from collections.abc import Iterable

import numpy as np

from ralb_extproc.place.columns import Bools
from ralb_extproc.place.views import PoolView


class Residency:
    """Adapters by slot, and slots by adapter."""

    def __init__(self) -> None:
        self._named: dict[str, frozenset[str]] = {}
        self._held: dict[int, tuple[str, ...]] = {}  # the latest first
        self._masks: dict[tuple[str, str], tuple[PoolView, Bools]] = {}

    def follow(self, named: dict[str, frozenset[str]]) -> None:
        """Take over which adapters the pools name, by pool id."""
        self._named = {pool: names for pool, names in named.items() if names}
        self._masks = {key: mask for key, mask in self._masks.items() if key[1] in self._named.get(key[0], frozenset())}

    def forget(self, pool: str, slot: int) -> None:
        """The pod is gone, or another process."""
        for name in self._held.pop(slot, ()):
            self._masks.pop((pool, name), None)

    def take(self, view: PoolView, slot: int, adapters: Iterable[str], room: int) -> None:
        """Take in a reading.

        Args:
            view: of the pod's pool.
            slot: the pod.
            adapters: with requests just now.
            room: how many the pod holds at once; 0 = unknown, then only those with requests count.
        """
        named = self._named.get(view.pool)
        if not named:
            return
        before = self._held.get(slot, ())
        now = tuple(name for name in adapters if name in named)
        held = now + tuple(name for name in before if name not in now)[: max(0, room - len(now))]
        if held == before:
            return
        self._held[slot] = held
        for name in set(before) ^ set(held):
            found = self._masks.get((view.pool, name))
            if found is not None and found[0] is view:
                found[1][view.slots.index(slot)] = name in held

    def mask(self, view: PoolView, name: str, *, whole: bool) -> Bools | None:
        """Which pods of a view hold an adapter; None if none is known to.

        Args:
            view: the pods.
            name: of the adapter.
            whole: whether they are all of a pool, so that the answer is worth keeping.
        """
        if name not in self._named.get(view.pool, ()):
            return None
        key = view.pool, name
        found = self._masks.get(key)
        if found is None or found[0] is not view:
            held = self._held
            mask = np.fromiter((name in held.get(slot, ()) for slot in view.slots), np.bool_, len(view.slots))
            found = view, mask
            if whole:
                self._masks[key] = found
        return found[1] if found[1].any() else None
