"""The product rule: which pod of a pool first.

    score = (uncached + backlog + 1) x (load + 1) x memory x start           lower is better

uncached  prompt tokens this request must prefill there: input - trusted expected prefix hits
backlog   prefill tokens we queued there and that are not worked off yet (``load.backlog``)
load      requests (``load.load``)
memory    1 + 0.15 k / (1 - k), k = aged KV use: flat until the cache fills up, then steep, because pre-emption recomputes
start     1 / (share of the slow start time that has passed), between 1 and 10

A product needs no weights between its units: twice the prefill is as bad as twice the load. It sends work to a warm pod only
while that pod's load is not worse by more than what the warmth saves, so one popular prefix cannot pin all traffic to one pod.

Before the score comes the class: fit pods, then pods at their concurrency cap, then pods that failed and are not yet due for a
probe. Scores are multiplied by a random 1 to 1.02, so near equals share the work and replicas of the processor do not herd.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.load import CAPPED, FAILING, FIT, Steady, backlog, capped, load

NEAR: Final = 0.02
_PARTIAL: Final = 64  # from so many pods on, sorting only the best pays


@dataclass(frozen=True, slots=True)
class Ranking:
    """The pods of a pool in order of preference.

    Attributes:
        order: positions in the pool's view, best first; at least the first ``want`` of them.
        best: class of the first: FIT, CAPPED or FAILING.
        usable: how many pods are FIT or CAPPED.
        score: the first pod's score, without the random factor.
        uncached: prompt tokens the first pod would have to prefill.
    """

    order: Sequence[int]
    best: int
    usable: int
    score: float
    uncached: float


def rank(
    block: Floats, state: Steady, cap: int, input_tokens: int, hits: Floats | None, now: float, dice: Dice, want: int
) -> Ranking:
    """Rank pods.

    Args:
        block: their columns, (columns x pods), at least one pod.
        state: what is steady about them.
        cap: most requests at once per pod; 0 = no cap.
        input_tokens: length of the prompt.
        hits: prompt tokens expected in each pod's prefix cache; None = none anywhere.
        now: monotonic seconds.
        dice: for the random factor.
        want: how many of the best are needed in order.
    """
    count = block.shape[1]
    scores = backlog(block, now)
    if hits is None:
        scores += input_tokens + 1.0
    else:
        hits *= block[col.HIT_TRUST]
        scores -= hits
        scores += input_tokens + 1.0
    loads = load(block, state.trust, state.typical)
    loads += 1.0
    scores *= loads
    scores *= state.factor
    keys = dice.many(count) * NEAR
    keys += 1.0
    keys *= scores
    classes: npt.NDArray[np.int8] | None = None
    if cap:
        full = capped(block, state.trust, cap)
        if full.any():
            classes = full * np.int8(CAPPED)
    if state.failing is not None:
        classes = np.zeros(count, np.int8) if classes is None else classes
        classes[state.failing] = FAILING
    order = _order(keys, classes, want)
    first = order[0]
    uncached = float(input_tokens) if hits is None else max(0.0, input_tokens - float(hits[first]))
    return Ranking(order, FIT if classes is None else int(classes[first]), state.usable, float(scores[first]), uncached)


def rank_spare(state: Steady, input_tokens: int) -> Ranking:
    """The same for pods that only come in when a better pool fails: by load alone, some milliseconds old."""
    return Ranking(state.order, state.best, state.usable, 0.0, float(input_tokens))


def _order(keys: Floats, classes: npt.NDArray[np.int8] | None, want: int) -> list[int]:
    count = len(keys)
    if classes is not None:
        order: list[int] = np.lexsort((keys, classes)).tolist()
    elif count < _PARTIAL or want >= count:
        order = keys.argsort().tolist()
    else:
        best = keys.argpartition(want)[:want]
        order = best[keys[best].argsort()].tolist()
    return order
