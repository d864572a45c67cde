from itertools import pairwise

import numpy as np
import pytest

from ralb_extproc.place import columns as col
from ralb_extproc.place import health
from ralb_extproc.place.health import DEGRADED, FAILED, HEALTHY, Rules, review


class Pool:
    """Pods that are told how requests went, reviewed every second."""

    def __init__(self, count=4, **rules):
        self.state = np.repeat(health.initial()[:, np.newaxis], count, axis=1)
        self.block, self.rules, self.now = col.empty(count), Rules(**rules), 1000.0
        self.slow = np.ones(count)

    def goes(self, pod, good=0, bad=0, seconds=1.0):
        """Served and failed requests of a pod, then time."""
        state = self.state
        state[[health.GOOD, health.STREAK, health.SERVED], pod] += good
        state[health.BAD, pod] += bad
        if bad:
            state[health.STREAK, pod] = 0.0
        return self.passes(seconds)

    def passes(self, seconds=1.0):
        self.now += seconds
        review(self.state, self.block, self.rules, np.log(self.slow), seconds, self.now)
        return self.levels()[0]

    def levels(self):
        return self.state[health.LEVEL].tolist()

    def shares(self):
        return self.state[health.SHARE].tolist()


def test_one_error_of_three_is_nothing():
    assert Pool().goes(0, good=2, bad=1) == HEALTHY


@pytest.mark.parametrize(
    ("good", "bad", "level"),
    [
        (200, 2, HEALTHY),
        (200, 6, DEGRADED),
        (200, 20, FAILED),
        (0, 3, FAILED),
        (10_000, 150, HEALTHY),
        (40, 2, DEGRADED),
    ],
)
def test_levels_by_error_rate(good, bad, level):
    pool = Pool()
    assert pool.goes(0, good, bad, seconds=0.01) == level
    assert pool.shares()[0] == {HEALTHY: 1.0, DEGRADED: health.ERROR_SHARE, FAILED: health.PROBE_SHARE}[level]
    assert pool.shares()[1:] == [1.0] * 3


def test_thresholds_are_the_users():
    pool = Pool(degraded_error=0.2, failed_error=0.5)
    assert pool.goes(0, good=200, bad=20) == HEALTHY


def test_slowness_degrades_by_as_much_as_it_is_slow():
    pool = Pool()
    pool.slow[0] = 1.9
    assert pool.passes() == HEALTHY
    pool.slow[0] = 4.0
    assert pool.passes() == DEGRADED
    assert pool.shares()[0] == pytest.approx(0.25)
    pool.slow[0] = 1.6
    assert pool.passes(1000.0) == DEGRADED, "not before it is below half of what brought it there"


def test_slowness_that_goes_away_gives_back_what_it_took_and_takes_nothing_again():
    pool, shares = Pool(), []
    for factor in (4.0, 3.0, 2.2, 1.8, 1.5, 1.2, 1.0, 1.0, 1.0):
        pool.slow[0] = factor
        pool.goes(0, good=10, seconds=3.0)
        shares.append(pool.shares()[0])
    assert pool.levels()[0] == HEALTHY
    assert shares[0] == pytest.approx(0.25)
    assert shares == sorted(shares)
    assert shares[-1] > 0.6


def test_failed_recovers_by_way_of_degraded_slowly():
    pool = Pool()
    pool.goes(0, good=10, bad=40)
    assert pool.passes(100.0) == FAILED, "time alone does not mend it"
    assert pool.goes(0, good=4) == FAILED
    assert pool.goes(0, good=1) == DEGRADED
    seen, served = [], 0
    while pool.levels()[0] == DEGRADED:
        pool.goes(0, good=2)
        served += 2
    assert 20 <= served <= 200
    for _ in range(8):
        pool.goes(0, good=2)
        for _ in range(2):
            pool.state[health.BASE, 0] = min(1.0, pool.state[health.BASE, 0] * health.GROWTH + 0.01)
        seen.append(pool.shares()[0])
    assert seen == sorted(seen)
    assert seen[0] < 0.5 < 1.0 == seen[-1]


