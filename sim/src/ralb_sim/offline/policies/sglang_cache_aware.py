"""SGLang's gateway (SMG), ``cache_aware``, its default policy, with the command line's defaults.

- Imbalanced, i.e. max - min > 64 **and** max > 1.5 x min: the pod with the least load.
- Else the pod with the longest match in the tree if the match is more than 0.3 of the prompt; else the least load.

The triggers on KV spread and KV ceiling are off by default. Signals: load = the replica's own requests in flight; a tree of what
was sent where, in either mode, of up to 67,108,864 characters per pod (about 4 a token; LRU), bounded here by
``index.MAX_ENTRIES`` too. Between equals the peer takes the first pod or the tree's; here the less loaded one, then chance, which
errs in its favour. Limits: load counts requests, not tokens; below a spread of 64 requests load is never read for a hit, above
it the cache never is.
"""

from collections.abc import Sequence
from typing import Final

from ralb_sim.offline.policies.common import PrefixPolicy, rank
from ralb_sim.offline.policy import Setting, Work

CACHE_THRESHOLD: Final = 0.3
BALANCE_ABS: Final = 64
BALANCE_REL: Final = 1.5
TREE_CHARACTERS: Final = 67_108_864
_CHARACTERS_PER_TOKEN: Final = 4


class SglangCacheAware(PrefixPolicy):
    """Switches between the cache and the load."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, tokens=TREE_CHARACTERS // _CHARACTERS_PER_TOKEN)

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the chosen pod, then the others by load."""
        if not self.alive:
            return []
        load = self.ledger.requests
        order = rank(self.alive, [load[pod] for pod in self.alive], self.rng)
        least, most = load[order[0]], load[order[-1]]
        if not (most - least > BALANCE_ABS and most > BALANCE_REL * least):
            matches = self.index.matches(work.blocks)
            best = max(order, key=matches.__getitem__)  # the first, so least loaded, of the longest
            if matches[best] * work.block_tokens > CACHE_THRESHOLD * work.input_tokens:
                order.remove(best)
                order.insert(0, best)
        self.index.add(order[0], work.blocks)
        self.ledger.add(work, order[0])
        return order
