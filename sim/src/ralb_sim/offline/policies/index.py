"""Which pods were sent which prompt prefix: a map from block to the set of pods, as the bits of an int.

Block ids are chained and a prompt is always noted from its head, so along a prompt the sets only shrink: a lookup needs a few
bisections. Each pod's blocks are an LRU list. Of one prompt the tail is forgotten first, as engines do it, which keeps that so;
routers that forget its head first lose the whole prefix at once, so this errs in their favour.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

# Entries of one index, one per pod and block: about 200 bytes each, besides the prompts' own block lists, which are not copied.
MAX_ENTRIES: Final = 1_000_000
_SLACK: Final = 64


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
        self._pods = [_Recent(capacity) for capacity in capacities]
        self._holders: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(len(pod.used) for pod in self._pods)

    def matches(self, blocks: Sequence[int]) -> list[int]:
        """How many of the prompt's first blocks each pod has had, per pod."""
        return common_prefix(self._holders, blocks, len(self._pods))

    def add(self, pod: int, blocks: Sequence[int]) -> None:
        """Note that a pod was sent a prompt; the least recent blocks make room."""
        recent, holders, bit = self._pods[pod], self._holders, 1 << pod
        if len(blocks) > recent.capacity:
            blocks = blocks[: recent.capacity]
        for block in recent.touch(blocks):
            holders[block] = holders.get(block, 0) | bit
        drop(holders, recent.evict(), bit)

    def forget(self, pod: int) -> None:
        """Drop all of a pod."""
        drop(self._holders, self._pods[pod].used, 1 << pod)
        self._pods[pod] = _Recent(self._pods[pod].capacity)


class _Recent:
    """One pod's LRU list, kept by prompt rather than by block: a touched block only gets a number.

    A block's age is that of the latest prompt with it. The prompts keep their order; of the oldest one only those blocks are to
    be forgotten, tail first, that no later prompt has.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used: dict[int, int] = {}  # block -> number of the latest prompt with it
        self._prompts: deque[tuple[int, Sequence[int]]] = deque()
        self._number = 0

    def touch(self, blocks: Sequence[int]) -> list[int]:
        """Make the prompt's blocks the most recent; return those that are new."""
        if not blocks:
            return []
        used = self.used
        self._number += 1
        number = self._number
        fresh = []
        for block in blocks:
            if block not in used:
                fresh.append(block)
            used[block] = number
        self._prompts.append((number, blocks))
        if len(self._prompts) > 2 * len(used) + _SLACK:  # every prompt with a block of its own is at most one per block
            self._prompts = deque(prompt for prompt in self._prompts if self._own(*prompt))
        return fresh

    def evict(self) -> list[int]:
        """Forget the least recent blocks beyond the capacity and return them."""
        out: list[int] = []
        used = self.used
        while (excess := len(used) - self.capacity) > 0:
            own = self._own(*self._prompts[0])
            if len(own) <= excess:
                self._prompts.popleft()
            own = list(dict.fromkeys(own))[:excess]
            for block in own:
                del used[block]
            out += own
        return out

    def _own(self, number: int, blocks: Sequence[int]) -> list[int]:
        """Return the blocks that no later prompt has, last first."""
        latest = self.used.get
        return [block for block in reversed(blocks) if latest(block) == number]


def drop(holders: dict[int, int], blocks: Iterable[int], bit: int) -> None:
    """Take a pod's bit out of the sets of blocks that it holds; empty sets go."""
    for block in blocks:
        others = holders[block] ^ bit
        if others:
            holders[block] = others
        else:
            del holders[block]
