"""Oracle: the pod on which the world predicts the earliest completion; ties random.

Signal: the true state of every pod at this instant, which no router has. It is greedy, one request at a time, so it marks what
perfect knowledge is worth, not the best possible schedule.
"""

from collections.abc import Sequence

from ralb_sim.offline.policies.common import BasePolicy, rank
from ralb_sim.offline.policy import Setting, Work


class Oracle(BasePolicy):
    """Ranks pods by true predicted completion."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._truth = setting.truth

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods, earliest completion first."""
        return rank(self.alive, [self._truth.completion(pod, work, now) for pod in self.alive], self.rng)
