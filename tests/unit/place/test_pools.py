from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ralb_extproc.place import Dice, PodSample, columns
from ralb_extproc.place.flow import Flow, count_read, count_served, flow
from ralb_extproc.place.load import steady
from ralb_extproc.place.pools import Peer, effective, leading, order


def seen(pods=1, speed=0.0, room=0.0, cap=0, excess=0.0, much=1e6):
    """A pool that was measured for long, or never where a number is 0."""
    return Flow(0.0, pods, speed * much, much if speed else 0.0, room * much, much if room else 0.0, cap, excess)


def firsts(peers, rounds=4000, **how):
    dice = Dice(3)
    count = Counter(order(peers, dice, **{"dynamic": False, "by_price": False, **how})[0] for _ in range(rounds))
    return [count[i] / rounds for i in range(len(peers))]


class TestEffectiveWeights:
    def test_pods_count_where_nothing_is_known(self):
        assert effective([Peer(1, flow=seen(2)), Peer(1, flow=seen(6))]) == [2.0, 6.0]

    def test_times_the_weight_and_zero_stays(self):
        assert effective([Peer(3, flow=seen()), Peer(1, flow=seen()), Peer(0, flow=seen())]) == [3.0, 1.0, 0.0]

    def test_measured_drain(self):
        fast, slow = Peer(1, flow=seen(2, 40, 8)), Peer(1, flow=seen(4, 10, 16))
        a, b = effective([fast, slow])
        assert a / b == pytest.approx((2 * 40 * 8) / (4 * 10 * 16), rel=0.01)

    def test_an_unmeasured_pool_counts_as_its_peers(self):
        a, b = effective([Peer(1, flow=seen(2, 40, 8)), Peer(1, flow=seen(3))])
        assert a / b == pytest.approx(2 / 3, rel=0.01)

    def test_little_evidence_moves_little(self):
        a, b = effective([Peer(1, flow=seen(1, 40, much=1.0)), Peer(1, flow=seen(1, 10))])
        assert 1.0 < a / b < 1.3

    def test_no_measurement_moves_a_share_without_bound(self):
        a, b, c = effective([Peer(1, flow=seen(1, 1e9)), Peer(1, flow=seen(1, 10)), Peer(1, flow=seen(1, 10))])
        assert a / b <= 400.0
        assert b == c > 0.0

    def test_pods_that_are_not_seen_count_as_many_as_their_peers_have(self):
        assert effective([Peer(1), Peer(1, flow=seen(4)), Peer(1, flow=seen(2))]) == [3.0, 4.0, 2.0]
        assert effective([Peer(2), Peer(1)]) == [2.0, 1.0]

    def test_a_queue_counts_by_the_time_it_takes(self):
        fast, slow = seen(1, 40, 8), seen(1, 10, 8)
        a, b = effective([Peer(1, 8.0, fast), Peer(1, 2.0, slow)])
        assert a / b == pytest.approx(4.0, rel=0.01), "both queues take equally long"
        a, b = effective([Peer(1, 2.0, fast), Peer(1, 2.0, slow)])
        assert a / b > 8.0

    def test_a_cap_is_all_the_room_there_is(self):
        a, b = effective([Peer(1, flow=seen(1, 10, 32, cap=8)), Peer(1, flow=seen(1, 10, 32))])
        assert a / b == pytest.approx(8 / 32, rel=0.02)


class TestOrder:
    def test_static_shares_are_exact_whatever_the_flow(self):
        peers = [Peer(6, 9.0, seen(1, 1, 1)), Peer(3, 0.0, seen(9, 99, 99)), Peer(1)]
        assert firsts(peers, 20_000) == pytest.approx([0.6, 0.3, 0.1], abs=0.012)

    def test_everyone_is_there_once_and_weight_zero_last(self):
        dice = Dice(1)
        for _ in range(100):
            got = order([Peer(0), Peer(2), Peer(1)], dice, dynamic=True, by_price=False)
            assert sorted(got) == [0, 1, 2]
            assert got[-1] == 0

    def test_all_zero_is_all_equal(self):
        assert firsts([Peer(0), Peer(0)]) == pytest.approx([0.5, 0.5], abs=0.03)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9)), min_size=2, max_size=5))
    def test_shares_are_the_effective_weights(self, spec):
        peers = [Peer(weight, flow=seen(pods)) for weight, pods in spec]
        total = sum(weight * pods for weight, pods in spec)
        due = [weight * pods / total for weight, pods in spec]
        assert firsts(peers, 3000, dynamic=True) == pytest.approx(due, abs=0.05)


class TestPrice:
    def test_the_cheapest_first_then_the_next(self):
        peers = [Peer(1, price=3.0), Peer(100, price=9.0), Peer(1, price=1.0)]
        assert order(peers, Dice(1), dynamic=False, by_price=True) == [2, 0, 1]

    def test_near_equals_share_by_weight(self):
        peers = [Peer(3, price=1.04), Peer(1, price=1.0), Peer(9, price=1.2)]
        assert firsts(peers, by_price=True) == pytest.approx([0.75, 0.25, 0.0], abs=0.03)

    def test_only_the_excess_goes_to_the_dearer(self):
        peers = [Peer(1, price=1.0, flow=seen(excess=0.3)), Peer(1, price=2.0, flow=seen())]
        assert firsts(peers, by_price=True) == pytest.approx([0.7, 0.3], abs=0.03)

    def test_where_all_are_saturated_weights_decide(self):
        peers = [Peer(1, price=1.0, flow=seen(excess=1.0)), Peer(3, price=2.0, flow=seen(excess=1.0))]
        assert firsts(peers, by_price=True) == pytest.approx([0.25, 0.75], abs=0.03)

    def test_free_pools_share_and_come_before_others(self):
        assert firsts([Peer(1), Peer(1), Peer(1, price=0.1)], by_price=True) == pytest.approx([0.5, 0.5, 0.0], abs=0.03)

    def test_failover_only_stays_last_however_cheap(self):
        assert order([Peer(0, price=0.1), Peer(1, price=1.0)], Dice(1), dynamic=False, by_price=True) == [1, 0]


