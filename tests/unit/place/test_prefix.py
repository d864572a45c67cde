import random
from itertools import pairwise

import pytest

from ralb_extproc.place import PrefixIndex, hash_blocks
from ralb_extproc.place.prefix import _BOUNDS, MAX_BLOCKS, MAX_BYTES


def text(seed, size):
    return random.Random(seed).randbytes(size)


def hits(index, data, count, tokens=None, seed=0):
    prefix = hash_blocks(data, seed)
    got = index.hits(prefix, tuple(range(count)), tokens if tokens is not None else len(data))
    return [0.0] * count if got is None else got.tolist()


def test_blocks_grow_by_at_most_a_64th():
    assert _BOUNDS[0] == 0
    assert _BOUNDS[-1] >= MAX_BYTES
    for start, end in pairwise(_BOUNDS):
        assert end - start <= max(256, start / 64)
    assert MAX_BLOCKS < 1000


def test_equal_prefix_equal_hashes_and_different_after():
    a = hash_blocks(text(1, 5000) + b"a" * 5000)
    b = hash_blocks(text(1, 5000) + b"b" * 5000)
    same = [x == y for x, y in zip(a.hashes, b.hashes, strict=True)]
    assert same == sorted(same, reverse=True)
    assert sum(same) == 5000 // 256


def test_chain_same_block_elsewhere_is_another_hash():
    prefix = hash_blocks(b"x" * 4096)
    assert len(set(prefix.hashes)) == len(prefix.hashes)


def test_seed_sets_apart():
    assert set(hash_blocks(b"x" * 4096, 1).hashes).isdisjoint(hash_blocks(b"x" * 4096, 2).hashes)


def test_short_and_huge_prompts():
    assert hash_blocks(b"x" * 255).hashes == ()
    assert len(hash_blocks(b"x" * (MAX_BYTES * 2)).hashes) == MAX_BLOCKS


def test_hits_in_tokens():
    index = PrefixIndex()
    index.record(hash_blocks(text(1, 2560)), 0)
    index.record(hash_blocks(text(1, 5120)[:5120]), 3)
    got = hits(index, text(1, 5120), 8, tokens=1280)
    # random bytes of one seed share their beginning
    assert got[0] == pytest.approx(640)
    assert got[3] == pytest.approx(1280)
    assert [got[i] for i in (1, 2, 4, 5, 6, 7)] == [0] * 6


def test_nothing_known_is_none():
    index = PrefixIndex()
    index.record(hash_blocks(b"a" * 1000), 0)
    assert index.hits(hash_blocks(b"b" * 1000), (0,), 100) is None
    assert index.hits(hash_blocks(b""), (0,), 100) is None


def test_many_pods_with_a_shared_head_against_a_plain_model():
    rng = random.Random(5)
    index = PrefixIndex()
    head = text("head", 2048)
    stored = {}
    for slot in range(0, 300, 2):
        depth = rng.randrange(0, 9)
        data = head[: depth * 256] + text(slot, 2048)
        index.record(hash_blocks(data), slot)
        stored[slot] = depth
    got = hits(index, head, 300)
    assert got == [float(stored.get(slot, 0) * 256) for slot in range(300)]
    array = index.hits(hash_blocks(head), (4, 2, 0), len(head))
    assert array.tolist() == [float(stored[s] * 256) for s in (4, 2, 0)]


def test_forget_and_reuse_of_a_slot():
    index = PrefixIndex()
    data = text(1, 4096)
    index.record(hash_blocks(data), 0)
    index.record(hash_blocks(data), 1)
    index.forget(0)
    assert hits(index, data, 2) == [0, 4096]
    index.record(hash_blocks(text(2, 4096)), 0)
    assert hits(index, data, 2) == [0, 4096]


def test_bits_of_forgotten_slots_come_back_clean():
    index = PrefixIndex(entries=64)
    old = text("old", 2048)
    for round_ in range(200):
        index.record(hash_blocks(old), 0)
        index.forget(0)
        index.record(hash_blocks(text(round_, 4096)), 1)
        fresh = hits(index, old, 2)
        assert fresh[0] == 0
        index.record(hash_blocks(text(-round_ - 1, 1024)), 0)
        assert hits(index, old, 2)[0] == 0
    assert index._bits < 100


