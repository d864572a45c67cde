"""How fast a pool works off what it is sent, and how much of what arrives is too much for it.

Work is counted in answer tokens; an uncached prompt token is ``PROMPT_SHARE`` of one. Sums are kept per pod and halve every
``HALF_LIFE`` seconds, so that what is long past does not count and an idle pod slides back to what its peers can do:

    speed = sum(work) / sum(requests in the batch x seconds)           work per second and running request
    room  = sum(running^2 x seconds) / sum(running x seconds)          requests in the batch, while more of them queue
    drain = speed x room                                               work per second of a pod that is full

Throughput alone would say nothing: below saturation it is what arrives, and shares that follow it stay whatever they are.
Speed is told at any load, falls as a pod fills up, and so corrects itself; room is told once requests queue. Work and
requests come from a pod's own counters, which count other routers' requests too; from finished requests where it has none.

Trap: the sums have no meaning between pods of different kinds but as ratios; see ``pools`` for what is made of them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Cells, Floats
from ralb_extproc.place.load import FAILING, Steady, capped
from ralb_extproc.place.sample import PodSample

PROMPT_SHARE: Final = 0.125
HALF_LIFE: Final = 120.0
# Further apart than this two readings do not say what was between them.
_GAP_MAX: Final = 10.0
# Requests queueing on a pod, per request in its batch and in all, that are more than chance arrivals.
_QUEUE_SHARE: Final = 0.125
_QUEUE_MIN: Final = 1.0
# From this KV use on a queue counts for more, twice at the end: what is let in next may push out what runs.
_KV_HIGH: Final = 0.9
# Of the queue that is too long: a pool becomes saturated at 1, and is so until it is below the lower bound; the share of new
# requests that are too many rises from none at the lower to all at the upper bound.
_CALM: Final = 0.25
_FLOOD: Final = 2.0
_CLIP: Final = 4.0


@dataclass(frozen=True, slots=True)
class Flow:
    """A pool for some milliseconds.

    Attributes:
        at: monotonic seconds it was computed for.
        pods: how many do not fail, each at the share of work it may have for its health.
        work / busy: the sums whose ratio is the speed.
        filled / full: the sums whose ratio is the room.
        cap: most requests at once per pod; 0 = no cap.
        excess: share of new requests that are too many, 0 to 1; more than 0 = saturated.
    """

    at: float
    pods: float
    work: float
    busy: float
    filled: float
    full: float
    cap: int
    excess: float


def flow(block: Floats, state: Steady, share: Floats, now: float, before: Flow | None) -> Flow:
    """Compute ``Flow`` for a pool.

    Args:
        block: its columns, (columns x pods).
        state: of the same pods.
        share: of its part of the work that each may have for its health.
        now: monotonic seconds.
        before: the last one of the pool, for the hysteresis.
    """
    aged = np.exp2((np.maximum(block[col.FLOW_AT], 0.0) - now) / HALF_LIFE)
    work, busy, filled, full = (block[col.WORK : col.FULL + 1] @ aged).tolist()
    well = np.ones(block.shape[1], np.bool_) if state.failing is None else ~state.failing
    pods = float(share @ well)
    if state.cap:
        well &= ~capped(block, state.trust, state.cap)
    excess = 0.0
    count = int(np.count_nonzero(well))
    if count:
        pressure = float(np.minimum(_pressure(block, state.trust), _CLIP) @ well) / count
        was = before is not None and before.excess > 0.0
        if pressure > (_CALM if was else 1.0):
            excess = min((pressure - _CALM) / (_FLOOD - _CALM), 1.0)
    return Flow(now, pods, work, busy, filled, full, state.cap, excess)


def all_capped(block: Floats, state: Steady) -> bool:
    """Whether every pod that does not fail is at the cap, this very moment."""
    if not state.cap or state.best == FAILING:
        return False
    full = capped(block, state.trust, state.cap)
    if state.failing is not None:
        full |= state.failing
    return bool(full.all())


def _pressure(block: Floats, trust: Floats) -> Floats:
    """The queue of each pod over what is more than chance; what we sent since the reading queues too where others do."""
    waiting = block[col.WAITING]
    queue: Floats = trust * (waiting + block[col.SINCE] * (waiting > 0.0))
    queue /= _QUEUE_MIN + _QUEUE_SHARE * block[col.RUNNING]
    fullness = (block[col.KV_USAGE] - _KV_HIGH) / (1.0 - _KV_HIGH)
    queue *= 1.0 + np.minimum(np.maximum(fullness, 0.0), 1.0)
    return queue


def count_read(cells: Cells, slot: int, sample: PodSample) -> None:
    """Take in a reading, before it replaces the last one in the table."""
    if sample.running is None or sample.waiting is None:
        return
    seconds = sample.started - cells[col.SCRAPED_AT, slot]
    last = cells[col.WORK_COUNT, slot]
    counted = _counted(sample)
    done = 0.0
    if counted is not None:
        cells[col.WORK_COUNT, slot] = counted
        done = counted - last
    elif sample.generation_rate is not None:
        cells[col.WORK_COUNT, slot] = last = 0.0
        done = sample.generation_rate * seconds
    else:
        cells[col.WORK_COUNT, slot] = last = -1.0
    if last < 0.0 or done < 0.0 or not 0.0 < seconds <= _GAP_MAX:
        return
    before = cells[col.RUNNING, slot]
    running = (before + sample.running) / 2.0
    _age(cells, slot, sample.started)
    cells[col.WORK, slot] += done
    cells[col.BUSY, slot] += running * seconds
    queued = min(cells[col.WAITING, slot], sample.waiting)
    if queued > _QUEUE_MIN + _QUEUE_SHARE * running:
        cells[col.FILLED, slot] += running * running * seconds
        cells[col.FULL, slot] += running * seconds


def count_served(cells: Cells, slot: int, work: float, seconds: float, now: float) -> None:
    """Take in a finished request, where the pod itself does not count: ``seconds`` include its queueing."""
    if cells[col.WORK_COUNT, slot] < 0.0 and work > 0.0 and seconds > 0.0:
        _age(cells, slot, now)
        cells[col.WORK, slot] += work
        cells[col.BUSY, slot] += seconds


def work_of(prompt: float, cached: float, output: float) -> float:
    """Tokens of one or more requests as work."""
    return output + PROMPT_SHARE * max(0.0, prompt - cached)


def _counted(sample: PodSample) -> float | None:
    if sample.generation_tokens is None:
        return None
    return work_of(sample.prompt_tokens or 0.0, sample.prefix_hits or 0.0, sample.generation_tokens)


def _age(cells: Cells, slot: int, now: float) -> None:
    at = cells[col.FLOW_AT, slot]
    if now > at:
        keep = 0.5 ** (min(now - at, 1e6) / HALF_LIFE)
        for column in (col.WORK, col.BUSY, col.FILLED, col.FULL):
            cells[column, slot] *= keep
        cells[col.FLOW_AT, slot] = now
