"""A pod's KV cache, counted in tokens and in the trace's prefix blocks.

Blocks with an id can be found by content; everything else a request holds (the end of its prompt, its answer) is private. Blocks
nobody references stay findable until their room is needed, least recently used first. Trap: usage counts what running requests
hold, so a warm and idle pod reports 0, as vLLM does.
"""

from collections import OrderedDict
from collections.abc import Sequence


class KvCache:
    """One pod's.

    Args:
        tokens: capacity.
        block_tokens: tokens per block with an id; 0 when prompts have none.
    """

    def __init__(self, tokens: int, block_tokens: int) -> None:
        self.tokens = tokens
        self.block_tokens = block_tokens
        self.used = 0  # tokens held by running requests
        self._refs: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Tokens that can be had, idle blocks included."""
        return self.tokens - self.used

    def match(self, blocks: Sequence[int], limit: int) -> int:
        """How many of the first ``limit`` blocks are findable."""
        refs = self._refs
        count = 0
        for block in blocks[:limit]:
            if block not in refs:
                break
            count += 1
        return count

    def idle_among(self, blocks: Sequence[int]) -> int:
        """How many of these (findable) blocks nobody references."""
        refs = self._refs
        return sum(1 for block in blocks if not refs[block])

    def pin(self, blocks: Sequence[int]) -> None:
        """Reference findable blocks."""
        refs, idle = self._refs, self._idle
        for block in blocks:
            count = refs[block]
            if not count:
                del idle[block]
                self.used += self.block_tokens
            refs[block] = count + 1

    def take(self, tokens: int) -> None:
        """Use so many tokens more, whatever must be evicted for it; the caller has seen to it that they are free."""
        self.used += tokens
        idle = self._idle
        if not idle:
            return
        over = self.used + len(idle) * self.block_tokens - self.tokens
        while over > 0 and idle:
            block, _ = idle.popitem(last=False)
            del self._refs[block]
            over -= self.block_tokens

    def publish(self, block: int) -> bool:
        """Make a computed private block findable; False when a copy is findable already and this one stays private."""
        if block in self._refs:
            return False
        self._refs[block] = 1
        return True

    def release(self, blocks: Sequence[int], private: int) -> None:
        """Drop references, the end of a prompt first so that beginnings outlive ends, and give back private tokens."""
        refs, idle = self._refs, self._idle
        for block in reversed(blocks):
            count = refs[block] - 1
            refs[block] = count
            if not count:
                idle[block] = None
                self.used -= self.block_tokens
        self.used -= private

    def check(self) -> None:
        """Verify the books; for tests.

        Raises:
            AssertionError: something does not add up.
        """
        assert {b for b, count in self._refs.items() if not count} == set(self._idle), "idle is not unreferenced"
        assert 0 <= self.used <= self.tokens, f"{self.used} of {self.tokens} tokens used"
