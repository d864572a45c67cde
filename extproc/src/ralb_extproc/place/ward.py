"""The pods under observation: keeps what ``health``, ``latency`` and ``signs`` know of every slot, and what it comes to.

Outcomes and readings are noted at once, in a few numbers of one pod; states and shares are worked out for a whole pool when
somebody asks and the last time is ``REVIEW_SECONDS`` ago, or ``IDLE_SECONDS`` where nothing changes. A pod with a share below 1
gets it by credit: each request placed in the pool gives it share / (sum of the pool's shares), each one placed on it takes 1, and
without a whole one it is held back.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ralb.v1.snapshot_pb2 import Pool
from ralb_extproc.place import columns as col
from ralb_extproc.place import health, signs
from ralb_extproc.place.columns import Bools, Floats, Slots
from ralb_extproc.place.health import Rules
from ralb_extproc.place.latency import Relation
from ralb_extproc.place.ledger import Flight
from ralb_extproc.place.sample import PodSample

REVIEW_SECONDS: Final = 0.25
IDLE_SECONDS: Final = 5.0
# A failing pod is tried first at most this often, doubling with each failure in a row.
PROBE_SECONDS: Final = 0.5
PROBE_SECONDS_MAX: Final = 10.0
UNREACHABLE_AS: Final = 8.0  # failures in a row that a refused scrape stands for
LIMITED_SECONDS: Final = 1.0  # how long a pod is left alone that refuses work and does not say for how long
LIMITED_MAX: Final = 300.0
LIMITED_SHARE: Final = 0.3  # with which it comes back
_PACE_TOKENS: Final = 8  # shorter answers do not tell a pace
_SIGNS: Final = health.ROWS
_ROWS: Final = _SIGNS + signs.ROWS
_STUCK: Final = _SIGNS + signs.STUCK
_CAP: Final = _SIGNS + signs.CAP

_INITIAL: Final = np.zeros(_ROWS)
_INITIAL[: health.ROWS] = health.initial()
_INITIAL[_SIGNS + signs.PREEMPTIONS] = -1.0


@dataclass(slots=True)
class _Pool:
    """A pool's rules, what is learned of its times, and when its pods were last reviewed."""

    rules: Rules
    reviewed: float = -np.inf
    outcomes: int = 0  # since then
    changes: bool = True  # a pod's share is below 1, or a request failed since
    at_once: bool = True  # the next to ask is not to be told what was
    shares: float = 0.0  # their sum, while any is below 1; else 0
    # Prefill: the tokens ahead and the requests; decoding: context and requests; answers in one piece: their tokens, requests.
    ttft: Relation = field(default_factory=lambda: Relation((0.5, 0.5), (1.2, 3.0)))
    pace: Relation = field(default_factory=lambda: Relation((0.0, 0.3), (0.5, 1.5)))
    whole: Relation = field(default_factory=lambda: Relation((0.8, 0.3), (1.2, 2.0)))

    def forget(self, slot: int) -> None:
        """The slot is another pod's, or its pod another process."""
        for relation in (self.ttft, self.pace, self.whole):
            relation.forget(slot)

    def waits(self, pods: int, now: float) -> bool:
        """Whether what was worked out last still stands; where nothing changes it is enough to look now and then."""
        if self.at_once:
            return False
        busy = self.changes or self.outcomes >= pods
        return 0.0 <= now - self.reviewed < (REVIEW_SECONDS if busy else IDLE_SECONDS)


@dataclass(slots=True)
class Care:
    """What placing must know of pods, by position in a view.

    Attributes:
        share: of its fair part that each may have, 0 to 1.
        reduced: which have less than 1; None = none.
        due: which are to be tried now, to see whether they are well; None = none.
        limited: which want no work for now; None = none.
        stuck: whose readings are worth nothing; None = none.
        caps: requests each can take, learned, inf = not known; None = of none.
    """

    share: Floats
    reduced: Bools | None = None
    due: Bools | None = None
    limited: Bools | None = None
    stuck: Bools | None = None
    caps: Floats | None = None


def probe_wait(failures: float) -> float:
    """Seconds until a pod with so many failures in a row may be tried again."""
    wait: float = min(PROBE_SECONDS * 2.0 ** (min(failures, 16.0) - 1.0), PROBE_SECONDS_MAX)
    return wait


def rules_of(pool: Pool) -> Rules:
    """The rules of a pool of the snapshot; the defaults where it has none."""
    if not pool.HasField("health"):
        return Rules()
    said = pool.health
    return Rules(
        degraded_error=min(max(said.degraded_error, 1e-4), 1.0),
        failed_error=min(max(said.failed_error, 1e-4), 1.0),
        max_ejected=min(max(said.max_ejected, 0.0), 1.0),
        slow_factor=max(said.slow_factor, 1.01),
        slow_start=max(said.slow_start_s, 0.0),
        drain=max(said.drain_s, 0.0),
    )


