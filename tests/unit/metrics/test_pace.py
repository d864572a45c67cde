import pytest

from ralb_extproc.metrics.pace import ERROR, FAST, LONGEST, SLOW, Pace, next_interval


def test_idle_pods_slow_down_and_busy_ones_are_fast_at_once():
    interval = FAST
    for _ in range(20):
        interval = next_interval(interval, busy=False, changed=False, failed=False)
    assert interval == SLOW
    assert next_interval(interval, busy=True, changed=False, failed=False) == FAST
    assert next_interval(interval, busy=False, changed=True, failed=False) == FAST


def test_failing_pods_are_asked_less_often_but_not_seldom():
    interval = FAST
    for _ in range(20):
        interval = next_interval(interval, busy=True, changed=True, failed=True)
    assert interval == ERROR


def run(pace, seconds, rate, cost, lateness=0.0):
    """``rate`` scrapes a second at stretch 1, each of ``cost`` CPU seconds; returns the share used in the last second."""
    now = pace._since or 1000.0
    last = 0.0
    end = now + seconds
    while now < end:
        if now > end - 1:
            last += cost
        pace.spent(cost)
        pace.woke(now, lateness)
        now += pace.stretch / rate
    return last


def test_within_budget_nothing_is_stretched():
    pace = Pace(budget=0.15)
    run(pace, 10, rate=100, cost=0.0005)
    assert pace.stretch == 1.0


def test_over_budget_stretches_until_it_is_kept():
    pace = Pace(budget=0.15)
    assert run(pace, 30, rate=2500, cost=0.0004) == pytest.approx(0.15, rel=0.15)
    assert pace.stretch == pytest.approx(1.0 / 0.15, rel=0.15)
    run(pace, 30, rate=100, cost=0.0004)
    assert pace.stretch == 1.0


def test_a_late_loop_stretches_too():
    pace = Pace()
    run(pace, 5, rate=100, cost=0.00001, lateness=0.1)
    assert pace.stretch > 3
    run(pace, 30, rate=100, cost=0.00001, lateness=0.0)
    assert pace.stretch == 1.0


def test_there_is_a_longest_interval():
    pace = Pace(stretch=32.0)
    assert pace.stretched(SLOW) == LONGEST
