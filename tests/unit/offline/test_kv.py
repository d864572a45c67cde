"""The KV cache's books, and what is evicted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ralb_sim.offline.kv import KvCache

SIZE = 10


def cached(*blocks: int, tokens: int = 100) -> KvCache:
    """Blocks computed one after another, and given back."""
    kv = KvCache(tokens, SIZE)
    for block in blocks:
        kv.take(SIZE)
        assert kv.publish(block)
        kv.release([block], 0)
    return kv


def test_idle_blocks_are_found_and_not_counted_as_used() -> None:
    kv = cached(1, 2, 3)
    assert (kv.used, kv.free) == (0, 100)
    assert kv.match([1, 2, 9, 3], 4) == 2
    assert kv.match([1, 2, 3], 2) == 2
    assert kv.match([9, 1], 2) == 0
    kv.pin([1, 2])
    assert (kv.used, kv.idle_among([1, 2, 3])) == (20, 1)
    kv.pin([1])
    kv.release([1, 2], 0)
    assert kv.used == 10
    kv.check()


def test_only_what_must_go_goes_the_longest_unused_first() -> None:
    kv = cached(1, 2, 3, 4)
    kv.pin([1])
    kv.release([1], 0)  # 1 was used last
    kv.take(60)
    assert [kv.match([block], 1) for block in (1, 2, 3, 4)] == [1, 1, 1, 1]
    kv.take(1)  # a block has to go, though a token is all that is asked for
    assert [kv.match([block], 1) for block in (1, 2, 3, 4)] == [1, 0, 1, 1]
    kv.take(20)
    assert [kv.match([block], 1) for block in (1, 2, 3, 4)] == [1, 0, 0, 0]
    assert kv.free == 19
    kv.check()


def test_beginnings_outlive_ends() -> None:
    kv = KvCache(40, SIZE)
    kv.take(40)
    for block in (1, 2, 3, 4):
        kv.publish(block)
    kv.release([1, 2, 3, 4], 0)
    kv.take(20)
    assert kv.match([1, 2, 3, 4], 4) == 2


def test_a_second_copy_stays_private() -> None:
    kv = cached(1)
    kv.take(SIZE)
    assert not kv.publish(1)
    assert kv.used == SIZE
    kv.release([], SIZE)
    assert kv.used == 0
    assert kv.match([1], 1) == 1


def test_referenced_blocks_are_never_evicted() -> None:
    kv = cached(1, 2, 3)
    kv.pin([2])
    kv.take(90)
    assert [kv.match([block], 1) for block in (1, 2, 3)] == [0, 1, 0]
    assert kv.free == 0
    kv.check()


def test_broken_books_are_noticed() -> None:
    kv = cached(1)
    kv.used = -1
    with pytest.raises(AssertionError, match="tokens used"):
        kv.check()


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 9)), max_size=40))
def test_the_books_always_add_up(prompts: list[tuple[int, int, int]]) -> None:
    """Prompts of a family's first blocks and some tokens more come and go; nothing is lost or counted twice."""
    kv, there = KvCache(200, SIZE), []
    for family, depth, more in prompts:
        blocks = [family * 100 + n for n in range(depth)]
        hit = kv.match(blocks, depth)
        missing = depth * SIZE + more - hit * SIZE
        if missing > kv.free - kv.idle_among(blocks[:hit]) * SIZE:
            if there:
                kv.release(*there.pop(0))
            continue
        kv.pin(blocks[:hit])
        kv.take(missing)
        held = blocks[:hit] + [block for block in blocks[hit:] if kv.publish(block)]
        there.append((held, depth * SIZE + more - len(held) * SIZE))
        kv.check()
        assert kv.used == len({block for held, _ in there for block in held}) * SIZE + sum(rest for _, rest in there)
        assert kv.used + len(kv._idle) * SIZE <= kv.tokens
    for held, rest in there:
        kv.release(held, rest)
    kv.check()
    assert kv.used == 0
