from collections import Counter

import numpy as np
import pytest

from ralb.v1.snapshot_pb2 import Endpoint, Health, Pool
from ralb_extproc.place import Ask, Dice, FlightInfo, PodSample, PodTable, charge, health, place, pool_of
from ralb_extproc.place import columns as col

POOL = "ns/p"
ASK = Ask(1000, 100, stream=True)


class World:
    def __init__(self, count=8, **fields):
        self.table, self.dice, self.now, self.sent = PodTable(), Dice(3), 1000.0, 0
        self.count, self.fields = count, fields
        self.have(range(count))

    def have(self, numbers, draining=()):
        pool = pool_of(POOL, [f"p{i}:80" for i in numbers], **self.fields)
        pool.endpoints.extend(Endpoint(address=f"p{i}:80", draining=True) for i in draining)
        self.table.update([pool], self.now)

    def slot(self, number):
        return self.table.slot(POOL, f"p{number}:80")

    def set(self, row, number, value):
        self.table.ward.state[row, self.slot(number)] = value

    def send(self, times=1, *, end=True, seconds=0.0):
        """Where requests go."""
        out = Counter()
        for _ in range(times):
            self.now += seconds
            self.sent += 1
            name = f"r{self.sent}"
            order = place(self.table, POOL, ASK, self.now, self.dice)
            charge(self.table, POOL, name, order, ASK, self.now)
            if end:
                self.table.finish(name)
            out[int(order.addresses[0][1:-3])] += 1
        return out

    def condition(self, number):
        return self.table.ward.condition(self.slot(number), self.table.data, self.now)

    def says(self, number, waiting=0.0, running=0.0, **fields):
        self.table.observe(self.slot(number), PodSample(self.now, waiting, running, **fields), self.now)


@pytest.mark.parametrize("count", [2, 8, 64])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_a_pod_gets_exactly_its_share(count, share):
    world = World(count)
    world.set(health.LEVEL, 1, health.DEGRADED)
    world.set(health.BASE, 1, share)
    world.set(health.SINCE, 1, world.now)
    world.set(health.BAD, 1, 1e9)  # stays as ill as it is
    known = world.table.ward._pools[POOL]
    known.reviewed, known.at_once = world.now, False
    world.table.ward.state[health.SHARE, world.slot(1)] = share
    known.shares = count - 1 + share
    total = 4_000
    got = world.send(total, end=True)[1]  # all within a moment: no review comes between
    assert got == pytest.approx(total * share / (count - 1 + share), abs=6)


def test_everybody_else_shares_evenly():
    world = World(4, balancing=None)
    for _ in range(10):
        world.table.fail(world.slot(2), world.now)
        world.now += 0.3
    world.now += 60
    world.table.succeed(world.slot(2), world.now)
    got = world.send(3000, end=False, seconds=0.001)
    assert got[2] < 100
    assert max(got[i] for i in (0, 1, 3)) - min(got[i] for i in (0, 1, 3)) < 150


def test_a_failed_pod_is_tried_now_and_then_whatever_the_strategy_thinks_of_it():
    world = World(2)
    for _ in range(20):
        world.table.fail(world.slot(0), world.now)
    world.now += 20.0
    world.table.succeed(world.slot(0), world.now)
    world.table.data[col.KV_USAGE, world.slot(0)] = 0.99
    world.says(0, 0, 500, kv_usage=0.9)
    gaps, last = [], world.now
    for _ in range(600):
        world.says(0, 0, 500, kv_usage=0.9)
        world.says(1, 0, 0)
        if world.send(1, seconds=0.1)[0]:
            gaps.append(world.now - last)
            last = world.now
    assert world.condition(0) == ("Failed", "errors")
    assert 5 <= len(gaps) <= 13
    assert max(gaps) < 12.0


