"""What readings say beside their numbers: that the page is stuck, and how much the pod can take.

A page is stuck when it stays the same over ``STUCK_PAGES`` readings and ``STUCK_SECONDS`` while requests of ours end on the pod:
each of them must have moved some count. It is then worth nothing until it changes.

The cap on a pod's requests is learned like a congestion window (additive increase, multiplicative decrease: Chiu and Jain,
1989). A pre-emption, or a queue with the KV cache full, says that what runs is too much: the cap is 9/10 of it. A queue that
lasts says that half as much again as runs is enough. Without such signs the cap grows, and is forgotten after a minute.
"""

from typing import Final

from ralb_extproc.place.columns import Floats
from ralb_extproc.place.sample import PodSample

# Rows in a pod's state, from where the caller puts them.
PAGE, PAGE_AT, SAME, ENDED, STUCK, PREEMPTIONS, QUEUED_AT, CAP, CAP_AT, READ_AT, ROWS = range(11)

STUCK_PAGES: Final = 5.0
STUCK_SECONDS: Final = 2.0
STUCK_ENDED: Final = 5.0
QUEUE_SECONDS: Final = 2.0
CUT_SECONDS: Final = 2.0
FORGET_SECONDS: Final = 60.0
_CUT: Final = 0.9
_QUEUE_ROOM: Final = 1.5
_GROW: Final = 0.05
_KV_FULL: Final = 0.95


def read(state: Floats, slot: int, first: int, sample: PodSample, now: float) -> bool:
    """Take in a reading; returns whether the page became stuck or moved again.

    Args:
        state: (rows x slots), changed in place.
        slot: whose reading.
        first: the first of the rows of this module.
        sample: the reading.
        now: monotonic seconds.
    """
    row = state[first : first + ROWS, slot].tolist()
    was = row[STUCK]
    _page(row, sample, now)
    if not row[STUCK]:
        _cap(row, sample, now)
    row[READ_AT] = now
    state[first : first + ROWS, slot] = row
    return bool(row[STUCK] != was)


def _page(row: list[float], sample: PodSample, now: float) -> None:
    page = float(
        hash(
            (
                sample.waiting,
                sample.running,
                sample.kv_usage,
                sample.prefix_queries,
                sample.prefix_hits,
                sample.preemptions,
                sample.prompt_tokens,
                sample.generation_tokens,
                sample.first_tokens,
            )
        )
        & 0xFFFF_FFFF_FFFF
    )
    if page != row[PAGE]:
        row[PAGE], row[PAGE_AT], row[SAME], row[ENDED], row[STUCK] = page, now, 0.0, 0.0, 0.0
        return
    row[SAME] += 1.0
    if row[SAME] >= STUCK_PAGES and row[ENDED] >= STUCK_ENDED and now - row[PAGE_AT] >= STUCK_SECONDS:
        row[STUCK] = 1.0


def _cap(row: list[float], sample: PodSample, now: float) -> None:
    if sample.waiting is None or sample.running is None:
        return
    counted = -1.0 if sample.preemptions is None else sample.preemptions
    preempted = counted > row[PREEMPTIONS] >= 0.0
    row[PREEMPTIONS] = counted
    queued = sample.waiting > 0.0
    if not queued:
        row[QUEUED_AT] = 0.0
    elif not row[QUEUED_AT]:
        row[QUEUED_AT] = now
    enough: float | None = None
    if preempted or (queued and (sample.kv_usage or 0.0) >= _KV_FULL):
        if row[CAP] and now - row[CAP_AT] < CUT_SECONDS:
            return
        enough = sample.running * _CUT
    elif queued and now - row[QUEUED_AT] >= QUEUE_SECONDS:
        enough = sample.running * _QUEUE_ROOM
    if enough is not None:
        enough = max(1.0, enough)
        row[CAP] = min(row[CAP], enough) if row[CAP] else enough
        row[CAP_AT] = now
    elif row[CAP]:
        if now - row[CAP_AT] >= FORGET_SECONDS:
            row[CAP] = 0.0
        elif not queued:
            row[CAP] += max(1.0, _GROW * row[CAP]) * min(max(now - row[READ_AT], 0.0), 1.0)
