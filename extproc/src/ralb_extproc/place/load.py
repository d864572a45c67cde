"""How loaded a pod is: what it said, what we sent since, and how much the first still counts.

For pod i with a reading of age a seconds, in requests:

    seen_i  = waiting + running + (our requests in flight that the reading cannot have counted)
    w_i     = 1 / (1 + (a / TRUST_SECONDS)^4)           weight: 1 when fresh, 1/2 at TRUST_SECONDS, 0 if never read
    typical = sum(w seen) / sum(w) over the pool        0 when nobody has been read
    prior_i = max(our requests in flight on i, typical)
    load_i  = w_i seen_i + (1 - w_i) prior_i

So a stale pod slides without a cliff from what it last said to what pods like it carry: it is not taken for empty (it carries
at least as much as is typical) and not for saturated (what it said long ago no longer counts). With no metrics at all the load
is our own in-flight count.

What changes only with time and scrapes is computed once per ``STEADY_SECONDS`` and pool (``Steady``); what changes with every
request is computed with every decision.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Bools, Floats

# Classes of pods, best first.
FIT: Final = 0
CAPPED: Final = 1
FAILING: Final = 2

TRUST_SECONDS: Final = 4.0
STEADY_SECONDS: Final = 0.02
SLOW_START_SECONDS: Final = 30.0
SLOW_START_FLOOR: Final = 0.1
KV_WEIGHT: Final = 0.15
_KV_MAX: Final = 0.99


@dataclass(frozen=True, slots=True)
class Steady:
    """What holds for some milliseconds about the pods of a pool.

    Attributes:
        at: monotonic seconds it was computed for.
        trust: weight of each pod's reading.
        typical: weighted mean of ``seen``.
        factor: memory times start, see ``strategies.reasoning_aware``.
        failing: which pods failed and are not due for a probe; None = none.
        measured: whether any reading has weight.
        order: positions by class, then load times factor: good enough for pools that only come in when a better one fails.
        usable: how many pods are not failing.
        best: class of the first in ``order``.
        queue: mean requests waiting per pod, each reading at its weight; 0 where nothing was read.
    """

    at: float
    trust: Floats
    typical: float
    factor: Floats
    failing: Bools | None
    measured: bool
    order: tuple[int, ...]
    usable: int
    best: int
    queue: float


def weight(age: Floats) -> Floats:
    """Weight of a reading by its age in seconds; age inf gives 0."""
    scaled: Floats = np.maximum(age, 0.0) / TRUST_SECONDS
    scaled *= scaled
    scaled *= scaled
    scaled += 1.0
    out: Floats = np.reciprocal(scaled)
    return out


def steady(block: Floats, cap: int, now: float) -> Steady:
    """Compute ``Steady`` for a block (columns x pods) of pods that take ``cap`` requests at once (0 = any number)."""
    trust = weight(now - block[col.SCRAPED_AT])
    total = float(trust.sum())
    typical = float(trust @ block[col.SEEN]) / total if total > 0.0 else 0.0
    kv = np.minimum(block[col.KV_USAGE] * trust, _KV_MAX)
    started = np.clip((now - block[col.FIRST_SEEN]) / SLOW_START_SECONDS, SLOW_START_FLOOR, 1.0)
    factor = (1.0 + KV_WEIGHT * kv / (1.0 - kv)) / started
    failing = (block[col.FAILURES] > 0.0) & (block[col.PROBE_AT] > now)
    count = len(trust)
    classes = np.zeros(count, np.int8)
    if cap:
        classes[capped(block, trust, cap)] = CAPPED
    classes[failing] = FAILING
    failed = int(np.count_nonzero(failing))
    order = np.lexsort(((load(block, trust, typical) + 1.0) * factor, classes)).tolist()
    return Steady(
        at=now,
        trust=trust,
        typical=typical,
        factor=factor,
        failing=failing if failed else None,
        measured=total > 0.0,
        order=tuple(order),
        usable=count - failed,
        best=int(classes[order[0]]),
        queue=float(trust @ block[col.WAITING]) / count,
    )


def capped(block: Floats, trust: Floats, cap: int) -> Bools:
    """Which pods have ``cap`` requests: of ours, or in all by a reading that still has half its weight."""
    out: Bools = block[col.INFLIGHT] >= cap
    out |= (trust >= 0.5) & (block[col.SEEN] >= cap)
    return out


def load(block: Floats, trust: Floats, typical: float) -> Floats:
    """Load of the pods of a block (columns x pods), in requests."""
    out: Floats = np.maximum(block[col.INFLIGHT], typical)
    out += trust * (block[col.SEEN] - out)
    return out


def backlog(block: Floats, now: float) -> Floats:
    """Prefill tokens we have queued on each pod and that it cannot have worked off yet.

    A leaky bucket: filled by the uncached tokens of each request placed, drained at the pool's learned prefill rate.
    """
    out: Floats = block[col.BACKLOG_AT] - now
    out *= block[col.PREFILL_RATE]
    out += block[col.BACKLOG]
    np.maximum(out, 0.0, out=out)
    return out