def test_a_relapse_takes_twice_as_long():
    pool, times = Pool(), []
    for _ in range(5):
        pool.goes(0, bad=400)
        begun = pool.now
        while pool.levels()[0] != HEALTHY:
            pool.goes(0, good=20)
        times.append(pool.now - begun)
    assert times[0] < 20
    assert all(1.5 * a <= b for a, b in pairwise(times)), times
    pool.passes(10_000.0)
    pool.goes(0, bad=400)
    assert pool.state[health.HOLD, 0] == health.HOLD_SECONDS, "what is long past is no relapse"


def test_an_error_starts_the_count_anew():
    pool = Pool()
    pool.goes(0, good=0, bad=10)
    pool.passes(100.0)
    for _ in range(10):
        assert pool.goes(0, good=4, bad=0) == FAILED
        pool.goes(0, bad=1)


def test_what_all_do_nobody_is_held_back_for():
    pool = Pool()
    for pod in range(4):
        pool.goes(pod, good=100, bad=30 + pod, seconds=0.01)
    assert pool.levels() == [FAILED] * 4
    assert pool.shares() == [1.0] * 4


@pytest.mark.parametrize(
    ("count", "most", "held"), [(1, 0.5, 0), (2, 0.5, 1), (3, 0.5, 1), (8, 0.5, 4), (8, 0.0, 0), (8, 0.9, 4)]
)
def test_no_more_are_held_back_than_may(count, most, held):
    pool = Pool(count, max_ejected=most)
    for pod in range(count):
        if pod < held or count - held <= pod < count - 1 or count < 3:
            pool.goes(pod, good=0, bad=10 + 10 * (count - pod), seconds=0.001)
    pool.slow[:] = 1.0
    assert sum(share < 1 for share in pool.shares()) <= max(held, int(count * most))
    assert max(pool.shares()) == 1.0


def test_those_held_back_do_not_take_turns():
    pool = Pool(4, max_ejected=0.5)
    pool.slow[:] = [3.0, 3.1, 3.2, 1.0]
    pool.passes()
    first = pool.shares()
    assert sum(share < 1 for share in first) == 2
    for wobble in ([3.3, 3.1, 3.2, 1.0], [3.0, 3.4, 3.1, 1.0]):
        pool.slow[:] = wobble
        pool.passes()
        assert [share < 1 for share in pool.shares()] == [share < 1 for share in first]


class TestSlowStart:
    def pool(self, **rules):
        pool = Pool(**rules)
        pool.block[col.FIRST_SEEN, 0] = pool.now
        pool.block[col.QUERY_RATE] = 100.0
        pool.block[col.HIT_RATE, 1:] = 60.0
        return pool

    def test_time_bounds_it(self):
        pool, shares = self.pool(), []
        for _ in range(31):
            pool.passes()
            shares.append(pool.shares()[0])
        assert shares == sorted(shares)
        assert shares[0] == 0.1
        assert shares[14] == pytest.approx(0.5)
        assert shares[-1] == 1.0

    def test_answers_from_a_warm_cache_shorten_it(self):
        pool = self.pool()
        pool.block[col.HIT_RATE, 0] = 60.0
        for _ in range(6):
            pool.goes(0, good=5)
        assert pool.shares()[0] == 1.0

    def test_a_cold_cache_or_slow_answers_do_not(self):
        for cold, slow in ((0.0, 1.0), (60.0, 8.0)):
            pool = self.pool()
            pool.block[col.HIT_RATE, 0] = cold
            pool.slow[0] = slow
            for _ in range(6):
                pool.goes(0, good=5)
            assert pool.shares()[0] == pytest.approx(0.2, abs=0.02)
            assert pool.levels()[0] == HEALTHY

    def test_a_burst_can_not_shorten_it_to_nothing(self):
        pool = self.pool()
        pool.block[col.HIT_RATE, 0] = 60.0
        pool.goes(0, good=1000, seconds=0.1)
        assert pool.shares()[0] == 0.1

    def test_it_can_be_off(self):
        pool = self.pool(slow_start=0.0)
        pool.passes(0.01)
        assert pool.shares()[0] == 1.0
