"""The bench of decisions measures what it says: prompts with hits, and an index that is full."""

import random

from decision import chat, index_bytes, measure, times

from ralb_extproc.place import prefix_of


def test_conversations_come_again():
    cell = measure(pods=2, kb=1, requests=200, rate=500.0, busy=4)
    assert cell.with_hits > 0.7
    assert 0.0 < cell.place.least <= cell.place.p50 <= cell.place.p90
    assert cell.all.least > cell.place.least


def test_bodies_are_of_the_size_asked_for():
    for size in (1_000, 50_000):
        assert 0.7 * size < prefix_of(chat(random.Random(3), size)).size < 1.3 * size


def test_bytes_of_a_pair_are_within_what_is_documented():
    alone, together = index_bytes(8, 1, pairs=16_384), index_bytes(8, 8, pairs=16_384)
    assert 125 <= together < alone <= 340


def test_seconds_become_microseconds():
    found = times([1e-6, 2e-6, 3e-6])
    assert (round(found.least), round(found.p50)) == (1, 2)