class TestRetryAfter:
    def test_no_work_before_it_ends(self):
        world = World(4)
        world.table.limit(world.slot(2), 20.0, world.now)
        assert world.condition(2) == ("Failed", "limited")
        assert world.send(500, seconds=0.039)[2] == 0
        world.now += 1.0
        assert world.condition(2)[0] == "Healthy"
        assert world.send(400, seconds=0.01)[2] > 0

    def test_it_comes_back_with_a_part(self):
        world = World(4)
        world.table.limit(world.slot(2), 1.0, world.now)
        world.now += 1.1
        assert world.send(1000, seconds=0.001)[2] == pytest.approx(1000 * 0.3 / 3.3, abs=4)

    @pytest.mark.parametrize(("said", "kept"), [(None, 1.0), (-5.0, 0.0), (1e9, 300.0), (0.5, 0.5)])
    def test_it_is_bounded(self, said, kept):
        world = World(2)
        world.table.limit(world.slot(0), said, world.now)
        assert world.table.ward.state[health.LIMITED, world.slot(0)] == world.now + kept

    def test_the_longest_counts(self):
        world = World(2)
        world.table.limit(world.slot(0), 10.0, world.now)
        world.table.limit(world.slot(0), 1.0, world.now)
        assert world.table.ward.state[health.LIMITED, world.slot(0)] == world.now + 10.0

    def test_all_limited_still_gets_an_answer(self):
        world = World(2)
        for pod in (0, 1):
            world.table.limit(world.slot(pod), 10.0, world.now)
        assert sum(world.send(10).values()) == 10


class TestRestart:
    def test_refused_and_back_starts_cold(self):
        world = World(4)
        for _ in range(3):
            world.table.fail(world.slot(1), world.now, refused=True)
        assert world.condition(1) == ("Failed", "down")
        world.now += 30
        world.table.succeed(world.slot(1), world.now)
        world.send(1, seconds=0.3)
        assert world.condition(1) == ("Healthy", "starting")
        assert world.send(500, seconds=0.0005)[1] < 40

    def test_so_does_one_whose_page_is_back(self):
        world = World(4)
        world.table.unreachable(world.slot(1), world.now)
        assert world.condition(1) == ("Failed", "down")
        world.now += 5
        world.says(1)
        world.send(1, seconds=0.3)
        assert world.condition(1) == ("Healthy", "starting")

    def test_counters_that_fell(self):
        world = World(4)
        world.table.fail(world.slot(1), world.now)
        world.says(1, prefix_queries=100.0, prefix_hits=1.0)
        world.now += 1
        world.says(1, prefix_queries=1.0, prefix_hits=0.0)
        world.send(1, seconds=0.3)
        assert world.condition(1)[1] == "starting"
        assert world.table.data[col.FAILURES, world.slot(1)] == 0
        assert world.table.ward.state[health.BAD, world.slot(1)] == 0

    def test_failures_of_requests_that_are_older_than_the_process_do_not_count(self):
        world = World(4)
        world.table.unreachable(world.slot(1), world.now)
        begun, world.now = world.now, world.now + 5
        world.says(1)
        for _ in range(20):
            world.table.fail(world.slot(1), world.now + 1, begun=begun)
        assert world.table.data[col.FAILURES, world.slot(1)] == 0
        assert world.table.ward.state[health.BAD, world.slot(1)] == 0
        world.table.fail(world.slot(1), world.now + 1, begun=world.now + 0.5)
        assert world.table.data[col.FAILURES, world.slot(1)] == 1

    def test_errors_are_no_restart(self):
        world = World(4)
        for _ in range(10):
            world.table.fail(world.slot(1), world.now)
        world.table.succeed(world.slot(1), world.now)
        world.send(1, seconds=0.3)
        assert world.condition(1) == ("Failed", "errors")


class TestStuck:
    def world(self):
        world = World(2)
        for _ in range(10):
            world.now += 0.5
            world.says(0, 0, 0, generation_tokens=5.0)
            world.says(1, 0, 1, generation_tokens=world.now)
            world.table.succeed(world.slot(0), world.now)
        return world

    def test_its_reading_is_worth_nothing_and_ours_count(self):
        world = self.world()
        assert world.condition(0) == ("Healthy", "metrics stuck")
        view = world.table.view(POOL)
        assert world.table.steady(view, world.now).trust.tolist() == [0.0, 1.0]
        assert set(world.send(4, end=False)) == {0, 1}

    def test_until_it_moves(self):
        world = self.world()
        world.says(0, 0, 0, generation_tokens=6.0)
        assert world.condition(0) == ("Healthy", "")


class TestCaps:
    def test_a_pod_that_is_full_is_chosen_when_all_are(self):
        world = World(2)
        world.says(0, 1, 4, kv_usage=0.97)
        world.says(1, 0, 40, kv_usage=0.5)
        assert world.table.ward.cap(world.slot(0)) == pytest.approx(3.6)
        assert world.send(1, end=False) == {1: 1}
        world.now += 0.1
        world.says(1, 1, 4, kv_usage=0.97)
        assert len(world.send(6, end=False)) == 2

    def test_it_does_not_make_the_pool_saturated(self):
        world = World(1)
        world.says(0, 1, 4, kv_usage=0.97)
        assert world.table.steady(world.table.view(POOL), world.now).best == 0