class Ward:
    """State of all slots.

    Attributes:
        state: (rows x slots); the first ``health.ROWS`` rows are those of ``health``.
    """

    def __init__(self, slots: int) -> None:
        self.state: Floats = np.repeat(_INITIAL[:, np.newaxis], slots, axis=1)
        self._pools: dict[str, _Pool] = {}

    def reset(self, slot: int) -> None:
        """The slot is another pod's, or nobody's."""
        self.state[:, slot] = _INITIAL
        for known in self._pools.values():
            known.forget(slot)

    def follow(self, rules: dict[str, Rules], slots: int) -> None:
        """The pools there are, and how many slots."""
        more = slots - self.state.shape[1]
        if more > 0:
            self.state = np.concatenate([self.state, np.repeat(_INITIAL[:, np.newaxis], more, axis=1)], axis=1)
        kept = {}
        for pool, said in rules.items():
            known = kept[pool] = self._pools.get(pool) or _Pool(said)
            known.rules = said
            known.at_once = True
        self._pools = kept

    def rules(self, pool: str) -> Rules:
        """A pool's."""
        return self._pools[pool].rules

    # ---- what happens to one pod ----

    def failed(self, pool: str, slot: int, *, refused: bool) -> None:
        """A request failed; ``refused``: it found no connection."""
        state = self.state
        self._pools[pool].changes = True
        state[health.BAD, slot] += 1.0
        state[health.STREAK, slot] = 0.0
        state[health.REFUSED, slot] = state[health.REFUSED, slot] + 1.0 if refused else 0.0

    def served(self, pool: str, slot: int) -> None:
        """A request was served."""
        state = self.state
        self._pools[pool].outcomes += 1
        state[health.GOOD, slot] += 1.0
        state[health.STREAK, slot] += 1.0
        state[health.SERVED, slot] += 1.0
        state[_SIGNS + signs.ENDED, slot] += 1.0
        state[health.REFUSED, slot] = 0.0
        if state[health.BASE, slot] < 1.0 and state[health.LEVEL, slot] == health.HEALTHY:
            state[health.BASE, slot] = min(1.0, state[health.BASE, slot] * health.GROWTH + 0.01)

    def was_down(self, slot: int) -> bool:
        """Whether the last requests found nobody listening."""
        return bool(self.state[health.REFUSED, slot] >= health.DOWN_FAILURES)

    def restarted(self, pool: str, slot: int) -> None:
        """A new process: nothing that was known of the old one counts, but how often it was ill."""
        keep = self.state[[health.HOLD, health.LEFT, health.LIMITED], slot]
        self.state[:, slot] = _INITIAL
        self._pools[pool].forget(slot)
        self._pools[pool].at_once = True
        self.state[[health.HOLD, health.LEFT, health.LIMITED], slot] = keep

    def limited(self, pool: str, slot: int, seconds: float | None, now: float) -> None:
        """The pod wants no work for so many seconds, or did not say for how long."""
        state = self.state
        self._pools[pool].at_once = True
        wait = LIMITED_SECONDS if seconds is None else min(max(seconds, 0.0), LIMITED_MAX)
        state[health.LIMITED, slot] = max(float(state[health.LIMITED, slot]), now + wait)
        state[health.BASE, slot] = min(float(state[health.BASE, slot]), LIMITED_SHARE)
        state[health.STREAK, slot] = 0.0

    def timed(
        self, flight: Flight, pool: str, *, ttft: float | None, duration: float, output: int, uncached: float
    ) -> None:
        """Learn from the times of an answer.

        Args:
            flight: as placed; its slot must still be the same pod.
            pool: its pool id.
            ttft: seconds to the first token of a stream; None for an answer in one piece, or if not known.
            duration: seconds to the end.
            output: its tokens.
            uncached: prompt tokens that had to be computed.
        """
        found = self._pools.get(pool)
        if found is None:
            return
        slot = flight.slot
        if flight.info.stream and ttft is not None:
            if not flight.queued:  # a queue is of the pool's making, not the pod's
                found.ttft.add(slot, ttft, flight.ahead + uncached, flight.load)
            if output >= _PACE_TOKENS and duration > ttft:
                found.pace.add(slot, (duration - ttft) / (output - 1), flight.info.input_tokens, flight.load)
        elif not flight.info.stream and output >= _PACE_TOKENS:
            found.whole.add(slot, duration, output, flight.load)

    def read(self, slot: int, sample: PodSample, now: float) -> bool:
        """Take in a reading; returns whether it changes what readings of the pod are worth."""
        return signs.read(self.state, slot, _SIGNS, sample, now)

    # ---- what it comes to ----

    def care(self, pool: str, whole: slice | Slots, part: slice | Slots, data: Floats, now: float) -> Care:
        """What placing must know of some pods of a pool.

        Args:
            pool: its id.
            whole: slots of all its pods.
            part: slots of those asked for.
            data: the table, (columns x slots).
            now: monotonic seconds.
        """
        known = self._pools[pool]
        block = data[:, whole]
        if not known.waits(block.shape[1], now):
            self._review(known, whole, block, now)
        state = self.state[:, part]
        share = state[health.SHARE]
        limited = state[health.LIMITED] > now if col.most(state[health.LIMITED]) > now else None
        caps = state[_CAP]
        reduced = due = None
        if known.shares:
            reduced = share < 1.0
            due = (state[health.LEVEL] > health.HEALTHY) & (now - state[health.PLACED] >= health.PROBE_SECONDS)
            due &= (state[health.CREDIT] >= 1.0) & (data[col.FAILURES, part] == 0.0)
            if limited is not None:
                due &= ~limited
        return Care(
            share=share.copy(),
            reduced=reduced if reduced is not None and reduced.any() else None,
            due=due if due is not None and due.any() else None,
            limited=limited,
            stuck=state[_STUCK] > 0.0 if col.most(state[_STUCK]) > 0.0 else None,
            caps=np.where(caps > 0.0, caps, np.inf) if col.most(caps) > 0.0 else None,
        )

    def _review(self, known: _Pool, whole: slice | Slots, block: Floats, now: float) -> None:
        state = self.state[:, whole]
        seconds = max(0.0, now - known.reviewed) if known.reviewed > -np.inf else 0.0
        slots = range(whole.start, whole.stop) if isinstance(whole, slice) else whole.tolist()
        slow = np.maximum(known.ttft.slowness(slots), known.pace.slowness(slots))
        slow = np.maximum(slow, known.whole.slowness(slots))
        health.review(state, block, known.rules, slow, seconds, now)
        if not isinstance(whole, slice):
            self.state[:, whole] = state
        share = state[health.SHARE]
        known.changes = bool((share < 1.0).any())
        known.shares = float(share.sum()) if known.changes else 0.0
        known.reviewed, known.outcomes, known.at_once = now, 0, False

    def overdrawn(self, part: slice | Slots) -> Bools:
        """Which pods have no credit for another request."""
        out: Bools = self.state[health.CREDIT, part] < 1.0
        return out

    def placed(self, pool: str, whole: slice | Slots, slot: int, now: float) -> bool:
        """A request was placed in a pool: everybody is credited, and its pod charged. Returns whether that pod is ill."""
        known = self._pools.get(pool)
        if known is None or not known.shares:
            return False
        state = self.state
        state[health.CREDIT, whole] += state[health.SHARE, whole] / known.shares
        state[health.CREDIT, slot] -= 1.0
        state[health.PLACED, slot] = now
        return bool(state[health.LEVEL, slot])

    # ---- for people ----

    def condition(self, slot: int, data: Floats, now: float) -> tuple[str, str]:
        """A pod's state and what is the matter with it; "" = nothing."""
        row = self.state[:, slot]
        level, why = int(row[health.LEVEL]), ""
        if data[col.UNREACHABLE, slot] or data[col.FAILURES, slot] >= health.DOWN_FAILURES:
            level, why = health.FAILED, "down"
        elif row[health.LIMITED] > now:
            level, why = health.FAILED, "limited"
        elif level:
            why = "slow" if row[health.SLOWNESS] > 0.0 and row[health.BASE] not in _BY_ERRORS else "errors"
        elif row[health.SHARE] < row[health.BASE]:
            why = "starting"
        elif row[health.SHARE] < 1.0:
            why = "recovering"
        if row[_STUCK]:
            why = f"{why}, metrics stuck" if why else "metrics stuck"
        return health.NAMES[level], why

    def shown(self, part: slice | Slots, data: Floats, now: float) -> dict[str, list[float]]:
        """Numbers for people, by name, of the pods in these slots."""
        state, block = self.state[:, part], data[:, part]
        away = (block[col.UNREACHABLE] > 0.0) | (block[col.FAILURES] >= health.DOWN_FAILURES)
        away |= state[health.LIMITED] > now
        return {
            "health": np.where(away, float(health.FAILED), state[health.LEVEL]).tolist(),
            "share": state[health.SHARE].tolist(),
            "error_rate": state[health.ERROR_RATE].tolist(),
            "slowness": np.exp(state[health.SLOWNESS]).tolist(),
            "metrics_stuck": state[_STUCK].tolist(),
            "learned_cap": state[_CAP].tolist(),
        }

    def answers(self, pool: str, slot: int) -> tuple[float, float, float]:
        """How many answers its times were learned from: to the first token, per token, in one piece."""
        known = self._pools[pool]
        return known.ttft.count(slot), known.pace.count(slot), known.whole.count(slot)

    def cap(self, slot: int) -> float:
        """Requests it can take, as learned; 0 = not known."""
        return float(self.state[_CAP, slot])


_BY_ERRORS: Final = frozenset({health.ERROR_SHARE, health.PROBE_SHARE})
