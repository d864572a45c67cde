import random
from math import exp

import numpy as np
import pytest

from ralb_extproc.place.latency import Relation, peers_median


def relation():
    return Relation((0.5, 0.5), (1.5, 3.0))


def learn(factors, answers=40, seed=1, loads=None, noise=0.4):
    """Slowness found of pods that take ``factors`` times the usual time, in times; loads: mean requests on each."""
    rng, found = random.Random(seed), relation()
    for _ in range(answers):
        for pod, factor in enumerate(factors):
            tokens, load = rng.lognormvariate(6, 1), rng.uniform(0, 2 * (loads[pod] if loads else 5))
            seconds = factor * (0.01 + tokens / 20_000) * (1 + load / 4) * rng.lognormvariate(0, noise)
            found.add(pod, seconds, tokens, load)
    return np.exp(found.slowness(range(len(factors)))).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_three_times_slower_is_found_and_nobody_else(seed):
    got = learn([1, 1, 3, 1], seed=seed)
    assert got[2] > 2
    assert max(got[:2] + got[3:]) < 1.5


@pytest.mark.parametrize("seed", range(5))
def test_a_pool_that_is_slow_as_a_whole_has_nobody_slower(seed):
    assert max(learn([30, 30, 30], seed=seed)) < 1.5


def test_larger_requests_and_more_load_are_no_slowness():
    rng, found = random.Random(2), relation()
    for _ in range(60):
        for pod in range(4):
            tokens = rng.lognormvariate(8 if pod == 0 else 5.5, 1)
            load = rng.uniform(0, 12 if pod == 0 else 4)
            found.add(pod, (0.01 + tokens / 20_000) * (1 + load / 4), tokens, load)
    assert max(np.exp(found.slowness(range(4)))) < 1.6


def test_a_slow_pod_that_is_full_for_being_slow_is_found():
    assert learn([1, 3, 1, 1], loads=[4, 12, 4, 4], answers=60)[1] > 1.8


def test_of_two_pods_only_the_slower_is_slow():
    got = learn([1, 3])
    assert got[1] > 2 > 0.6 > got[0]


def test_few_answers_say_little():
    assert max(learn([1, 1, 1, 3], answers=2)) < 2


def test_one_absurd_answer_says_little():
    found = relation()
    for _ in range(20):
        for pod in range(3):
            found.add(pod, 0.1, 100, 1)
    found.add(0, 1e6, 100, 1)
    assert exp(found.slowness(range(3))[0]) < 1.3


def test_impossible_times_are_ignored():
    found = relation()
    found.add(0, 0.0, 100, 1)
    found.add(0, -1.0, 100, 1)
    assert found.count(0) == 0


def test_alone_nobody_is_slow():
    assert learn([5]) == [1.0]


def test_the_median_of_the_others():
    values, every = np.array([1.0, 5.0, 2.0, 9.0]), np.ones(4, bool)
    expected = [np.median(np.delete(values, i)) for i in range(4)]
    assert peers_median(values, every).tolist() == expected
    assert peers_median(np.array([3.0, 3.0, 7.0]), np.ones(3, bool)).tolist() == [5.0, 5.0, 3.0]
    assert peers_median(values, np.array([False, True, False, False])).tolist()[0] == 5.0
    assert np.isnan(peers_median(values[:1], every[:1])).all()
