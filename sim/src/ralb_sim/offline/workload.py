"""From a trace to the requests of a run: how many, how fast, by how many clients.

A rate other than the trace's own is reached by scaling time. Where requests come in sessions, that alone would only make the
same few clients faster, so a fleet of more than 8 pods is given copies of the trace, one per 8 pods: their own sessions and
private blocks, each begun at another place. Blocks that several sessions share (a common system prompt) stay shared; sub-agents,
``session/a1``, count as their session here.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ralb_sim.offline.trace import Row, Trace

_PODS_PER_COPY: Final = 8


@dataclass(frozen=True, slots=True)
class Job:
    """A request to be sent.

    Attributes:
        t: seconds on the trace's own clock, from 0.
        input / output: tokens.
        blocks: ids of the full prompt blocks.
        tail: ids its answer will have in the conversation's next prompt.
        session: "" = none.
        before: index of the job that must be answered first; -1 = none.
    """

    t: float
    input: int
    output: int
    blocks: Sequence[int]
    tail: Sequence[int]
    session: str
    before: int


def jobs_of(trace: Trace, requests: int, pods: int, longest: int = sys.maxsize) -> list[Job]:
    """The requests of a run, in order of time.

    Args:
        trace: where they come from.
        requests: how many; 0 = all there are.
        pods: for a fleet of so many.
        longest: rows with more tokens, prompt and answer together, are left out.

    Raises:
        ValueError: nothing is left.
    """
    rows: list[Row] = [row for row in trace.rows if row.input + row.output <= longest]
    if not rows:
        raise ValueError(f"{trace.name}: no request fits into {longest} tokens; choose a profile with more memory")
    if any(row.session for row in rows):
        copies = max(1, -(-pods // _PODS_PER_COPY))
        rows = _copies(rows, copies)
    rows = rows[:requests] if requests else rows
    start = rows[0].t
    tails = _tails(rows, trace.block_tokens)
    last: dict[str, int] = {}
    jobs: list[Job] = []
    for index, row in enumerate(rows):
        before = last.get(row.session, -1) if row.session else -1
        if row.session:
            last[row.session] = index
        jobs.append(Job(row.t - start, row.input, row.output, row.blocks, tails[index], row.session, before))
    return jobs


def _tails(rows: list[Row], block_tokens: int) -> list[Sequence[int]]:
    """For each row the blocks that its answer completes, as the session's next prompt names them; reasoning is not sent back."""
    out: list[Sequence[int]] = [()] * len(rows)
    after: dict[str, Row] = {}
    for index in range(len(rows) - 1, -1, -1):
        row = rows[index]
        if not row.session or not block_tokens:
            continue
        following = after.get(row.session)
        after[row.session] = row
        if following is None or row.reasoning:
            continue
        have = len(row.blocks)
        full = (row.input + row.output) // block_tokens
        if following.blocks[:have] == row.blocks:
            out[index] = following.blocks[have:full]
    return out


def _copies(rows: list[Row], copies: int) -> list[Row]:
    if copies == 1:
        return rows
    users: dict[int, str | int] = {}
    shared: set[int] = set()
    for index, row in enumerate(rows):
        user = row.session.partition("/")[0] if row.session else index
        for block in row.blocks:
            if users.setdefault(block, user) != user:
                shared.add(block)
    span = rows[-1].t - rows[0].t + 1e-3
    width = max(users, default=0) - min(users, default=0) + 1
    out: list[Row] = []
    for copy in range(copies):
        begin = rows[0].t + span * copy / copies
        for row in rows:
            # A session that the copy's beginning cuts in two goes on as two.
            late = row.t < begin
            t = row.t - begin + (span if late else 0.0)
            session = f"{row.session}#{copy}{'b' if late else ''}" if row.session else ""
            blocks = row.blocks
            if copy:
                offset = width * copy
                blocks = tuple(block if block in shared else block + offset for block in blocks)
            out.append(Row(t, session, row.input, row.output, blocks, row.reasoning))
    out.sort(key=lambda row: row.t)
    return out
