"""Prompts share exactly what the rows' blocks share, and answers are as long as the row says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import body, chat, piece, text

from ralb_sim import tokens
from ralb_sim.offline.trace import Row, Trace
from ralb_sim.offline.workload import Job
from ralb_sim.server.chat_parse import read_chat

BLOCK = 64  # four of the pods' own
FRAME = 4


def job(blocks, more):
    return Job(0.0, len(blocks) * BLOCK + more, 20, blocks, (), "", -1)


def prompt(one, number, salt="a"):
    """The tokens a pod reads."""
    asked = read_chat(json.loads(body(one, number, BLOCK, salt, "m")), reasons=False)
    assert asked.stream
    assert asked.min_tokens == one.output
    assert asked.max_tokens is None, "a placement could see it"
    return asked.prompts[0]


def common(one, other):
    """How many elements are equal from the start."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def shared(one, other):
    """Tokens that a pod's cache would find of one prompt after the other."""
    return 16 * common(*(tokens.chain_hashes(sequence, 16) for sequence in (one, other)))


trees = st.lists(st.integers(0, 1), max_size=5)


@given(trees, trees, st.integers(FRAME, BLOCK - 1), st.integers(FRAME, BLOCK - 1))
def test_what_is_shared_is_what_the_blocks_say(one, other, more, less):
    # Chained: an id stands for the whole way to it.
    ids = [[int("1" + "".join(map(str, way[: at + 1])), 2) for at in range(len(way))] for way in (one, other)]
    first, second = prompt(job(ids[0], more), 0), prompt(job(ids[1], less), 1)
    assert shared(first, second) == BLOCK * common(*ids)
    assert tokens.count(first) == len(one) * BLOCK + more


def test_another_salt_shares_nothing():
    one = job([1, 2, 3], 10)
    assert shared(prompt(one, 0, "a"), prompt(one, 0, "b")) == 0
    assert shared(prompt(one, 0, "a"), prompt(one, 1, "a")) == 3 * BLOCK


@pytest.mark.parametrize("size", [0, 1, 7, 512])
def test_texts_have_exactly_so_many_tokens(size):
    assert tokens.count(tokens.encode(text("salt", "label", size))) == size


def test_a_chat_asks_for_its_usage():
    assert json.loads(chat("Hello.", 3, "m"))["stream_options"] == {"include_usage": True}


def rows(count, session):
    return tuple(Row(float(at), session(at), 10 + at, 5) for at in range(count))


def test_conversations_come_whole_and_in_order():
    trace = Trace("t", rows(200, lambda at: f"s{at % 20}/a{at % 3}"), 0)
    part = piece(trace, 30, seed=3)
    assert len(part.rows) == 30
    assert [row.t for row in part.rows] == sorted(row.t for row in part.rows)
    assert part.rows[0].t == 0.0
    assert len({row.session.partition("/")[0] for row in part.rows}) == 3
    assert piece(trace, 30, seed=3).rows == part.rows
    assert piece(trace, 30, seed=4).rows != part.rows


def test_without_sessions_those_that_begin_alike_are_one():
    trace = Trace("t", tuple(Row(float(at), "", 128, 5, (at % 10, 100 + at)) for at in range(100)), BLOCK)
    assert len({row.blocks[0] for row in piece(trace, 20, seed=1).rows}) == 2


def test_all_of_a_short_trace():
    assert len(piece(Trace("t", rows(5, lambda _: ""), 0), 100, seed=1).rows) == 5