class TestLeading:
    def test_without_excess_the_first_with_pools(self):
        assert leading([[], [0.0, 1.0], [0.0]], Dice(1)) == 1
        assert leading([[], []], Dice(1)) == -1

    def test_excess_passes_by_the_saturated(self):
        dice = Dice(1)
        got = Counter(leading([[0.4, 0.9], [1.0], [0.0]], dice) for _ in range(4000))
        assert got.keys() == {0, 2}
        assert got[2] / 4000 == pytest.approx(0.4, abs=0.03)

    def test_nobody_else_has_room(self):
        assert {leading([[1.0], [0.2], []], Dice(seed)) for seed in range(50)} == {0}


def pod(*readings, every=0.2, start=100.0):
    """A pod's columns after so many readings: (waiting, running, answer tokens so far)."""
    data = columns.empty(1)
    for i, (waiting, running, tokens) in enumerate(readings):
        at = start + i * every
        count_read(columns.cells(data), 0, PodSample(at, waiting, running, 0.1, generation_tokens=tokens))
        data[[columns.WAITING, columns.RUNNING, columns.SCRAPED_AT], 0] = waiting, running, at
    return data


def flow_of(data, now, before=None, cap=0, share=1.0):
    return flow(data, steady(data, cap, now), np.full(data.shape[1], share), now, before)


class TestFlow:
    def test_speed_and_room(self):
        got = flow_of(pod(*((9, 8, 80 * i) for i in range(50))), 109.8)
        assert got.work / got.busy == pytest.approx(80 / 0.2 / 8)
        assert got.filled / got.full == pytest.approx(8.0)

    def test_room_is_not_told_without_a_queue(self):
        got = flow_of(pod(*((1, 8, 80 * i) for i in range(50))), 109.8)
        assert got.full == 0.0 < got.busy

    def test_a_restart_and_a_gap_say_nothing(self):
        assert flow_of(pod((0, 4, 5000), (0, 4, 10)), 100.2).work == 0.0
        assert flow_of(pod((0, 4, 0), (0, 4, 9999), every=60.0), 160.0).work == 0.0

    def test_pods_count_by_their_health(self):
        data = columns.empty(3)
        assert flow_of(data, 100.0, share=0.5).pods == 1.5
        data[[columns.FAILURES, columns.PROBE_AT], 0] = 1.0, 200.0
        assert flow_of(data, 100.0, share=0.5).pods == 1.0
        assert flow_of(data, 300.0).pods == 3.0

    def test_it_is_forgotten(self):
        data = pod(*((9, 8, 80 * i) for i in range(50)))
        assert flow_of(data, 109.8 + 120.0).busy == pytest.approx(flow_of(data, 109.8).busy / 2, rel=0.01)

    def test_answers_count_only_for_pods_that_do_not(self):
        data = columns.empty(1)
        count_served(columns.cells(data), 0, 50.0, 2.0, 100.0)
        assert flow_of(data, 100.0).work / flow_of(data, 100.0).busy == pytest.approx(25.0)
        counted = pod((0, 1, 0), (0, 1, 10))
        count_served(columns.cells(counted), 0, 1e6, 1.0, 100.3)
        assert flow_of(counted, 100.3).work < 11.0

    def test_saturated_between_the_bounds_only_if_it_was(self):
        queued, short = pod((6, 8, 0)), pod((1, 8, 0))
        calm = flow_of(short, 100.0)
        full = flow_of(queued, 100.0, calm)
        assert (calm.excess, full.excess) == (0.0, 1.0)
        assert 0.0 < flow_of(short, 100.0, full).excess < 0.5
        assert flow_of(pod((0, 8, 0)), 100.0, full).excess == 0.0

    def test_a_full_cache_makes_a_queue_count_for_more(self):
        data = pod((3, 16, 0))
        calm = flow_of(data, 100.0)
        data[columns.KV_USAGE] = 1.0
        assert calm.excess == 0.0 < flow_of(data, 100.0).excess

    def test_an_old_reading_does_not_saturate(self):
        assert flow_of(pod((50, 8, 0)), 130.0).excess == 0.0

    def test_what_was_sent_since_the_reading_queues_too(self):
        data = pod((1, 8, 0))
        data[columns.SINCE] = 5.0
        assert flow_of(data, 100.0).excess > 0.0
        assert flow_of(pod((0, 8, 0)), 100.0).excess == 0.0

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(*[st.floats(0, 1e6)] * 3), min_size=1, max_size=20), st.floats(0, 1e5))
    def test_always_finite(self, readings, later):
        got = flow_of(pod(*readings), 100.0 + later)
        numbers = [got.work, got.busy, got.filled, got.full]
        assert np.isfinite(numbers).all()
        assert min(numbers) >= 0.0
        assert 0.0 <= got.excess <= 1.0
        assert np.isfinite(effective([Peer(1, 1.0, got), Peer(2, 0.0, seen(2))])).all()
