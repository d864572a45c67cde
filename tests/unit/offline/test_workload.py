"""From rows to requests: what is left out, who waits for whom, which blocks an answer makes, copies for large fleets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ralb_sim.offline.trace import Row, Trace
from ralb_sim.offline.workload import jobs_of

SIZE = 10


def trace(*rows: Row, size: int = SIZE) -> Trace:
    return Trace("t", rows, size)


def talk(session: str, first: int, at: float = 0.0, turns: int = 3, system: tuple[int, ...] = ()) -> list[Row]:
    """Turns of 20 tokens each way; blocks are numbered from ``first``, after those of a system prompt."""
    known = len(system) * SIZE
    return [
        Row(at + n, session, known + 40 * n + 20, 20, (*system, *range(first, first + 4 * n + 2))) for n in range(turns)
    ]


def test_rows_that_fit_nowhere_are_left_out() -> None:
    rows = (Row(0.0, "", 50, 50), Row(1.0, "", 50, 51), Row(2.0, "", 1, 1))
    assert [job.t for job in jobs_of(trace(*rows), 0, 1, longest=100)] == [0.0, 2.0]
    assert [job.t for job in jobs_of(trace(*rows[1:]), 0, 1, longest=100)] == [0.0]
    with pytest.raises(ValueError, match="t: no request fits into 1 tokens"):
        jobs_of(trace(*rows), 0, 1, longest=1)


def test_as_many_as_asked_for() -> None:
    rows = tuple(Row(float(n), "", 10, 1) for n in range(10))
    assert [len(jobs_of(trace(*rows), count, 8)) for count in (0, 4, 20)] == [10, 4, 10]
    assert len(jobs_of(trace(*rows), 0, 64)) == 10  # requests without sessions are not copied


def test_turns_wait_for_their_predecessor_and_for_nobody_else() -> None:
    rows = sorted(
        talk("a", 0) + talk("b", 100, 0.5) + [Row(0.7, "", 10, 1), Row(0.8, "", 10, 1)], key=lambda row: row.t
    )
    jobs = jobs_of(trace(*rows), 0, 8)
    sessions = [job.session for job in jobs]
    assert sessions == ["a", "b", "", "", "a", "b", "a", "b"]
    assert [job.before for job in jobs] == [-1, -1, -1, -1, 0, 1, 4, 5]


def test_an_answers_blocks_are_those_of_the_next_prompt() -> None:
    jobs = jobs_of(trace(*talk("a", 0)), 0, 8)
    assert [(job.blocks, job.tail) for job in jobs] == [
        ((0, 1), (2, 3)),
        ((0, 1, 2, 3, 4, 5), (6, 7)),
        (tuple(range(10)), ()),
    ]


def test_an_answer_that_is_not_sent_back_leaves_nothing() -> None:
    thought = Row(0.0, "a", 20, 20, (0, 1), reasoning=5)
    changed = Row(0.0, "a", 20, 20, (7, 8))
    unknown = Row(0.0, "", 20, 20, (0, 1))
    for row in (thought, changed, unknown):
        assert jobs_of(trace(row, *talk("a", 0, 1.0)), 0, 8)[0].tail == ()
    short = Row(0.0, "a", 20, 9, (0, 1))
    assert jobs_of(trace(short, *talk("a", 0, 1.0)[1:]), 0, 8)[0].tail == ()
    assert jobs_of(trace(Row(0.0, "a", 20, 20), Row(1.0, "a", 60, 20), size=0), 0, 8)[0].tail == ()


def test_a_large_fleet_gets_copies_of_the_sessions() -> None:
    rows = sorted(talk("a", 100, 0.0, system=(1, 2)) + talk("b", 200, 3.0, system=(1, 2)), key=lambda row: row.t)
    assert len(jobs_of(trace(*rows), 0, 8)) == 6
    jobs = jobs_of(trace(*rows), 0, 9)
    assert len(jobs) == 12
    assert [job.t for job in jobs] == sorted(job.t for job in jobs)
    assert jobs[0].t == 0.0
    private: dict[str, set[int]] = {}
    for job in jobs:
        assert job.blocks[:2] == (1, 2)  # the system prompt is everybody's
        private.setdefault(job.session.removesuffix("b"), set()).update(job.blocks[2:], job.tail)
    assert private.keys() == {"a#0", "a#1", "b#0", "b#1"}
    assert sum(map(len, private.values())) == len(set().union(*private.values()))
    assert all(len(own) == 10 for own in private.values())


def test_a_copy_begins_at_another_place() -> None:
    rows = [row for n in range(10) for row in talk(f"s{n}", 100 * n, float(n), turns=1)]
    jobs = jobs_of(trace(*rows), 0, 16)
    copies = {copy: [job.session for job in jobs if job.session.split("#")[1].startswith(copy)] for copy in "01"}
    assert copies["0"] == [f"s{n}#0" for n in range(10)]
    assert copies["1"] == [f"s{n}#1" for n in range(5, 10)] + [f"s{n}#1b" for n in range(5)]


def test_what_shares_blocks_in_copies() -> None:
    """A sub-agent shares with its session alone; requests without a session share as strangers do."""
    agent = [Row(0.0, "a", 20, 1, (1, 2)), Row(1.0, "a/a1", 20, 1, (1, 3))]
    lone = [Row(2.0, "", 20, 1, (10, 11)), Row(3.0, "", 20, 1, (10, 12))]
    negative = [Row(4.0, "n", 30, 1, (-5, -1, -7))]
    jobs = jobs_of(trace(*agent, *lone, *negative), 0, 24)
    users: dict[int, set[str]] = {}
    for job in jobs:
        for block in job.blocks:
            users.setdefault(block, set()).add(
                job.session.partition("#")[2].removesuffix("b") if job.session else "lone"
            )
    assert users[10] == {"lone"}
    assert len([block for block in users if users[block] == {"lone"}]) == 1 + 2 * 3
    assert len([block for block in users if users[block] != {"lone"}]) == 6 * 3
    assert all(len(copies) == 1 for copies in users.values())


rows_of_any_kind = st.builds(
    Row,
    st.floats(0, 100),
    st.sampled_from(["", "a", "b", "a/a1", "c"]),
    st.integers(1, 60),
    st.integers(1, 60),
    st.lists(st.integers(-3, 9), max_size=6).map(tuple),
    st.sampled_from([0, 0, 1]),
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(rows_of_any_kind, min_size=1, max_size=25),
    st.integers(0, 40),
    st.integers(1, 30),
    st.sampled_from([0, SIZE]),
)
def test_whatever_the_rows(rows: list[Row], requests: int, pods: int, size: int) -> None:
    jobs = jobs_of(trace(*sorted(rows, key=lambda row: row.t), size=size), requests, pods)
    copies = -(-pods // 8) if any(row.session for row in rows) else 1
    assert len(jobs) == min(requests or len(rows) * copies, len(rows) * copies)
    assert [job.t for job in jobs] == sorted(job.t for job in jobs)
    assert jobs[0].t == 0.0
    for index, job in enumerate(jobs):
        assert -1 <= job.before < index
        if job.before >= 0:
            assert jobs[job.before].session == job.session != ""
            assert not any(other.session == job.session for other in jobs[job.before + 1 : index])
    assert len({job.before for job in jobs if job.before >= 0}) == sum(job.before >= 0 for job in jobs)
