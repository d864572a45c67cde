from dataclasses import replace
from types import SimpleNamespace

import pytest

from ralb.v1.snapshot_pb2 import Cost, Endpoint, Pool
from ralb_extproc.place import Ask, Dice, PodSample, PodTable, commit, place_plan
from ralb_extproc.types import Candidate, Plan

NOW = 1000.0
ASK = Ask(input_tokens=1000, output_tokens=100)


def pool(name, count=1, cap=1, price=0.0):
    return Pool(
        id=name,
        cluster=f"plain/{name}",
        rewrite_cluster=f"rewrite/{name}",
        endpoints=[Endpoint(address=f"{name}-{i}:80") for i in range(count)],
        concurrency_per_replica=cap,
        metrics_path="" if count == 0 else "/metrics",
        cost=Cost(input_per_million=price, cached_input_per_million=price, output_per_million=price),
    )


HOME = Candidate("home", "m", "t/easy", 0, 1)
BACKUP = Candidate("backup", "m", "t/easy", 1, 1)
FALLBACK = Candidate("last", "n", "t/last", 2, 1)
SPILL = Candidate("near", "n", "t/near", 1000, 1)
FAR = Candidate("far", "o", "t/far", 1001, 1)


class World:
    def __init__(self, *candidates, spill=(SPILL,), pools=()):
        self.plan = Plan("p", "r", "t/easy", "easy", candidates or (HOME,), spill=spill)
        made = {each.pool: pool(each.pool) for each in (*self.plan.candidates, *spill)}
        made |= {each.id: each for each in pools}
        self.table = SimpleNamespace(pools=made)
        self.pods = PodTable()
        self.pods.update(made.values(), 0.0)
        self.dice = Dice(1)
        self.count = 0

    def place(self, now=NOW, **plan):
        return place_plan(self.table, self.pods, replace(self.plan, **plan), ASK, now, self.dice)

    def send(self):
        got = self.place()
        self.count += 1
        commit(self.pods, f"r{self.count}", got, self.plan, ASK, NOW)
        return got

    def fill(self, *pools):
        for name in pools:
            for address in self.pods.view(name).addresses:
                self.pods.begin(f"{name}{address}", self.pods.slot(name, address), 1, 1, NOW)

    def free(self, name):
        for address in self.pods.view(name).addresses:
            self.pods.finish(f"{name}{address}")

    def queue(self, name, waiting, now=NOW):
        for address in self.pods.view(name).addresses:
            self.pods.observe(self.pods.slot(name, address), PodSample(now, waiting, 1, 0.2), now)


def pools_of(placement):
    return [attempt.pool for attempt in placement.attempts]


def test_home_while_it_has_room():
    world = World()
    got = world.place()
    assert pools_of(got) == ["home"]
    assert (got.spilled, got.reason) == (None, "only")


def test_capped_spills_and_comes_back():
    world = World()
    world.fill("home")
    got = world.place()
    assert pools_of(got) == ["near", "home"], "home stays as where to fail over to"
    assert (got.spilled, got.reason) == (("t/easy", "t/near"), "spilled")
    assert [attempt.cluster for attempt in got.attempts] == ["plain/near", "rewrite/home"]
    world.free("home")
    assert pools_of(world.place()) == ["home"]


def test_what_spilled_is_charged_and_learned_under_the_other_tier():
    world = World()
    world.fill("home")
    world.send()
    assert world.pods.ledger.get("r1").info.tier == "t/near"
    assert world.place().spilled is None, "that was its only slot"
    assert pools_of(world.place()) == ["home"]


def test_saturated_neighbours_are_passed_by_and_with_all_saturated_it_stays():
    world = World(spill=(SPILL, FAR))
    world.fill("home", "near")
    assert world.place().spilled == ("t/easy", "t/far")
    world.fill("far")
    got = world.place()
    assert pools_of(got) == ["home"]
    assert (got.spilled, got.reason) == (None, "saturated")


def test_the_own_backup_comes_first():
    world = World(HOME, BACKUP)
    world.fill("home")
    got = world.place()
    assert got.spilled is None
    assert pools_of(got)[0] == "backup"
    world.fill("backup")
    assert world.place().spilled == ("t/easy", "t/near")


