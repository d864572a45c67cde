"""What holds for every strategy, whatever the pods are like and whoever asks."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support_strategies import POOL, OnePool, number_of

from ralb_api.objects import Strategy
from ralb_extproc.place import Ask, hash_blocks
from ralb_extproc.place.strategies.heavy import HeavyKeys
from ralb_extproc.place.strategies.loads import over
from ralb_extproc.place.strategies.maglev import table
from ralb_extproc.place.strategies.ring_hash import ring

names = st.sampled_from([each.name for each in Strategy])
asks = st.builds(
    Ask,
    input_tokens=st.integers(0, 200_000),
    output_tokens=st.integers(0, 10_000),
    prefix=st.sampled_from([hash_blocks(bytes([n]) * 300 * n) for n in range(6)]),
    session=st.sampled_from(["", "a", "b", "\udcff"]),
)
readings = st.tuples(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1))
steps = st.lists(
    st.tuples(st.sampled_from(["send", "answer", "say", "break", "pods", "wait"]), st.integers(0, 8), asks, readings),
    max_size=40,
)


@settings(deadline=None)
@given(names, st.integers(1, 9), st.integers(0, 3), steps)
def test_orders_are_permutations_and_costs_are_sound(name, count, cap, story):
    pool = OnePool(name, count, cap=cap)
    for step, number, ask, (waiting, running, kv) in story:
        number %= count
        if step == "send":
            pool.send(ask)
        elif step == "answer" and any(pool.open.values()):
            place = next(where for where, open_ in pool.open.items() if open_)
            if number_of(place) < count:
                pool.answer(number_of(place), seconds=kv, tokens=int(running))
        elif step == "say":
            pool.say(number, waiting, running, kv, kv_capacity=running)
        elif step == "break":
            pool.breaks(number)
        elif step == "pods":
            count = 1 + (count + number) % 9
            pool.open.clear()
            pool.have(range(count))
        elif step == "wait":
            pool.now += 10.0**number
        view = pool.table.view(POOL)
        scene = pool.table.scene(view, ask, pool.now, pool.dice)
        before = [scene.steady.factor.copy(), pool.table.data.copy()]
        costs = pool.strategy.costs(scene)
        assert costs.shape == (count,)
        assert np.isfinite(costs).all()
        assert (costs >= 0.0).all()
        assert (before[0] == scene.steady.factor).all()
        np.testing.assert_array_equal(before[1], pool.table.data)
        order = pool.order(ask, want=count)
        assert sorted(map(number_of, order.addresses)) == list(range(count))


@settings(deadline=None)
@given(names, st.integers(2, 6), st.integers(0, 5), asks)
def test_a_failed_pod_is_never_first(name, count, number, ask):
    pool = OnePool(name, count)
    for _ in range(5):
        pool.send(ask)
    pool.breaks(number % count)
    assert pool.first(ask) != number % count


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(1, 10))
def test_somebody_is_below_the_bound(requests, bound):
    loads = np.array(requests)
    full = over(loads, bound)
    assert not full.all()
    most = math.ceil(bound * (loads.sum() + 1) / len(loads))
    assert (loads[~full] < most).all()


@settings(deadline=None)
@given(st.sampled_from(["RING_HASH", "MAGLEV"]), st.integers(2, 12), st.integers(100, 300), st.data())
def test_bounded_load_holds_for_any_keys(name, count, percent, data):
    pool = OnePool(name, count, bounded_load_percent=percent)
    for key in data.draw(st.lists(st.integers(0, 5), max_size=60)):
        number = pool.send(Ask(10, session=str(key)))
        counts = {where: len(open_) for where, open_ in pool.open.items()}
        total = sum(counts.values())
        assert counts[f"10.0.0.{number}:80"] <= math.ceil(percent / 100 * total / count)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_a_pod_that_leaves_moves_little(count, seed):
    addresses = tuple(sorted(f"10.{seed % 250}.{seed // 250}.{number}:80" for number in range(count)))
    left = addresses[:-1]
    before, after = table(addresses)[:-256], table(left)[:-256]
    if len(before) == len(after):
        kept = before != count - 1
        # Maglev moves a few more than it must.
        assert (before[kept] != after[kept]).mean() < 0.25
    points, owners = ring(addresses)
    fewer, heirs = ring(left)
    keys = np.linspace(0, 2**64 - 2**20, 500).astype(np.uint64)
    was = owners[points.searchsorted(keys) % len(points)]
    now = heirs[fewer.searchsorted(keys) % len(fewer)]
    moved = was != now
    assert (was[moved] == count - 1).all()


@given(st.lists(st.integers(0, 40), min_size=64, max_size=400), st.sampled_from([0.05, 0.25, 1.0]))
def test_heavy_keys_are_never_made_up_and_rarely_missed(keys, share):
    sketch = HeavyKeys(share)
    for key in keys:
        sketch.count(key, 1.0)
    for key in range(41):
        truth = keys.count(key) / len(keys)
        pods, turn = sketch.spread(key, 1.0)
        assert 0 <= turn < pods
        assert pods <= max(1, math.ceil(truth / share - 1e-9))
        if truth > 1.25 * share + 1 / len(keys):
            assert pods > 1
