"""Round robin: the pods in turn. Signal: none. Limit: blind to size, load and cache.

Each replica starts at a random pod, so that several do not walk in step.
"""

from collections.abc import Sequence

from ralb_sim.offline.policies.common import BasePolicy
from ralb_sim.offline.policy import Setting, Work


class RoundRobin(BasePolicy):
    """Takes the pods in turn."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._turn = setting.rng.randrange(max(setting.pods, 1))

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods from the next one on."""
        if not self.alive:
            return []
        self._turn = (self._turn + 1) % len(self.alive)
        return self.alive[self._turn :] + self.alive[: self._turn]
