"""Power of two choices: of two random pods the one with fewer requests of this replica in flight.

Signal: own counts. Avoids the herding of least request when counts are stale; with exact ones it spreads somewhat worse. Limits
as there: blind to size, cache and the other replicas.
"""

from collections.abc import Sequence

from ralb_sim.offline.policies.common import BasePolicy
from ralb_sim.offline.policy import Work


class PowerOfTwo(BasePolicy):
    """Draws two pods and takes the less busy one."""

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the winner, the loser, and the others in random order."""
        order = self.rng.sample(self.alive, len(self.alive))
        requests = self.ledger.requests
        if len(order) > 1 and requests[order[1]] < requests[order[0]]:
            order[0], order[1] = order[1], order[0]
        if order:
            self.ledger.add(work, order[0])
        return order
