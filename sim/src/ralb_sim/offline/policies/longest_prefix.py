"""Longest prefix: the pod that was sent the longest prefix of this prompt; ties, so misses too, random.

The rule of vLLM production-stack's ``prefixaware``. Signal: what this replica sent where; the peer's trie is unbounded, here it
ends at ``index.MAX_ENTRIES``. Limit: load is never read. Prompts with a common first block all follow the first of them, and one
pod may take all traffic.
"""

from collections.abc import Sequence

from ralb_sim.offline.policies.common import PrefixPolicy, rank
from ralb_sim.offline.policy import Setting, Work


class LongestPrefix(PrefixPolicy):
    """Ranks pods by the prefix they were sent."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, tokens=1 << 62)

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods, longest match first."""
        matches = self.index.matches(work.blocks)
        order = rank(self.alive, [-matches[pod] for pod in self.alive], self.rng)
        if order:
            self.index.add(order[0], work.blocks)
        return order
