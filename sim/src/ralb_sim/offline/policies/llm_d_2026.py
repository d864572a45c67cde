"""llm-d router, the guides' default since 2026: prefix-cache-affinity-filter, token-load-scorer, max-score picker.

- Filter: keep the pods ("sticky") with at least 80 % of the prompt's blocks; none: keep all. Stickiness is dropped when the best
  sticky pod's estimated time to first token exceeds the best other pod's by more than 18,000 ms; the estimate is the pod's
  in-flight tokens / 15,928 tokens/s. No exploration.
- Score: 1 - min(1, (in-flight tokens + this prompt's uncached tokens) / 4,194,304); highest wins, ties random.

Signals: the replica's own in-flight uncached prompt tokens, released at the first token; the approximate index of ``llm_d``. No
metrics page is read. Limits: decode work weighs nothing; the constant is one model's on one GPU; 18 seconds are many multiples of
a good time to first token.
"""

from collections.abc import Sequence
from typing import Final

from ralb_sim.offline.policies.common import PrefixPolicy, rank, uncached
from ralb_sim.offline.policies.llm_d import looked_up
from ralb_sim.offline.policy import Work

AFFINITY: Final = 0.80
MAX_TTFT_PENALTY_S: Final = 18.0
PREFILL_TOKENS_PER_S: Final = 15_928.0
FULL_LOAD_TOKENS: Final = 4_194_304


class LlmD2026(PrefixPolicy):
    """Ranks the pods that hold the prefix by the tokens they have to compute, then the others."""

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the kept pods, least loaded first, then the filtered ones likewise."""
        blocks = looked_up(work)
        matches = self.index.matches(blocks)
        kept = self._sticky(matches, len(blocks))
        load = {pod: self._load(pod, work, matches[pod]) for pod in self.alive}
        order = rank(kept, [load[pod] for pod in kept], self.rng)
        others = list(set(self.alive).difference(kept)) if len(kept) < len(self.alive) else []
        order += rank(others, [load[pod] for pod in others], self.rng)
        if order:
            self.index.add(order[0], blocks)
            self.ledger.add(work, order[0], uncached(work, matches[order[0]]))
        return order

    def _sticky(self, matches: Sequence[int], blocks: int) -> list[int]:
        sticky = [pod for pod in self.alive if matches[pod] >= AFFINITY * blocks] if blocks else []
        others = set(self.alive).difference(sticky)
        if not sticky or not others:
            return self.alive
        tokens = self.ledger.prefill
        penalty = min(tokens[pod] for pod in sticky) - min(tokens[pod] for pod in others)
        return self.alive if penalty / PREFILL_TOKENS_PER_S > MAX_TTFT_PENALTY_S else sticky

    def _load(self, pod: int, work: Work, matched: int) -> float:
        return min(1.0, (self.ledger.prefill[pod] + uncached(work, matched)) / FULL_LOAD_TOKENS)
