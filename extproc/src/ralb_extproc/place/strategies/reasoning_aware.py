"""The default: the product rule.

    cost = (uncached + backlog + 1) x (load + 1) x memory                   lower is better

uncached  prompt tokens this request must prefill there: input - trusted expected prefix hits
backlog   prefill tokens we queued there and that are not worked off yet (``load.backlog``)
load      requests (``load.load``)
memory    1 + 0.15 k / (1 - k), k = aged KV use: flat until the cache fills up, then steep, because pre-emption recomputes

A product needs no weights between its units: twice the prefill is as bad as twice the load. It sends work to a warm pod only
while that pod's load is not worse by more than what the warmth saves, so one popular prefix cannot pin all traffic to one pod.
"""

from typing import ClassVar

from ralb_extproc.place.columns import Floats
from ralb_extproc.place.load import backlog, load
from ralb_extproc.place.strategy import Scene, Strategy


class ReasoningAware(Strategy):
    """See the module."""

    uses_prefix: ClassVar[bool] = True

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``."""
        block, state = scene.block, scene.steady
        out = backlog(block, scene.now)
        if scene.hits is not None:
            out -= scene.hits
        out += scene.ask.input_tokens + 1.0
        loads = load(block, state.trust, state.typical)
        loads += 1.0
        out *= loads
        out *= state.factor
        return out
