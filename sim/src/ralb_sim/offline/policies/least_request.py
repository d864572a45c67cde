"""Least request: the pod with the fewest requests of this replica in flight; ties random.

Signal: the replica's own count, exact and never stale. Limits: every request weighs the same, other replicas' are not seen, the
cache is not read.
"""

from collections.abc import Sequence

from ralb_sim.offline.policies.common import BasePolicy, rank
from ralb_sim.offline.policy import Work


class LeastRequest(BasePolicy):
    """Ranks pods by own requests in flight."""

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods, fewest requests first."""
        requests = self.ledger.requests
        order = rank(self.alive, [requests[pod] for pod in self.alive], self.rng)
        if order:
            self.ledger.add(work, order[0])
        return order