def test_excess_goes_to_the_backup_by_queue_too_but_failover_only_pools_take_none():
    world = World(HOME, BACKUP, spill=(SPILL,), pools=[pool("home", cap=0)])
    world.queue("home", 50)
    assert pools_of(world.place())[0] == "backup"
    spare = replace(BACKUP, priority=0, weight=0)
    world = World(HOME, spare, pools=[pool("home", cap=0)])
    world.queue("home", 50)
    assert world.place().spilled == ("t/easy", "t/near")


def test_queues_spill_without_a_cap():
    world = World(pools=[pool("home", 2, cap=0), pool("near", 2, cap=0)])
    world.queue("home", 50)
    assert world.place().spilled == ("t/easy", "t/near")
    world.queue("near", 50)
    assert world.place(now=NOW + 0.1).spilled is None
    world.queue("home", 0, NOW + 1)
    assert world.place(now=NOW + 1).reason == "best"


def test_failing_is_the_fallbacks_matter():
    world = World(HOME, FALLBACK)
    world.pods.fail(world.pods.slot("home", "home-0:80"), NOW)
    got = world.place()
    assert got.spilled is None
    assert pools_of(got)[0] == "last"


def test_failing_neighbours_get_nothing():
    world = World()
    world.fill("home")
    world.pods.fail(world.pods.slot("near", "near-0:80"), NOW)
    got = world.place()
    assert pools_of(got) == ["home"]


def test_a_fallback_that_is_also_the_spill_tier_is_not_flooded():
    also = replace(FALLBACK, priority=1000)
    world = World(HOME, FALLBACK, spill=(also,), pools=[pool("last", 1, cap=0)])
    world.fill("home")
    got = world.place()
    assert got.spilled == ("t/easy", "t/last")
    assert pools_of(got) == ["last", "home"]
    world.queue("last", 50)
    got = world.place(now=NOW + 0.1)
    assert got.spilled is None
    assert pools_of(got) == ["home", "last"]


def test_a_fallback_that_is_not_the_spill_tier_still_takes_what_is_capped():
    world = World(HOME, FALLBACK)
    world.fill("home", "near")
    got = world.place()
    assert got.spilled is None
    assert pools_of(got)[0] == "last"


def test_pods_that_are_not_seen_have_room():
    world = World(pools=[pool("near", 0)])
    world.fill("home")
    got = world.place()
    assert (got.spilled, got.reason) == (("t/easy", "t/near"), "spilled")
    assert got.attempts[0].endpoint == ""


def test_without_a_spill_tier_nothing_is_new():
    world = World(pools=[pool("home", cap=0)])
    world.queue("home", 50)
    assert pools_of(world.place(spill=())) == ["home"]


def test_the_cheapest_of_a_level_by_what_is_cached():
    dear, cheap = (Candidate(name, "m", "t/easy", 0, 1, by_price=True) for name in ("dear", "cheap"))
    world = World(dear, cheap, spill=(), pools=[pool("dear", 1, 0, 3.0), pool("cheap", 1, 0, 1.0)])
    got = world.place()
    assert (pools_of(got), got.reason) == (["cheap", "dear"], "cheapest")
    warm = world.table.pools["dear"]
    warm.cost.input_per_million, warm.cost.output_per_million = 0.5, 0.5
    assert pools_of(world.place())[0] == "dear"
    warm.cost.input_per_million, warm.cost.output_per_million = 1.0, 1.0
    assert {pools_of(world.place())[0] for _ in range(40)} == {"dear", "cheap"}
    assert world.place().reason == "no-metrics"


def test_the_cheapest_only_while_it_is_not_saturated():
    dear, cheap = (Candidate(name, "m", "t/easy", 0, 1, by_price=True) for name in ("dear", "cheap"))
    world = World(dear, cheap, spill=(), pools=[pool("dear", 1, 0, 3.0), pool("cheap", 1, 1, 1.0)])
    world.fill("cheap")
    got = world.place()
    assert (pools_of(got)[0], got.reason) == ("dear", "no-metrics")
    world.free("cheap")
    world.queue("cheap", 50)
    assert pools_of(world.place())[0] == "dear"


@pytest.mark.parametrize("failing", ["home", "near"])
def test_nothing_is_changed_by_asking(failing):
    world = World(pools=[pool("home", 2, cap=0), pool("near", 2)])
    world.queue("home", 3)
    world.pods.fail(world.pods.slot(failing, f"{failing}-1:80"), NOW)
    before = world.pods.data.copy()
    for _ in range(20):
        world.place()
    assert (world.pods.data == before).all()
