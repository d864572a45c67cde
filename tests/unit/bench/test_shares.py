"""What is said of a share over time, on traffic whose answer is known."""

import numpy as np
import pytest
from ordering import rank_correlation, ranks, told_apart
from shares import crossings, judge, share

PODS, RATE, END = 4, 40.0, 100.0


def traffic(of):
    """Requests at an even rate; the pod's share of them at each time is ``of(t)`` fair shares."""
    times = np.arange(0.0, END, 1 / RATE)
    owed, mine = 0.0, []
    for t in times:
        owed += of(t) / PODS
        mine.append(owed >= 1.0)
        owed -= mine[-1]
    return times, np.array(mine)


def judged(of):
    return judge(*traffic(of), PODS, onset=20.0, cure=60.0, end=END)


def test_a_share_is_in_fair_shares():
    times, mine = traffic(lambda t: 0.5)
    assert share(times, mine, 10.0, 90.0, PODS) == pytest.approx(0.5, abs=0.02)
    assert np.isnan(share(times, mine, 200.0, 201.0, PODS))


def test_falls_and_comes_back_once():
    found = judged(lambda t: 1.0 if t < 25 else 0.2 if t < 70 else 1.0)
    assert found.fell_after == pytest.approx(5.0, abs=1.5)
    assert found.share_ill == pytest.approx(0.2, abs=0.05)
    assert found.floor == pytest.approx(0.2, abs=0.15)
    assert found.recovered_after == pytest.approx(10.0, abs=1.5)
    assert found.share_after == pytest.approx(1.0, abs=0.05)
    assert found.oscillations == 0


def test_never_falls():
    found = judged(lambda t: 1.0)
    assert found.fell_after is None
    assert found.recovered_after == 0.0
    assert found.oscillations == 0


def test_never_comes_back():
    found = judged(lambda t: 1.0 if t < 20 else 0.1)
    assert found.recovered_after is None
    assert found.oscillations == 0


def test_comes_back_while_still_ill():
    found = judged(lambda t: 0.1 if 20 <= t < 40 else 1.0)
    assert found.oscillations == 1


def test_falls_only_after_the_cure():
    assert judged(lambda t: 0.1 if 70 <= t < 80 else 1.0).oscillations == 2


def test_oscillations_are_counted():
    swings = judged(lambda t: (0.1 if int(t / 5) % 2 == 0 else 1.5) if 20 <= t < 60 else 1.0)
    assert swings.oscillations == 7  # four falls, and four rises none of which came with the cure
    assert swings.peak == pytest.approx(1.5, abs=0.3)


def test_noise_around_the_line_is_no_crossing():
    assert crossings([1.0, 0.52, 0.48, 0.53, 0.47]) == []
    assert crossings([1.0, 0.3, 0.55, 0.45, 0.7, 0.2]) == [1, 4, 5]


def test_ranks_and_their_correlation():
    assert ranks([3.0, 1.0, 3.0]) == [2.5, 1.0, 2.5]
    assert rank_correlation([1.0, 2.0, 9.0], [10.0, 20.0, 30.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 9.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert np.isnan(rank_correlation([1.0, 1.0], [1.0, 2.0]))


def test_told_apart_only_without_overlap():
    assert told_apart([1.0, 2.0], [3.0, 4.0]) == -1
    assert told_apart([5.0], [3.0, 4.0]) == 1
    assert told_apart([1.0, 3.5], [3.0, 4.0]) == 0
