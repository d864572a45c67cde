"""Closed loops in virtual time: pools with queues, placed on by the processor's own code."""

import numpy as np
import pytest
from support_queues import OUTPUT, Kind, World, tier_plan


def per_second(kind):
    return kind.pods * kind.slots * kind.speed / OUTPUT


def waits(world, since):
    return {
        name: float(np.mean([wait for pool, wait in world.finished[since:] if pool == name])) for name in world.kinds
    }


FAST, SLOW = Kind(pods=2, speed=40, slots=8), Kind(pods=4, speed=10, slots=8)


def test_shares_follow_measured_drain_and_queues_take_equally_long():
    world = World({"fast": FAST, "slow": SLOW}, tier_plan("fast", "slow", dynamic=True))
    world.run(90, clients=80)
    since, begun = len(world.finished), world.now
    world.run(150, clients=80)
    due = per_second(FAST) / (per_second(FAST) + per_second(SLOW))
    assert world.shares(begun)["fast"] == pytest.approx(due, abs=0.04)
    wait = waits(world, since)
    assert wait["fast"] == pytest.approx(wait["slow"], rel=0.3)
    assert min(wait.values()) > 1.0, "there are queues at all"


def test_shares_follow_drain_below_saturation_too():
    world = World({"fast": FAST, "slow": SLOW}, tier_plan("fast", "slow", dynamic=True))
    world.run(60, rate=4.0)
    begun = world.now
    world.run(150, rate=4.0)
    assert world.shares(begun)["fast"] == pytest.approx(2 / 3, abs=0.06)


def test_pods_that_tell_nothing_are_measured_by_their_answers():
    fast, slow = (Kind(kind.pods, kind.speed, kind.slots, counts=False) for kind in (FAST, SLOW))
    world = World({"fast": fast, "slow": slow}, tier_plan("fast", "slow", dynamic=True))
    world.run(60, rate=7.0)
    begun = world.now
    world.run(150, rate=7.0)
    assert world.shares(begun)["fast"] == pytest.approx(2 / 3, abs=0.06)


def test_a_pool_that_turns_slow_loses_its_share_and_gets_it_back():
    world = World({"a": FAST, "b": FAST}, tier_plan("a", "b", dynamic=True))
    world.run(60, rate=6.0)
    for (pool, _), pod in world.servers.items():
        pod.speed = 10 if pool == "a" else 40
    world.run(240, rate=6.0)
    begun = world.now
    world.run(60, rate=6.0)
    assert world.shares(begun)["a"] == pytest.approx(0.2, abs=0.08)
    for pod in world.servers.values():
        pod.speed = 40
    world.run(400, rate=6.0)
    begun = world.now
    world.run(90, rate=6.0)
    assert world.shares(begun)["a"] == pytest.approx(0.5, abs=0.08)


def test_static_is_exactly_the_weights_whatever_the_pools_can_do():
    world = World({"fast": FAST, "slow": SLOW}, tier_plan("fast", "slow", weights=(1, 3)))
    world.run(240, clients=100)
    assert world.shares(0)["slow"] == pytest.approx(0.75, abs=0.03)


HOME, OTHER = Kind(pods=2, speed=40, slots=8), Kind(pods=4, speed=40, slots=8)


def spilling(rate, seconds=180.0):
    """(world, spilled share per 10 s, requests running at home every half second)"""
    world = World({"home": HOME, "other": OTHER}, tier_plan("home", spill=("other",), dynamic=True))
    world.run(40, rate=rate)
    begun, running = world.now, []
    for _ in range(int(seconds * 2)):
        world.run(0.5, rate=rate)
        running.append(sum(len(pod.running) for (pool, _), pod in world.servers.items() if pool == "home"))
    windows = {}
    for at, placement in world.placements:
        if at >= begun:
            windows.setdefault(int((at - begun) / 10), []).append(placement.spilled is not None)
    return world, [sum(window) / len(window) for window in windows.values()], running


@pytest.mark.parametrize("load", [1.4, 2.0])
def test_only_the_excess_spills_and_the_home_tier_stays_full(load):
    world, windows, running = spilling(load * per_second(HOME))
    assert np.mean(windows) == pytest.approx(1 - 1 / load, abs=0.08)
    assert np.mean(running) > 0.9 * HOME.pods * HOME.slots
    assert world.in_line("home") < 3 * HOME.slots


def test_spilling_does_not_flap():
    _, windows, running = spilling(1.7 * per_second(HOME))
    assert min(windows) > 0.1
    assert max(windows) < 0.8
    assert min(running) > 0.5 * HOME.pods * HOME.slots


def test_nothing_spills_below_saturation_and_it_ends_when_the_load_does():
    world, windows, _ = spilling(0.6 * per_second(HOME), 60)
    assert np.mean(windows) < 0.01
    world.run(60, rate=2 * per_second(HOME))
    world.run(20, rate=0.5 * per_second(HOME))
    begun = world.now
    world.run(60, rate=0.5 * per_second(HOME))
    assert world.shares(begun)["other"] < 0.01


def test_a_saturated_neighbour_is_not_flooded():
    small = Kind(pods=1, speed=40, slots=4)
    world = World({"home": HOME, "other": small}, tier_plan("home", spill=("other",), dynamic=True))
    world.run(60, rate=3 * per_second(HOME))
    assert world.in_line("other") <= 3 * small.slots
    assert world.in_line("home") > 10 * world.in_line("other")


def test_the_cheap_pool_is_kept_full_before_the_dear_one_gets_anything():
    cheap, dear = Kind(pods=2, speed=40, slots=8, cost=1.0), Kind(pods=4, speed=40, slots=8, cost=3.0)
    world = World({"cheap": cheap, "dear": dear}, tier_plan("cheap", "dear", dynamic=True, by_price=True))
    world.run(60, rate=0.6 * per_second(cheap))
    assert world.shares(0)["cheap"] > 0.99
    assert world.placements[0][1].reason == "cheapest"
    begun = world.now
    world.run(120, rate=1.6 * per_second(cheap))
    assert world.shares(begun)["dear"] == pytest.approx(1 - 1 / 1.6, abs=0.08)
