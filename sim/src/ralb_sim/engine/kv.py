"""A paged KV cache with prefix sharing.

Blocks are counted, not stored: a block is an id with a reference count and, once full and computed, the chained hash of its
content. Unreferenced blocks with a hash stay findable and are evicted least recently used first; unreferenced blocks without
one are taken before any of those. Trap: usage counts referenced blocks only, so a warm and idle pod reports 0, as vLLM does.
"""

from collections import OrderedDict
from collections.abc import Sequence

from ralb_sim.engine.log import KvLog


class OutOfBlocksError(RuntimeError):
    """More blocks were asked for than are free; nothing was taken."""


class BlockPool:
    """Blocks of one engine.

    Args:
        blocks: Number of blocks; at least 1.
        log: Told of blocks that stop being findable.

    Raises:
        ValueError: `blocks` is below 1.
    """

    def __init__(self, blocks: int, log: KvLog | None = None) -> None:
        if blocks < 1:
            raise ValueError(f"a block pool needs at least one block, not {blocks}")
        self.total = blocks
        self._log = log
        self._refs = [0] * blocks
        self._hash: list[int | None] = [None] * blocks
        self._by_hash: dict[int, int] = {}
        self._blank = list(range(blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks nobody references: blank ones and idle cached ones."""
        return len(self._blank) + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks referenced by at least one request."""
        return self.total - self.free

    @property
    def cached(self) -> int:
        """Blocks findable by content, referenced or not."""
        return len(self._by_hash)

    def match(self, hashes: Sequence[int], limit: int) -> list[int]:
        """Return the blocks of the longest cached prefix of `hashes[:limit]`, without referencing them."""
        found: list[int] = []
        lookup = self._by_hash
        for digest in hashes[:limit]:
            block = lookup.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def idle_among(self, blocks: Sequence[int]) -> int:
        """Return how many of `blocks` are unreferenced, so that pinning them lowers `free`."""
        refs = self._refs
        return sum(1 for block in blocks if not refs[block])

    def pin(self, blocks: Sequence[int]) -> None:
        """Reference blocks found by `match`."""
        refs = self._refs
        for block in blocks:
            if not refs[block]:
                del self._idle[block]
            refs[block] += 1

    def take(self, number: int) -> list[int]:
        """Reference `number` fresh blocks, evicting the least recently used cached ones when no blank one is left.

        Raises:
            OutOfBlocksError: Fewer than `number` blocks are free.
        """
        if number > self.free:
            raise OutOfBlocksError(f"{number} blocks asked for, {self.free} of {self.total} free")
        taken: list[int] = []
        for _ in range(number):
            if self._blank:
                block = self._blank.pop()
            else:
                block, _none = self._idle.popitem(last=False)
                self._forget(block)
            self._refs[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, digest: int) -> bool:
        """Make a full, computed block findable, and say so; a second copy of the same content stays anonymous."""
        if self._hash[block] is not None or digest in self._by_hash:
            return False
        self._hash[block] = digest
        self._by_hash[digest] = block
        return True

    def clear(self) -> bool:
        """Forget all content; False, and nothing is done, while any block is referenced."""
        if self.used:
            return False
        self._by_hash.clear()
        self._hash = [None] * self.total
        self._blank.extend(self._idle)
        self._idle.clear()
        if self._log is not None:
            self._log.cleared()
        return True

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference of each block, the end of a sequence first so that prefixes outlive tails."""
        refs = self._refs
        for block in reversed(blocks):
            if refs[block] <= 0:
                raise ValueError(f"block {block} released more often than referenced")
            refs[block] -= 1
            if refs[block]:
                continue
            if self._hash[block] is None:
                self._blank.append(block)
            else:
                self._idle[block] = None

    def check(self) -> None:
        """Verify the books; for tests.

        Raises:
            AssertionError: A count or an index does not add up.
        """
        free = set(self._blank) | set(self._idle)
        assert len(free) == len(self._blank) + len(self._idle), "a block is free twice"
        assert all(count >= 0 for count in self._refs), "a reference count is negative"
        assert free == {block for block, count in enumerate(self._refs) if not count}, "free is not unreferenced"
        named = {digest: block for block, digest in enumerate(self._hash) if digest is not None}
        assert named == self._by_hash, "the content index is out of step"
        assert all(self._hash[block] is None for block in self._blank), "a blank block has content"
        assert all(self._hash[block] is not None for block in self._idle), "an idle block has no content"

    def _forget(self, block: int) -> None:
        digest = self._hash[block]
        if digest is not None:
            del self._by_hash[digest]
            self._hash[block] = None
            if self._log is not None:
                self._log.removed(digest)
