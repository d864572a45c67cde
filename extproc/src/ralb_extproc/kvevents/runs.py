"""What one pod's cache holds, as its events tell: the blocks, and the runs of blocks that single requests added.

A request stores its prompt in one or a few events and then one block every few answer tokens, each event continuing the last;
so a run of blocks that continue one another without a long pause is one request's, or that of a conversation whose next turn came
before the last one's end was known here. Where its events end, and when they came, is how a request is recognised (``match``).

Bounds: blocks at a share given by the owner (100 bytes each; beyond it new ones are not tracked); runs at ``MAX_RUNS``, and they
as well as answers at a number of blocks together (some 50 bytes each).
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from ralb_extproc.kvevents.wire import Stored

MAX_RUNS: Final = 512
MAX_RUN_BLOCKS: Final = 65_536
# Longer than it takes a slow pod to write one block's worth of answer.
IDLE_SECONDS: Final = 5.0


@dataclass(slots=True, eq=False)
class Run:
    """Blocks that one request most likely added, or several of one conversation in a row.

    Attributes:
        parent: hash of the block before the first; None at the beginning of a prompt.
        block_size: tokens per block.
        hashes: of the blocks.
        counts, times: of every event, the blocks with it and when it came, monotonic seconds.
    """

    parent: int | None
    block_size: int
    hashes: list[int] = field(default_factory=list)
    counts: "array[int]" = field(default_factory=lambda: array("I"))
    times: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def first(self) -> float:
        """When the first event came."""
        return self.times[0]

    def reached(self, blocks: int) -> float:
        """When it had so many blocks; infinity if it has fewer."""
        at = bisect_left(self.counts, blocks)
        return self.times[at] if at < len(self.times) else math.inf

    def ends(self, blocks: int) -> bool:
        """Whether an event ended with so many blocks."""
        at = bisect_left(self.counts, blocks)
        return at < len(self.counts) and self.counts[at] == blocks

    def extend(self, hashes: tuple[int, ...], now: float) -> None:
        """Blocks followed."""
        self.hashes.extend(hashes)
        self.counts.append(len(self.hashes))
        self.times.append(now)

    def rest(self, blocks: int) -> "Run | None":
        """What follows so many blocks, as a run of its own; None if nothing does."""
        if blocks >= len(self.hashes):
            return None
        at = bisect_right(self.counts, blocks)
        counts = array("I", (count - blocks for count in self.counts[at:]))
        return Run(self.hashes[blocks - 1], self.block_size, self.hashes[blocks:], counts, self.times[at:])


class Chains:
    """The tracked blocks and runs of one pod.

    Args:
        limit: most blocks to track.

    Attributes:
        limit: the same; may be changed.
        run_limit: most blocks of runs, and of answers, to remember; may be changed.
        whole: whether all of the cache is known, as far as tracked; False from a gap until blocks stored after it are evicted,
            since then older ones which nobody used are gone too.
        untracked: blocks that were not tracked for lack of room, since the last ``reset``.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.run_limit = MAX_RUN_BLOCKS
        self.whole = False
        self.untracked = 0
        self._blocks: set[int] = set()
        self._copies: dict[int, int] = {}  # of blocks held more than once: how many more
        self._runs: deque[Run] = deque()
        self._tails: dict[int, Run] = {}
        self._run_blocks = 0
        self._answers: OrderedDict[int, tuple[int, ...]] = OrderedDict()  # by the last block
        self._answer_blocks = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: int) -> bool:
        return block in self._blocks

    @property
    def runs(self) -> tuple[Run, ...]:
        """Runs that no request claimed yet, oldest first."""
        return tuple(self._runs)

    def store(self, event: Stored, now: float) -> None:
        """Blocks came."""
        blocks, copies = self._blocks, self._copies
        for block in event.hashes:
            if block in blocks:
                # An engine with two requests computing the same at once holds it twice, and removes it twice.
                if len(copies) < self.limit:
                    copies[block] = copies.get(block, 0) + 1
            elif len(blocks) < self.limit:
                blocks.add(block)
            else:
                self.untracked += 1
        self._extend(event, now)

    def remove(self, hashes: tuple[int, ...]) -> tuple[int, ...]:
        """Blocks went; returns those of which no copy is left."""
        blocks, copies = self._blocks, self._copies
        gone = []
        for block in hashes:
            more = copies.get(block)
            if more is not None:
                if more > 1:
                    copies[block] = more - 1
                else:
                    del copies[block]
                continue
            if block in blocks:
                blocks.discard(block)
                self.whole = True
            gone.append(block)
        return tuple(gone)

    def reset(self, *, whole: bool) -> None:
        """Know nothing, or (``whole``) that there is nothing."""
        self._blocks, self._copies = set(), {}
        self._runs.clear()
        self._tails.clear()
        self._run_blocks = 0
        self._answers.clear()
        self._answer_blocks = 0
        self.untracked = 0
        self.whole = whole

    def claim(self, run: Run, prompt: int, length: int) -> tuple[int, ...]:
        """A request was found to have added a run, or its beginning: what follows is another's.

        Args:
            run: one of ``runs``.
            prompt: how many of its blocks are the prompt's.
            length: how many are the request's.

        Returns:
            The blocks of the earlier answer that the run continues, if it does: they are prompt now.
        """
        at = self._runs.index(run)
        self._let_go(run)
        rest = run.rest(length)
        if rest is None:
            del self._runs[at]
        else:
            self._runs[at] = rest
            self._tails[rest.hashes[-1]] = rest
            self._run_blocks += len(rest.hashes)
        answer = tuple(run.hashes[prompt:length])
        if answer:
            self._answer_blocks += len(answer) - len(self._answers.pop(answer[-1], ()))
            self._answers[answer[-1]] = answer
            while self._answer_blocks > self.run_limit:
                self._answer_blocks -= len(self._answers.popitem(last=False)[1])
        return () if run.parent is None else self._answers.get(run.parent, ())

    def _extend(self, event: Stored, now: float) -> None:
        run = self._tails.get(event.parent) if event.parent is not None else None
        if run is None or now - run.times[-1] > IDLE_SECONDS or run.block_size != event.block_size:
            run = Run(event.parent, event.block_size)
            self._runs.append(run)
        else:
            del self._tails[run.hashes[-1]]
        run.extend(event.hashes, now)
        self._tails[run.hashes[-1]] = run
        self._run_blocks += len(event.hashes)
        while len(self._runs) > MAX_RUNS or (self._run_blocks > self.run_limit and self._runs):
            self._let_go(self._runs.popleft())

    def _let_go(self, run: Run) -> None:
        self._run_blocks -= len(run.hashes)
        if self._tails.get(run.hashes[-1]) is run:
            del self._tails[run.hashes[-1]]
