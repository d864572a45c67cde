"""Which pods were sent which prompt prefix: a map from block to the set of pods, as the bits of an int.

Block ids are chained and a prompt is always noted from its head, so along a prompt the sets only shrink: a lookup needs a few
bisections. Each pod's blocks are an LRU list. Of one prompt the tail is forgotten first, as engines do it, which keeps that so;
routers that forget its head first lose the whole prefix at once, so this errs in their favour.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

# Entries of one index, one per pod and block: about 250 bytes each at worst.
MAX_ENTRIES: Final = 1_000_000


def common_prefix(holders: Mapping[int, int], blocks: Sequence[int], pods: int) -> list[int]:
    """Count how many of the first blocks each pod holds.

    Args:
        holders: block -> set of pods, bit n = pod n; along a prompt the sets only shrink.
        blocks: the prompt's.
        pods: how many pods there may be.

    Returns:
        Blocks, per pod.
    """
    found = [0] * pods
    held = holders.get
    depth, end = 0, len(blocks)
    here = held(blocks[0], 0) if end else 0
    while here:
        same, other = depth, end  # here holds blocks[same], and fewer pods, or the prompt's end, are at other
        while other - same > 1:
            middle = (same + other) >> 1
            if held(blocks[middle], 0) == here:
                same = middle
            else:
                other = middle
        depth = other
        following = held(blocks[depth], 0) & here if depth < end else 0
        _note(found, here ^ following, depth)
        here = following
    return found


def _note(found: list[int], pods: int, depth: int) -> None:
    while pods:
        low = pods & -pods
        found[low.bit_length() - 1] = depth
        pods ^= low


class PrefixIndex:
    """Approximate view of the pods' prefix caches.

    Args:
        capacities: blocks remembered, per pod.
    """

    def __init__(self, capacities: Sequence[int]) -> None:
        self._capacities = list(capacities)
        self._recent: list[OrderedDict[int, None]] = [OrderedDict() for _ in capacities]
        self._holders: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._recent))

    def matches(self, blocks: Sequence[int]) -> list[int]:
        """How many of the prompt's first blocks each pod has had, per pod."""
        return common_prefix(self._holders, blocks, len(self._recent))

    def add(self, pod: int, blocks: Sequence[int]) -> None:
        """Note that a pod was sent a prompt; the least recent blocks make room."""
        recent, holders = self._recent[pod], self._holders
        capacity, bit = self._capacities[pod], 1 << pod
        if len(blocks) > capacity:
            blocks = blocks[:capacity]
        for block in [block for block in blocks if block not in recent]:
            recent[block] = None
            holders[block] = holders.get(block, 0) | bit
        deque(map(recent.move_to_end, reversed(blocks)), maxlen=0)  # the head last, so most recent
        if len(recent) > capacity:
            oldest = recent.popitem
            drop(holders, [oldest(last=False)[0] for _ in range(len(recent) - capacity)], bit)

    def forget(self, pod: int) -> None:
        """Drop all of a pod."""
        drop(self._holders, self._recent[pod], 1 << pod)
        self._recent[pod].clear()


def drop(holders: dict[int, int], blocks: Iterable[int], bit: int) -> None:
    """Take a pod's bit out of the sets of blocks that it holds; empty sets go."""
    for block in blocks:
        others = holders[block] ^ bit
        if others:
            holders[block] = others
        else:
            del holders[block]
