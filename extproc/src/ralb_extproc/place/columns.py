"""The columns of the pod table: a float matrix with one row per column name and one column per slot.

One matrix rather than many arrays, so that a pool's state is fetched with a single indexing operation. The trap is that the
matrix is replaced when it grows: hold slots, never views, across calls.
"""

from typing import Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Slots = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
# The same matrix for reading and writing single numbers, at half of what numpy takes for them: ``cells[column, slot]``.
Cells: TypeAlias = "memoryview[float]"

# As the pod said, at SCRAPED_AT.
WAITING: Final = 0
RUNNING: Final = 1
KV_USAGE: Final = 2
KV_CAPACITY: Final = 3  # tokens; 0 = unknown
SCRAPED_AT: Final = 4  # monotonic seconds; -inf = never
# As we sent, from the ledger.
INFLIGHT: Final = 5  # requests
PREFILL: Final = 6  # tokens not yet known to be prefilled
DECODE: Final = 7  # tokens expected to come
SINCE: Final = 8  # requests in flight which the last scrape cannot have seen
BACKLOG: Final = 9  # prefill tokens queued by us, at BACKLOG_AT; drains at PREFILL_RATE
BACKLOG_AT: Final = 10
# As learned from outcomes.
FAILURES: Final = 11  # consecutive
FAILED_AT: Final = 12
PROBE_AT: Final = 13  # when a failing pod may next be tried first
PREFILL_RATE: Final = 14  # tokens per second; the same for all pods of a pool
HIT_TRUST: Final = 15  # share of expected prefix hits that came true, 0 to 1
# Bookkeeping.
FIRST_SEEN: Final = 16  # -inf for pods that were there before us
QUERY_RATE: Final = 17  # prefix cache tokens looked up per second
HIT_RATE: Final = 18  # prefix cache tokens found per second
ITL: Final = 19  # seconds per token of a sequence while it is decoded, however many a step gives; 0 = unknown
ACCEPTANCE: Final = 20  # tokens per decoding step of a sequence: 1, and more where the engine speculates
UNREACHABLE: Final = 21  # 1 = refused the scraper's last connection
SEEN: Final = 22  # WAITING + RUNNING + SINCE, kept up for speed
# Of the pool's flow, see ``flow``; sums that halve in time, as of FLOW_AT.
WORK: Final = 23  # work done
BUSY: Final = 24  # requests in the batch x seconds in which it was
FILLED: Final = 25  # requests in the batch, squared, x seconds in which more of them queued
FULL: Final = 26  # requests in the batch x the same seconds
FLOW_AT: Final = 27  # monotonic seconds; -inf = never
WORK_COUNT: Final = 28  # the pod's own count of work as of SCRAPED_AT; -1 = it does not count
# As counted by the pod, over the last seconds; see ``observe``.
GENERATION_RATE: Final = 29  # tokens of answers per second
PROMPT_RATE: Final = 30  # tokens of prompts per second, cached ones included
PREEMPTION_RATE: Final = 31  # requests pre-empted per second
PREFILL_SECONDS: Final = 32  # from being scheduled to the first token, mean of requests that ended; 0 = unknown
# Foreseen, see ``clock``.
FREE_AT: Final = 33  # monotonic seconds at which the prefill queued there is done
FACTOR: Final = 34  # how many times as long as its peers' its work takes
CONTEXT: Final = 35  # prompt tokens of our requests in flight
SINCE_TOKENS: Final = 36  # uncached prompt tokens of those which the last scrape cannot have seen
COUNT: Final = 37

DOUBT: Final = 0.75  # share of hits that came true, below which they are doubted
INITIAL_PREFILL_RATE: Final = 10_000.0

_INITIAL: Final = np.zeros(COUNT)
_INITIAL[[SCRAPED_AT, FAILED_AT, PROBE_AT, FIRST_SEEN, BACKLOG_AT, FLOW_AT, FREE_AT]] = -np.inf
_INITIAL[PREFILL_RATE] = INITIAL_PREFILL_RATE
_INITIAL[HIT_TRUST] = 1.0
_INITIAL[WORK_COUNT] = -1.0
_INITIAL[[ACCEPTANCE, FACTOR]] = 1.0


def empty(slots: int) -> Floats:
    """A matrix for so many slots, each as of a pod nothing is known of."""
    return np.repeat(_INITIAL[:, np.newaxis], slots, axis=1)


def cells(data: Floats) -> Cells:
    """A matrix number by number."""
    return cast("Cells", data.data)


def reset(data: Floats, slot: int) -> None:
    """Make a slot as of a pod nothing is known of."""
    data[:, slot] = _INITIAL


def most(row: Floats) -> float:
    """The largest of a few numbers, at least one: ``row.max()`` in a quarter of its time."""
    found: float = row.item(row.argmax())
    return found


def least(row: Floats) -> float:
    """The smallest."""
    found: float = row.item(row.argmin())
    return found


def belief(block: Floats) -> Floats:
    """By how much expected prefix hits count, (pods,): in full unless they clearly do not come true.

    A pod's share of hits that came true wavers by some percent; to take each waver at its word would send a conversation away
    from its cache for nothing.
    """
    out: Floats = block[HIT_TRUST] / DOUBT
    np.minimum(out, 1.0, out=out)
    return out
