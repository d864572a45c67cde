"""AIBrix, ``prefix-cache``, with the defaults of its code (its documents name others).

- max - min of the running requests > 8: a pod with the fewest, random among equals.
- Else the pod with the best match whose running requests are <= mean + 1 x standard deviation; between equal matches the fewer
  requests, then chance.
- No match, or all matching pods above that: the fewest requests.

Signals: requests that this gateway has in flight (its "realtime" count; the exchange between gateways is off by default), and a
hash index of what it sent where. The code's index of 200,000 blocks of 4 characters, dropped after 20 minutes, would hold two or
three long prompts; here it is as large as the pods' caches, which errs in its favour. Limits: requests, not tokens, are the
load; a spread of 8 requests, usual at high concurrency, switches the cache off.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Final

from ralb_sim.offline.policies.common import PrefixPolicy, rank
from ralb_sim.offline.policy import Work

IMBALANCE_ABS: Final = 8
DEVIATIONS: Final = 1.0


class Aibrix(PrefixPolicy):
    """Takes the best match among pods of usual load."""

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the chosen pod, then the others by load."""
        if not self.alive:
            return []
        load = self.ledger.requests
        order = rank(self.alive, [load[pod] for pod in self.alive], self.rng)
        if load[order[-1]] - load[order[0]] <= IMBALANCE_ABS:
            best = self._best_match(work, order)
            order.remove(best)
            order.insert(0, best)
        self.index.add(order[0], work.blocks)
        self.ledger.add(work, order[0])
        return order

    def _best_match(self, work: Work, order: Sequence[int]) -> int:
        """Return the longest match of usual load, of equals the first in ``order``; without a match, the first of all."""
        matches = self.index.matches(work.blocks)
        counts = [self.ledger.requests[pod] for pod in order]
        mean = sum(counts) / len(counts)
        limit = mean + DEVIATIONS * sqrt(sum((count - mean) ** 2 for count in counts) / len(counts))
        usual = [pod for pod, count in zip(order, counts, strict=True) if count <= limit]
        return max(usual, key=matches.__getitem__, default=order[0])
