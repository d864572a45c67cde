"""The product rule (LMetric): the least product of what a request would cost a pod and how busy the pod is; ties random.

- product: (the prompt's uncached tokens + 1) x (requests in flight + 1).
- lmetric: (uncached tokens of requests without a first token + the prompt's + 1) x (requests in flight + 1), which also sees a
  queue of long prompts behind few requests.

Signals: the replica's own counts and the approximate index, LRU in the size of the cache. No constant to tune: scaling a factor
changes no order. Limits: requests count the same whatever their context or answer; with a full hit the load hardly matters.
"""

from collections.abc import Sequence

from ralb_sim.offline.policies.common import PrefixPolicy, rank, uncached
from ralb_sim.offline.policy import Work


class Product(PrefixPolicy):
    """Ranks pods by uncached tokens times load."""

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods, least product first."""
        matches = self.index.matches(work.blocks)
        requests = self.ledger.requests
        costs = [(self._pending(pod) + uncached(work, matches[pod]) + 1) * (requests[pod] + 1) for pod in self.alive]
        order = rank(self.alive, costs, self.rng)
        if order:
            self.index.add(order[0], work.blocks)
            self.ledger.add(work, order[0], uncached(work, matches[order[0]]))
        return order

    def _pending(self, pod: int) -> int:
        return 0


class Lmetric(Product):
    """Ranks pods by all uncached tokens, waiting ones included, times load."""

    def _pending(self, pod: int) -> int:
        return self.ledger.prefill[pod]