def test_bounded_and_recent_survive():
    index = PrefixIndex(entries=1000)
    keep = hash_blocks(text("keep", 4096))
    index.record(keep, 1)
    for i in range(2000):
        index.record(hash_blocks(text(i, 2048)), 0)
        index.record(keep, 1)
        assert len(index) <= 1000
    assert index.hits(keep, (1,), 100)[0] > 99
    assert index.hits(hash_blocks(text(0, 2048)), (0,), 100) is None


def test_a_pod_that_fills_the_index_does_not_push_out_the_others():
    index = PrefixIndex(entries=100)
    keep = hash_blocks(text("keep", 8192))
    for slot in range(1, 4):
        index.record(keep, slot)
    for i in range(100):
        index.record(hash_blocks(text(i, 4096)), 0)
    assert hits(index, text("keep", 8192), 4)[1:] == [25 * 256] * 3  # 25 of 32 blocks, a quarter of the room each
    assert len(index) == 100


def test_what_a_cache_must_have_evicted_is_forgotten_the_end_first():
    index = PrefixIndex()
    index.hold_at_most(0, 3072)  # tokens: three prompts
    first = hash_blocks(text("first", 4096))
    index.record(first, 0)
    index.record(first, 1)
    for i in range(2):
        index.record(hash_blocks(text(i, 4096)), 0)
    assert hits(index, text("first", 4096), 2, 1024) == [1024, 1024]
    index.record(hash_blocks(text(0, 4096)), 0)  # the same again takes no room
    assert hits(index, text("first", 4096), 2, 1024) == [1024, 1024]
    index.record(hash_blocks(text(2, 2048)), 0)
    assert hits(index, text("first", 4096), 2, 1024) == [512, 1024]
    index.record(hash_blocks(text(3, 2048)), 0)
    assert hits(index, text("first", 4096), 2, 1024) == [0, 1024]


def test_a_smaller_cache_is_taken_note_of_at_once():
    index = PrefixIndex()
    index.record(hash_blocks(text("first", 4096)), 0)
    index.hold_at_most(0, 512)
    assert hits(index, text("first", 4096), 1, 1024) == [512]


def test_tokens_of_a_prompt_count_not_its_bytes():
    index = PrefixIndex()
    index.hold_at_most(0, 1024)
    index.record(hash_blocks(text("dense", 4096)), 0, 4096)  # a token per byte
    assert hits(index, text("dense", 4096), 1, 4096) == [1024]


def test_what_a_pod_says_it_evicted_ends_its_hits_there():
    index = PrefixIndex()
    prompt = hash_blocks(text("p", 2048))
    for slot in (0, 1):
        index.record(prompt, slot)
    index.evict(0, prompt.hashes[4:6])
    assert hits(index, text("p", 2048), 3) == [1024, 2048, 0]
    index.evict(2, prompt.hashes)  # a pod never heard of
    index.record(prompt, 0)
    assert hits(index, text("p", 2048), 3) == [2048, 2048, 0]


def test_what_a_pod_says_it_holds_is_expected_and_bounded():
    index = PrefixIndex(entries=100)
    prompt = hash_blocks(text("p", 2048))
    index.hold(3, prompt.hashes[:4])
    assert hits(index, text("p", 2048), 5) == [0, 0, 0, 1024, 0]
    for i in range(1000):
        index.hold(3, hash_blocks(text(i, 2048)).hashes)
        assert len(index) <= 100
    assert hits(index, text("p", 2048), 5) == [0] * 5


def test_churn_without_traffic_stays_bounded():
    index = PrefixIndex()
    prefix = hash_blocks(b"z" * 256)
    for _ in range(10_000):
        index.record(prefix, 0)
        index.forget(0)
    assert index._bits == 1
    assert not index._holders


def test_needs_room():
    with pytest.raises(ValueError, match="at least one"):
        PrefixIndex(0)
