"""Speculative decoding in the estimate of how fast a pod writes.

Two quantities are easily taken for each other. A *step* of an engine takes some time and gives each running sequence
``ACCEPTANCE`` tokens: one, and those of its draft that were accepted. ``ITL`` is the time of one *token*, so what was accepted is
in it already, whatever the engine calls inter-token latency: vLLM's histograms have one entry for each output of a sequence,
however many tokens it holds (a step), SGLang's and TensorRT-LLM's are per token (``metrics.series``, ``observe``). Hence: never
divide ``ITL`` by ``ACCEPTANCE``; divide steps by it, be they predicted by a model of the hardware or taken from another pod.

All functions take numbers or arrays of one shape; seconds and tokens.
"""

import numpy as np

from ralb_extproc.place.columns import Floats


def step_seconds(itl: Floats, acceptance: Floats) -> Floats:
    """Length of a step, from what was measured; 0 where ``itl`` is not known."""
    out: Floats = itl * np.maximum(acceptance, 1.0)
    return out


def token_seconds(step: Floats | float, acceptance: Floats) -> Floats:
    """Time per token of a sequence, from the length of a step."""
    out: Floats = step / np.maximum(acceptance, 1.0)
    return out


def expected_token_seconds(itl: Floats, acceptance: Floats, prior_step: float) -> Floats:
    """Time per token to expect of each pod of a pool.

    Where a pod has said how long its tokens take that is it. Else it is taken to step like the others that have (the median of
    their steps) and to accept as it says it does.

    Args:
        itl: column ``ITL`` of the pods, 0 = unknown.
        acceptance: column ``ACCEPTANCE``.
        prior_step: seconds of a step where no pod has said.
    """
    known = itl > 0.0
    step = float(np.median(step_seconds(itl[known], acceptance[known]))) if known.any() else prior_step
    return np.where(known, itl, token_seconds(step, acceptance))