class TestDrain:
    def test_no_new_work_and_flights_end(self):
        world = World(2)
        world.send(6, end=False)
        slot = world.slot(1)
        key, flights = world.table.key(slot), int(world.table.data[col.INFLIGHT, slot])
        assert flights > 0
        world.have([0], draining=[1])
        assert [(k.address, n, until - world.now) for k, n, until in world.table.draining()] == [
            ("p1:80", flights, 60.0)
        ]
        assert world.table.is_current(slot, key.generation)
        assert world.send(10, end=False) == {0: 10}
        for name in [flight.id for flight in world.table.ledger]:
            world.table.finish(name)
        assert not list(world.table.draining())
        assert world.table.key(slot) is None

    def test_time_bounds_it(self):
        world = World(2, health=Health(drain_s=30.0, slow_factor=2.0))
        world.send(6, end=False)
        world.have([0], draining=[1])
        world.table.sweep(world.now + 29)
        assert len(list(world.table.draining())) == 1
        world.table.sweep(world.now + 31)
        assert not list(world.table.draining())
        for name in [flight.id for flight in world.table.ledger]:
            world.table.finish(name)

    def test_without_flights_it_is_gone_at_once(self):
        world = World(2)
        world.have([0], draining=[1])
        assert not list(world.table.draining())

    def test_late_news_of_a_pod_that_is_gone_are_harmless(self):
        world = World(2)
        world.send(6, end=False)
        slot = world.slot(1)
        world.have([0], draining=[1])
        for call in (
            lambda: world.table.fail(slot, world.now),
            lambda: world.table.succeed(slot, world.now),
            lambda: world.table.limit(slot, 5.0, world.now),
            lambda: world.table.observe(slot, PodSample(world.now, 1, 1), world.now),
            lambda: world.table.unreachable(slot, world.now),
        ):
            call()
        world.have([0])
        assert not list(world.table.draining())
        for name in [flight.id for flight in world.table.ledger]:
            world.table.finish(name)
        assert not world.table.data[[col.INFLIGHT, col.SINCE]].any()

    def test_an_address_that_comes_back_is_a_new_pod(self):
        world = World(2)
        world.send(6, end=False)
        old = world.slot(1)
        generation = world.table.key(old).generation
        world.have([0], draining=[1])
        world.have([0, 1])
        assert not world.table.is_current(old, generation)
        assert world.table.data[col.INFLIGHT, world.slot(1)] == 0

    def test_a_pool_whose_pods_all_drain_has_none(self):
        world = World(1)
        world.send(1, end=False)
        world.have([], draining=[0])
        assert world.table.view(POOL) is None
        world.table.sweep(world.now + 100)


def test_rules_come_from_the_snapshot():
    table = PodTable()
    table.update([Pool(id="a", endpoints=[Endpoint(address="x:1")]), pool_of("b", ["y:1"])], 0.0)
    assert table.ward.rules("a") == health.Rules()
    said = Health(
        degraded_error=0.1, failed_error=0.2, max_ejected=0.3, slow_factor=4.0, slow_start_s=5.0, drain_s=90.0
    )
    table.update([pool_of("a", ["x:1"], health=said)], 1.0)
    assert table.ward.rules("a") == health.Rules(0.1, 0.2, 0.3, 4.0, 5.0, 90.0)


def test_slots_are_used_again_as_if_new():
    world = World(2)
    for _ in range(10):
        world.table.fail(world.slot(1), world.now)
    world.have([0])
    world.have([0, 2])
    fresh = world.table.ward.state[: health.ROWS, world.slot(2)]
    assert np.array_equal(fresh, health.initial())


def test_times_of_flights_are_of_the_pod_they_were_placed_on():
    world = World(2)
    slot = world.slot(1)
    world.table.begin("x", slot, 100.0, 10.0, world.now, FlightInfo(pool=POOL, stream=True, input_tokens=100))
    flight = world.table.finish("x")
    world.have([0])
    world.have([0, 1])
    before = world.table.ward.state.copy()
    world.table.learn_times(flight, ttft=1.0, duration=2.0, output=50)
    assert np.array_equal(world.table.ward.state, before)
