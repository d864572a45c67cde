"""Random: any pod with equal chance. Signal: none. Limit: by chance some pods get far more than others."""

from collections.abc import Sequence

from ralb_sim.offline.policies.common import BasePolicy
from ralb_sim.offline.policy import Work


class RandomChoice(BasePolicy):
    """Draws pods at random."""

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods in random order."""
        return self.rng.sample(self.alive, len(self.alive))
