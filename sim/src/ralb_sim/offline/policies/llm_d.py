"""llm-d router, built-in default: a weighted sum of three scores from 0 to 1, the highest wins, ties random.

- queue (weight 2): (max - q) / (max - min) of the waiting requests among the candidates; all equal: 1.
- KV cache utilisation (weight 2): 1 - usage.
- prefix cache (weight 3): matched blocks / blocks of the prompt, of which at most 131,072 tokens are looked up.

Signals: metrics pages as old as the scrape makes them (the peer refreshes every 50 ms); an approximate prefix index, LRU per pod,
sized from the cache's capacity, written when a request is sent and never corrected. Limits: nothing of its own in flight is
counted, so a burst between two scrapes goes to one pod; one waiting request anywhere stretches the queue score to its full
range; a KV usage says nothing about how long the work will take. A pod without a page looks idle.
"""

from collections.abc import Sequence
from typing import Final

from ralb_sim.offline.policies.common import PrefixPolicy, rank
from ralb_sim.offline.policy import Work

QUEUE_WEIGHT: Final = 2.0
KV_WEIGHT: Final = 2.0
PREFIX_WEIGHT: Final = 3.0
MAX_PREFIX_TOKENS: Final = 131_072


def looked_up(work: Work) -> Sequence[int]:
    """Return the blocks of the prompt that enter the index."""
    most = MAX_PREFIX_TOKENS // max(work.block_tokens, 1)
    return work.blocks if len(work.blocks) <= most else work.blocks[:most]


class LlmD(PrefixPolicy):
    """Ranks pods by the blended score."""

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods, highest score first."""
        if not self.alive:
            return []
        blocks = looked_up(work)
        order = rank(self.alive, [-score for score in self.scores(blocks)], self.rng)
        self.index.add(order[0], blocks)
        return order

    def scores(self, blocks: Sequence[int]) -> list[float]:
        """Score each ready pod for a prompt, 0 to 7."""
        matches = self.index.matches(blocks)
        pages = [self.pages[pod] for pod in self.alive]
        most = max(page.waiting for page in pages)
        spread = most - min(page.waiting for page in pages)
        out = []
        for pod, page in zip(self.alive, pages, strict=True):
            queue = (most - page.waiting) / spread if spread else 1.0
            prefix = matches[pod] / len(blocks) if blocks else 0.0
            out.append(QUEUE_WEIGHT * queue + KV_WEIGHT * (1.0 - page.kv_usage) + PREFIX_WEIGHT * prefix)
        return out
