"""Which run of blocks a finished request added.

Without the engine's tokenizer a run's tokens say nothing about a prompt's text. But the answer's usage gives exact counts, and
they fix the run: it begins where the cached tokens end and has as many blocks as prompt and answer fill beyond them. (The last
token of an answer need not be computed, so it may count or not.) When that leaves several runs, the time at
which the prompt was done decides, if it does so clearly; if not, nothing is learned. A wrong match makes some expected hits wrong
until the blocks are gone; it is corrected as all expectations are, by what answers report as cached.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ralb_extproc.kvevents.runs import Run

# How much earlier than the note of its placement, and how far from its first token, a request's events may come.
_EARLY: Final = 0.05
_FAR: Final = 2.0
# The best in time must be this much nearer than the next.
_CLEAR: Final = 0.25


@dataclass(frozen=True, slots=True)
class Served:
    """What is known of a request that ended well.

    Attributes:
        input, output: tokens, as the server counted.
        cached: prompt tokens found in the cache; None if the server did not say.
        begun: when it was placed, monotonic seconds.
        first_token: when the first token came; None if not known.
        ended: when the answer ended.
    """

    input: int
    output: int
    cached: int | None
    begun: float
    first_token: float | None
    ended: float


class Ambiguous(LookupError):
    """Several runs fit equally well."""


def skipped_blocks(served: Served, run: Run) -> int:
    """How many blocks of the prompt come before the run."""
    return (served.cached or 0) // run.block_size


def prompt_blocks(served: Served, run: Run) -> int:
    """How many of a run's blocks are the prompt's; the others hold the answer."""
    return max(0, served.input // run.block_size - skipped_blocks(served, run))


def find(runs: Iterable[Run], served: Served) -> tuple[Run, int] | None:
    """The run a request added, or began, and its length in blocks; None if none fits.

    Raises:
        Ambiguous: several do, and none clearly better.
    """
    fitting: list[tuple[float, Run, int]] = []
    for run in runs:
        for length in _lengths(run, served):
            if _fits(run, length, served):
                fitting.append((_distance(run, length, served), run, length))
                break
    fitting = sorted((each for each in fitting if each[0] <= _FAR), key=lambda each: each[0])
    if not fitting:
        return None
    if len(fitting) > 1 and fitting[0][0] > _CLEAR * fitting[1][0]:
        raise Ambiguous
    return fitting[0][1:]


def _lengths(run: Run, served: Served) -> tuple[int, ...]:
    """Blocks a request adds; two possible numbers if its end is at the edge of a block."""
    total, skipped = served.input + served.output, skipped_blocks(served, run)
    least, most = (total - 1) // run.block_size - skipped, total // run.block_size - skipped
    return (least,) if least == most else (most, least)


def _fits(run: Run, length: int, served: Served) -> bool:
    if length < 1 or run.first < served.begun - _EARLY or (run.parent is None) != (skipped_blocks(served, run) == 0):
        return False
    # What follows in the run must be of a later turn, and so come after the end.
    return run.ends(length) and run.reached(length + 1) >= served.ended - _EARLY


def _distance(run: Run, length: int, served: Served) -> float:
    if served.first_token is None:
        return abs(served.ended - run.reached(length))
    return abs(served.first_token - run.reached(min(length, max(1, prompt_blocks(served, run)))))
