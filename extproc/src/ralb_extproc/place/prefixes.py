"""The prefix indexes of all pools: one each, so that no pool's traffic pushes out what another's pods hold."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.prefix import Prefix, PrefixIndex
from ralb_extproc.place.views import PoolView

_ENTRIES_MIN: Final = 1024
# Of a cache, what prompts have of it: answers and blocks in the making take the rest.
_PROMPTS: Final = 0.95


class PoolPrefixes:
    """Prefix indexes by pool.

    Args:
        entries: most pairs of pod and block, of all pools together; each pool gets an equal part.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._indexes: dict[str, PrefixIndex] = {}

    def __len__(self) -> int:
        return sum(len(index) for index in self._indexes.values())

    def __getitem__(self, pool: str) -> PrefixIndex:
        return self._indexes[pool]

    def follow(self, views: Mapping[str, PoolView], data: Floats) -> None:
        """Keep the indexes of these pools only, and make those that lack."""
        part = max(_ENTRIES_MIN, self._entries // max(1, len(views)))
        for gone in self._indexes.keys() - views.keys():
            del self._indexes[gone]
        for pool, view in views.items():
            index = self._indexes.setdefault(pool, PrefixIndex(part))
            index.entries = part
            self.measure(view, data)

    def measure(self, view: PoolView, data: Floats) -> None:
        """Tell a pool's index how much its pods' caches hold; pods that do not say count as the others."""
        said = data[col.KV_CAPACITY, view.select]
        known = said[said > 0.0]
        usual = float(known.mean()) if len(known) else np.inf
        index = self._indexes[view.pool]
        for slot, tokens in zip(view.slots, said.tolist(), strict=True):
            index.hold_at_most(slot, (tokens or usual) * _PROMPTS)

    def hits(self, prefix: Prefix, view: PoolView, tokens: int) -> Floats | None:
        """See ``PrefixIndex.hits``; by position in the view."""
        return self._indexes[view.pool].hits(prefix, view.slots, tokens) if prefix.hashes else None
