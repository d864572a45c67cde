"""Prefix-aware.

Algorithm: of the pods whose load is within the bound (``loads``), the one expected to hold most of the prompt, to a sixteenth
of it; among equals, and where nobody holds any, the least loaded.
Signal: expected prefix hits, trusted as far as earlier ones came true; ``place.load``.
Limits: a warm pod is taken up to 1.25 times the mean load even where another would answer sooner, and a little warmth weighs
as much as a lot if there is no more of it elsewhere. ReasoningAware weighs both in seconds.
"""

from typing import ClassVar, Final

import numpy as np

from ralb_extproc.place.ask import Ask
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.strategies.keys import prompt_key, written
from ralb_extproc.place.strategies.loads import PREFIX_BOUND, loads, over, pressed
from ralb_extproc.place.strategy import Scene, Strategy

_STEPS: Final = 16


class PrefixAware(Strategy):
    """See the module."""

    uses_prefix: ClassVar[bool] = True

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``: missing sixteenths of the prompt, each above any load."""
        out = pressed(scene)
        if scene.hits is not None:
            requests = loads(scene)
            missing = np.ceil(_STEPS * (1.0 - scene.hits / max(scene.ask.input_tokens, 1)))
            missing[over(requests, PREFIX_BOUND)] = _STEPS
            out += missing * (float(out.max()) * 2.0)
        return out

    def hash_key(self, ask: Ask, now: float) -> str:
        """See ``Strategy.hash_key``: what comes nearest where Envoy chooses."""
        return written(prompt_key(ask))
