"""Least request.

Algorithm: the pod with the fewest requests, times what a full KV cache makes of it; ties at random.
Signal: ``place.load``: what pods said at their last reading, what was sent since, our own count where there is no reading.
Limits: a request of 100 tokens counts as one of 100,000. Blind to prefixes. Envoy, where it runs it, compares two random pods
by its own requests in flight.
"""

from ralb_extproc.place.columns import Floats
from ralb_extproc.place.strategies.loads import pressed
from ralb_extproc.place.strategy import Scene, Strategy


class LeastRequest(Strategy):
    """See the module."""

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``."""
        return pressed(scene)
