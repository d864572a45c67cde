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
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Bools, Floats
from ralb_extproc.place.ward import Care

# States of pools, best first: that of the best of their pods.
FIT: Final = 0
CAPPED: Final = 1
FAILING: Final = 2
# Classes of pods, best first. One that has as much work as it seems to take, or has had its share, is as fit as any: what that
# means for the pool is for ``flow`` to say. Too much work is no reason to send more of it to those that are ill.
_DUE: Final = -1
_FULL: Final = 1
_HELD: Final = 2
_AT_CAP: Final = 3
_DOWN: Final = 4
_STATES: Final = {_DUE: FIT, 0: FIT, _FULL: FIT, _HELD: FIT, _AT_CAP: CAPPED, _DOWN: FAILING}

TRUST_SECONDS: Final = 4.0
STEADY_SECONDS: Final = 0.02
KV_WEIGHT: Final = 0.15
_FRESH: Final = 0.99
_FADE_SECONDS: Final = 5.0  # to half of what is known of a pod's slowness, in logarithm
_ENOUGH: Final = 8.0  # requests of ours, to judge by
_ALONE: Final = 1.3
_MOST_CROWD: Final = 16.0
_TIGHT: Final = 0.75
_KV_MAX: Final = 0.99


@dataclass(eq=False)
class Steady:
    """What holds for some milliseconds about the pods of a pool.

    What few decisions need is worked out when first asked for.

    Attributes:
        at: monotonic seconds it was computed for.
        block: the pods' columns, (columns x pods).
        trust: weight of each pod's reading.
        typical: weighted mean of ``seen``; where pages are stuck one per pod, and for those pods our own requests in flight
            times how many there are of all on the others.
        failing: which pods failed and are not due for a probe, or want no work for now; None = none.
        reduced: which pods may have only a share of their part of the work, see ``health``; None = none.
        due: which of those are to be tried now, to see how they are; None = none.
        cap: requests each pod is to have at once, as configured; 0 = any number.
        caps: how many each seems to take, as learned, inf = not known; None = of none.
        total: sum of ``trust``.
        usable: how many pods are not failing.
        crowd: how many requests there are for each of ours: 1, and more where other gateways send to the pool as well.
        fresh: whether all readings have their full weight.
        belief: by how much expected prefix hits count, see ``columns.belief``; None = in full.
        pace: how many times as slow as its peers each pod is; None = all alike.
        tight: whether a cache is so full that room in it matters.
    """

    at: float
    block: Floats
    trust: Floats
    typical: float | Floats
    failing: Bools | None
    reduced: Bools | None
    due: Bools | None
    cap: int
    caps: Floats | None
    total: float
    usable: int
    crowd: float
    fresh: bool
    belief: Floats | None
    pace: Floats | None
    tight: bool

    @property
    def measured(self) -> bool:
        """Whether any reading has weight."""
        return self.total > 0.0

    @cached_property
    def factor(self) -> Floats:
        """Memory: 1 + 0.15 k / (1 - k) with k = aged KV use: flat until the cache fills up, then steep."""
        kv = np.minimum(self.block[col.KV_USAGE] * self.trust, _KV_MAX)
        out: Floats = 1.0 + KV_WEIGHT * kv / (1.0 - kv)
        return out

    @cached_property
    def held(self) -> Floats:
        """Tokens in the caches: as last said, the older the more what is usual or our own requests hold, as with load.

        Without the requests that no reading can have counted.
        """
        block, trust = self.block, self.trust
        ours = np.maximum(block[col.CONTEXT] - block[col.SINCE_TOKENS], 0.0)
        capacity, usage = block[col.KV_CAPACITY], block[col.KV_USAGE]
        typical = float(trust @ usage) / self.total if self.measured else 0.0
        out: Floats = np.maximum(ours, typical * capacity)
        out += trust * (usage * capacity - out)
        out = np.where(capacity > 0.0, out, ours)
        return out

    @cached_property
    def queue(self) -> float:
        """Mean requests waiting per pod, each reading at its weight; 0 where nothing was read."""
        return float(self.trust @ self.block[col.WAITING]) / len(self.trust)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Positions by class, then load times factor: for pools that only come in when a better one fails."""
        keys = (load(self.block, self.trust, self.typical) + 1.0) * self.factor
        found = self._found
        return tuple((keys.argsort(kind="stable") if found is None else np.lexsort((keys, found))).tolist())

    @property
    def best(self) -> int:
        """State of the first in ``order``."""
        return FIT if self._found is None else state_of(self._found, self.order[0])

    @cached_property
    def _found(self) -> npt.NDArray[np.int8] | None:
        return _classes(self.block, self.trust, self.cap, self.caps, self.failing, self.reduced, None)


def weight(age: Floats) -> Floats:
    """Weight of a reading by its age in seconds; age inf gives 0."""
    scaled: Floats = np.maximum(age, 0.0) / TRUST_SECONDS
    scaled *= scaled
    scaled *= scaled
    scaled += 1.0
    out: Floats = np.reciprocal(scaled)
    return out


def steady(block: Floats, cap: int, now: float, care: Care | None = None) -> Steady:
    """Compute ``Steady`` for a block (columns x pods) of pods that take ``cap`` requests at once (0 = any number).

    ``care`` is what is known of their health; None = all are well.
    """
    trust = weight(now - block[col.SCRAPED_AT])
    failing: Bools | None = None
    if col.most(block[col.FAILURES]) > 0.0:
        failing = (block[col.FAILURES] > 0.0) & (block[col.PROBE_AT] > now)
    if care is not None:
        if care.stuck is not None:
            trust[care.stuck] = 0.0
        if care.limited is not None:
            failing = care.limited if failing is None else failing | care.limited
    if failing is not None and not failing.any():
        failing = None
    total = float(trust.sum())
    seen, ours = float(trust @ block[col.SEEN]), float(trust @ block[col.INFLIGHT])
    typical: float | Floats = seen / total if total > 0.0 else 0.0
    if care is not None and care.stuck is not None:
        each = max(1.0, seen / ours) if ours > 0.0 else 1.0
        typical = np.where(care.stuck, each * block[col.INFLIGHT], typical)
    factors = block[col.FACTOR]
    reduced, due, caps = (None, None, None) if care is None else (care.reduced, care.due, care.caps)
    return Steady(
        at=now,
        block=block,
        trust=trust,
        typical=typical,
        failing=failing,
        reduced=reduced,
        due=due,
        cap=cap,
        caps=caps,
        total=total,
        usable=len(trust) - (0 if failing is None else int(np.count_nonzero(failing))),
        crowd=_crowd(seen, ours),
        fresh=col.least(trust) > _FRESH,
        belief=col.belief(block) if col.least(block[col.HIT_TRUST]) < col.DOUBT else None,
        pace=_pace(block, now) if col.least(factors) != 1.0 or col.most(factors) != 1.0 else None,
        tight=col.most(block[col.KV_USAGE] * trust) > _TIGHT,
    )


def _pace(block: Floats, now: float) -> Floats:
    """How many times as slow as its peers each pod is; what was found out fades while the pod is sent nothing.

    Otherwise a pod that was slow once would never get the request that shows it is not any more.
    """
    unsent = np.maximum(now - block[col.BACKLOG_AT], 0.0)
    out: Floats = block[col.FACTOR] ** np.exp2(unsent / -_FADE_SECONDS)
    return out


def _crowd(seen: float, ours: float) -> float:
    if ours < _ENOUGH:
        return 1.0
    crowd = seen / ours
    return min(crowd, _MOST_CROWD) if crowd > _ALONE else 1.0


def classes(block: Floats, state: Steady, overdrawn: Bools | None) -> npt.NDArray[np.int8] | None:
    """Class of each pod, at this very moment; None if all are equal.

    Args:
        block: their columns.
        state: of the same pods.
        overdrawn: which have no credit for another request; needed where any is ``reduced``.
    """
    if not state.cap and state.failing is None and state.caps is None and state.reduced is None and state.due is None:
        return None
    held = None
    if state.reduced is not None and overdrawn is not None:
        # A pod that failed and is due for a probe is not to wait for its share as well.
        held = state.reduced & overdrawn & (block[col.FAILURES] == 0.0)
    return _classes(block, state.trust, state.cap, state.caps, state.failing, held, state.due)


def state_of(found: npt.NDArray[np.int8] | None, position: int) -> int:
    """What state a pool is in whose best pod is at ``position``: FIT, CAPPED or FAILING."""
    return FIT if found is None else _STATES[int(found[position])]


def held_back(found: npt.NDArray[np.int8] | None) -> int:
    """How many pods are held back to their share."""
    return 0 if found is None else int(np.count_nonzero(found == _HELD))


def _classes(
    block: Floats,
    trust: Floats,
    cap: int,
    caps: Floats | None,
    failing: Bools | None,
    held: Bools | None,
    due: Bools | None,
) -> npt.NDArray[np.int8] | None:
    out = None
    for which, number in (
        (due, _DUE),
        (None if caps is None else capped(block, trust, caps), _FULL),
        (held, _HELD),
        (capped(block, trust, cap) if cap else None, _AT_CAP),
        (failing, _DOWN),
    ):
        if which is not None and which.any():
            out = np.zeros(len(trust), np.int8) if out is None else out
            out[which] = number
    return out


def capped(block: Floats, trust: Floats, cap: float | Floats) -> Bools:
    """Which pods have ``cap`` requests: of ours, or in all by a reading that still has half its weight."""
    out: Bools = block[col.INFLIGHT] >= cap
    out |= (trust >= 0.5) & (block[col.SEEN] >= cap)
    return out


def load(block: Floats, trust: Floats, typical: float | Floats) -> Floats:
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
