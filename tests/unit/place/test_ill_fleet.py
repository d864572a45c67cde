"""Closed loops: a fleet of eight, one of which is ill for two minutes and then well again."""

from itertools import pairwise

import pytest
from support_ill_fleet import IllFleet

from ralb.v1.snapshot_pb2 import Balancing

ILL = 3
STRATEGIES = (Balancing.ROUND_ROBIN, Balancing.LEAST_REQUEST)


def course(make_ill, mend, *, rate=24.0, strategy=STRATEGIES[0], ill=120.0, well=180.0, **fields):
    """(fleet, share of its fair part before, when ill at last, when well at last) of the ill pod."""
    fleet = IllFleet(rate=rate, strategy=strategy, **fields)
    fleet.run(30)
    before = fleet.run(30)[ILL]
    make_ill(fleet.pods[ILL])
    fleet.run(ill - 30)
    during = fleet.run(30)[ILL]
    mend(fleet)
    fleet.run(well - 30)
    return fleet, before, during, fleet.run(30)[ILL]


def states(fleet, pod=ILL):
    return [state for _, state in fleet.changes(pod)]


def others_stayed_well(fleet):
    return all(set(states(fleet, pod)) == {"Healthy"} for pod in range(8) if pod != ILL)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stream", [True, False])
def test_three_times_slower(strategy, stream):
    fleet, before, during, after = course(
        lambda pod: setattr(pod, "slow", 3.0),
        lambda fleet: setattr(fleet.pods[ILL], "slow", 1.0),
        strategy=strategy,
        stream=stream,
    )
    assert before == pytest.approx(1.0, abs=0.15)
    assert during < 0.55
    assert after == pytest.approx(1.0, abs=0.15)
    assert states(fleet) == ["Healthy", "Degraded", "Healthy"]
    assert others_stayed_well(fleet)


def test_three_times_slower_is_found_within_tens_of_requests():
    fleet = IllFleet(rate=24.0, strategy=STRATEGIES[0])
    fleet.run(60)
    fleet.pods[ILL].slow = 3.0
    fleet.run(60)
    found = next(when for when, state in fleet.changes(ILL) if state == "Degraded")
    assert sum(60.0 < when < found and pod == ILL for when, pod in fleet.sent) < 90


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_three_percent_errors(strategy):
    fleet, before, during, after = course(
        lambda pod: setattr(pod, "errors", 0.03),
        lambda fleet: setattr(fleet.pods[ILL], "errors", 0.0),
        strategy=strategy,
        ill=240.0,
        well=240.0,
    )
    assert before == pytest.approx(1.0, abs=0.15)
    assert during < 0.5
    assert after == pytest.approx(1.0, abs=0.15)
    assert len(states(fleet)) <= 5, "at most one relapse"
    assert states(fleet)[-1] == "Healthy"
    assert others_stayed_well(fleet)


def test_half_of_all_fail():
    fleet, _, during, after = course(
        lambda pod: setattr(pod, "errors", 0.5), lambda fleet: setattr(fleet.pods[ILL], "errors", 0.0), well=240.0
    )
    assert 0.0 < during < 0.2
    assert after == pytest.approx(1.0, abs=0.15)
    assert len(states(fleet)) <= 7
    assert states(fleet)[-1] == "Healthy"
    assert others_stayed_well(fleet)


def test_a_cold_restart():
    fleet = IllFleet(rate=24.0, strategy=STRATEGIES[0])
    fleet.run(60)
    fleet.pods[ILL].down = True
    down = fleet.run(20)[ILL]
    fleet.restart(ILL)
    shares = [fleet.run(5)[ILL] for _ in range(8)]
    assert 0.0 < down < 0.25
    assert shares[0] < 0.4
    assert shares[-1] == pytest.approx(1.0, abs=0.2)
    assert all(later > earlier - 0.15 for earlier, later in pairwise(shares))
    assert others_stayed_well(fleet)


def test_stuck_metrics():
    fleet, before, during, after = course(
        lambda pod: setattr(pod, "frozen", True),
        lambda fleet: setattr(fleet.pods[ILL], "frozen", False),
        strategy=STRATEGIES[1],
    )
    assert (before, during, after) == (pytest.approx(1.0, abs=0.25),) * 3
    assert set(states(fleet)) == {"Healthy"}


@pytest.mark.parametrize("rate", [8.0, 24.0, 40.0])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nobody_is_ill_in_a_fleet_that_is_well(rate, strategy):
    """At 40 per second there is more work than it can do."""
    fleet = IllFleet(rate=rate, strategy=strategy, seed=5)
    fleet.run(150)
    assert all(set(states(fleet, pod)) == {"Healthy"} for pod in range(8))


def test_without_metrics_a_slow_pod_is_found_as_well():
    fleet = IllFleet(rate=24.0, strategy=STRATEGIES[0], scraped=False)
    fleet.run(60)
    fleet.pods[ILL].slow = 3.0
    fleet.run(60)
    assert fleet.run(30)[ILL] < 0.55
