from collections import Counter
from types import SimpleNamespace

import pytest

from ralb.v1.snapshot_pb2 import Endpoint, Pool
from ralb_extproc.place import Ask, Dice, NowhereError, PodSample, PodTable, commit, hash_blocks, place_plan
from ralb_extproc.place import columns as col
from ralb_extproc.types import Candidate, Plan

NOW = 1000.0
ASK = Ask(input_tokens=1000, output_tokens=100)


def pool(name, count, cap=0, metrics="/metrics"):
    return Pool(
        id=f"ns/{name}",
        cluster=f"plain/{name}",
        rewrite_cluster=f"rewrite/{name}",
        endpoints=[Endpoint(address=f"{name}-{i}:80") for i in range(count)],
        concurrency_per_replica=cap,
        metrics_path=metrics,
    )


def candidate(name, priority=0, weight=1, model="m", dynamic=False):
    return Candidate(f"ns/{name}", model, "ns/tier", priority, weight, dynamic)


def plan(*candidates):
    return Plan("ns/policy", "rule", "ns/tier", "tier", candidates)


class World:
    """Pools, their pods, and a way to ask."""

    def __init__(self, *pools):
        self.table = SimpleNamespace(pools={p.id: p for p in pools})
        self.pods = PodTable()
        self.pods.update(pools, 0.0)
        self.dice = Dice(7)

    def slot(self, endpoint):
        return self.pods.slot(f"ns/{endpoint.split('-')[0]}", f"{endpoint}:80")

    def say(self, endpoint, waiting, running, kv=0.1, now=NOW):
        self.pods.observe(self.slot(endpoint), PodSample(now, waiting, running, kv), now)

    def place(self, *candidates, ask=ASK, now=NOW, attempts=4):
        return place_plan(self.table, self.pods, plan(*candidates), ask, now, self.dice, attempts)

    def first(self, *candidates, **options):
        return self.place(*candidates, **options).attempts[0].endpoint.removesuffix(":80")


def endpoints(placement):
    return [a.endpoint.removesuffix(":80") for a in placement.attempts]


def test_least_loaded_first_then_in_order():
    world = World(pool("a", 3))
    for i, load in enumerate((5, 0, 2)):
        world.say(f"a-{i}", 0, load)
    got = world.place(candidate("a"))
    assert endpoints(got) == ["a-1", "a-2", "a-0"]
    assert (got.reason, got.considered, got.uncached_tokens) == ("best", 3, 1000)


def test_warm_pod_wins_until_its_load_outweighs_the_warmth():
    world = World(pool("a", 2))
    prompt = hash_blocks(b"x" * 4096)
    world.pods.record_prefix(prompt, world.slot("a-0"))
    ask = Ask(1000, 100, prompt)
    world.say("a-0", 0, 20)
    world.say("a-1", 0, 1)
    got = world.place(candidate("a"), ask=ask)
    assert endpoints(got)[0] == "a-0"
    assert got.prefix_hit > 0.95
    world.say("a-0", 5000, 20, now=NOW + 1)
    world.say("a-1", 0, 1, now=NOW + 1)
    assert world.first(candidate("a"), ask=ask, now=NOW + 1) == "a-1"


def test_a_pods_own_requests_count_at_once():
    world = World(pool("a", 4))
    for i in range(4):
        world.say(f"a-{i}", 0, 0)
    served = Counter()
    for i in range(40):
        got = world.place(candidate("a"))
        commit(world.pods, str(i), got, plan(candidate("a")), ASK, NOW)
        served[endpoints(got)[0]] += 1
    assert set(served.values()) == {10}


def test_queued_prefill_counts_not_only_requests():
    world = World(pool("a", 2))
    for name in ("a-0", "a-1"):
        world.say(name, 0, 0)
    big = Ask(50_000, 10)
    world.pods.begin("big", world.slot("a-0"), 50_000, 10, NOW)
    world.pods.begin("small", world.slot("a-1"), 10, 10, NOW)
    assert all(world.first(candidate("a"), ask=big) == "a-1" for _ in range(20))


def test_near_equals_share():
    world = World(pool("a", 4))
    served = Counter(world.first(candidate("a")) for _ in range(4000))
    assert all(850 < n < 1150 for n in served.values())
    assert len(served) == 4


def test_no_metrics_uses_own_in_flight():
    world = World(pool("a", 2, metrics=""))
    world.pods.begin("r", world.slot("a-0"), 10, 10, NOW)
    got = world.place(candidate("a"))
    assert endpoints(got)[0] == "a-1"
    assert got.reason == "no-metrics"


def test_only_pod():
    assert World(pool("a", 1)).place(candidate("a")).reason == "only"


def test_capped_pods_come_last_and_all_capped_is_said():
    world = World(pool("a", 3, cap=2))
    for i in range(2):
        for slot in ("a-0", "a-1"):
            world.pods.begin(f"{slot}{i}", world.slot(slot), 1, 1, NOW)
    world.say("a-2", 0, 1)
    assert endpoints(world.place(candidate("a")))[0] == "a-2"
    world.say("a-2", 1, 1, now=NOW + 1)
    assert world.place(candidate("a"), now=NOW + 1).reason == "saturated"


def test_an_old_reading_does_not_cap():
    world = World(pool("a", 2, cap=4))
    world.say("a-0", 0, 50)
    world.say("a-1", 0, 1)
    assert world.first(candidate("a")) == "a-1"
    world.say("a-1", 0, 3, now=NOW + 60)
    assert world.place(candidate("a"), now=NOW + 60).reason == "best"
    world.say("a-1", 0, 4, now=NOW + 61)
    assert world.first(candidate("a"), now=NOW + 61) == "a-0"


def test_failed_pod_goes_last_then_is_probed_then_recovers():
    world = World(pool("a", 3))
    for i, load in enumerate((0, 5, 5)):
        world.say(f"a-{i}", 0, load)
    world.pods.fail(world.slot("a-0"), NOW)
    assert endpoints(world.place(candidate("a")))[-1] == "a-0"
    later = NOW + 0.6
    got = world.place(candidate("a"), now=later)
    assert endpoints(got)[0] == "a-0"
    commit(world.pods, "probe", got, plan(candidate("a")), ASK, later)
    assert endpoints(world.place(candidate("a"), now=later))[-1] == "a-0"
    world.pods.finish("probe")
    world.pods.succeed(world.slot("a-0"), later)
    assert world.first(candidate("a"), now=later) == "a-0"


def test_all_failed_still_gets_an_answer():
    world = World(pool("a", 2))
    for name in ("a-0", "a-1"):
        world.pods.fail(world.slot(name), NOW)
    assert sorted(endpoints(world.place(candidate("a")))) == ["a-0", "a-1"]


def test_slow_start():
    world = World(pool("a", 2))
    bigger = pool("a", 3)
    world.table.pools["ns/a"] = bigger
    world.pods.update([bigger], NOW)
    for i, load in enumerate((5, 5, 0)):
        world.say(f"a-{i}", 0, load)
    assert world.first(candidate("a")) != "a-2"
    for i, load in enumerate((5, 5, 0)):
        world.say(f"a-{i}", 0, load, now=NOW + 30)
    assert world.first(candidate("a"), now=NOW + 30) == "a-2"


def test_lowest_priority_first_and_fallback_follows():
    world = World(pool("a", 1), pool("b", 3))
    got = world.place(candidate("a"), candidate("b", priority=1))
    assert endpoints(got)[0] == "a-0"
    assert sorted(endpoints(got)[1:]) == ["b-0", "b-1", "b-2"]


def test_first_pool_gives_two_then_the_others_one_each():
    world = World(*(pool(n, 5) for n in "abcdef"))
    names = [e[0] for e in endpoints(world.place(*(candidate(n, i) for i, n in enumerate("abcdef"))))]
    assert names == ["a", "a", "b", "c"]
    names = [e[0] for e in endpoints(world.place(candidate("a"), candidate("b", 1)))]
    assert names == ["a", "a", "a", "b"]


def test_failed_pods_do_not_take_the_place_of_other_pools():
    world = World(pool("a", 3), pool("b", 1), pool("c", 1))
    for name in ("a-1", "a-2"):
        world.pods.fail(world.slot(name), NOW)
    got = endpoints(world.place(candidate("a"), candidate("b", 1), candidate("c", 2), attempts=3))
    assert got == ["a-0", "b-0", "c-0"]


def test_level_whose_pods_all_failed_is_passed_over():
    world = World(pool("a", 2), pool("b", 2))
    for name in ("a-0", "a-1"):
        world.pods.fail(world.slot(name), NOW)
    got = endpoints(world.place(candidate("a"), candidate("b", 1)))
    assert {e[0] for e in got[:2]} == {"b"}
    assert {e[0] for e in got[2:]} == {"a"}


def test_saturated_level_spills_to_the_next():
    world = World(pool("a", 1, cap=1), pool("b", 1))
    world.pods.begin("r", world.slot("a-0"), 1, 1, NOW)
    assert endpoints(world.place(candidate("a"), candidate("b", 1))) == ["b-0", "a-0"]


def test_other_model_uses_the_rewriting_cluster():
    world = World(pool("a", 1), pool("b", 1), pool("c", 1))
    got = world.place(candidate("a"), candidate("b", 1, model="other"), candidate("c", 2))
    assert [(a.cluster, a.model) for a in got.attempts] == [("plain/a", "m"), ("rewrite/b", "other"), ("plain/c", "m")]


def test_service_pool_is_left_to_envoy():
    world = World(pool("svc", 0, metrics=""), pool("b", 1))
    got = world.place(candidate("svc"), candidate("b", 1))
    assert [(a.cluster, a.endpoint) for a in got.attempts] == [("plain/svc", ""), ("plain/b", "b-0:80")]
    assert got.reason == "service"
    commit(world.pods, "r", got, plan(candidate("svc"), candidate("b", 1)), ASK, NOW)
    flight = world.pods.finish("r")
    assert flight.slot == -1
    assert flight.info.attempts[0] == (-1, -1)
    assert flight.info.attempts[1][0] == world.slot("b-0")


def test_pool_without_ready_pods_comes_last():
    world = World(pool("a", 0), pool("b", 1))
    got = world.place(candidate("a"), candidate("b", 1))
    assert [a.endpoint for a in got.attempts] == ["b-0:80", ""]


def test_unknown_pools():
    world = World(pool("a", 1))
    assert endpoints(world.place(candidate("gone"), candidate("a", 1))) == ["a-0"]
    with pytest.raises(NowhereError, match="ns/gone"):
        world.place(candidate("gone"))


def test_max_attempts():
    world = World(pool("a", 5), pool("b", 5))
    assert len(world.place(candidate("a"), candidate("b", 1), attempts=1).attempts) == 1
    assert len(world.place(candidate("a"), attempts=9).attempts) == 5


class TestWeights:
    def shares(self, world, *candidates, rounds=6000):
        count = Counter(world.place(*candidates).attempts[0].pool[3:] for _ in range(rounds))
        return {name: n / rounds for name, n in count.items()}

    def test_exact_when_queues_are_equal(self):
        world = World(pool("a", 1), pool("b", 4), pool("c", 2))
        got = self.shares(world, candidate("a", weight=6), candidate("b", weight=3), candidate("c", weight=1))
        assert got == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1}, abs=0.025)

    def test_running_requests_do_not_move_weights(self):
        world = World(pool("a", 1), pool("b", 1))
        world.say("a-0", 0, 90)
        world.say("b-0", 0, 1)
        assert self.shares(world, candidate("a", weight=9), candidate("b", weight=1))["a"] == pytest.approx(
            0.9, abs=0.02
        )

    def test_queue_moves_weights(self):
        world = World(pool("a", 1), pool("b", 1))
        world.say("a-0", 4, 5)
        world.say("b-0", 1, 5)
        got = self.shares(world, candidate("a", dynamic=True), candidate("b", dynamic=True))
        assert got["a"] == pytest.approx(1 / 5, abs=0.025)
        assert self.shares(world, candidate("a"), candidate("b"))["a"] == pytest.approx(0.5, abs=0.025)

    def test_zero_only_for_failover(self):
        world = World(pool("a", 1), pool("b", 1))
        assert self.shares(world, candidate("a", weight=0), candidate("b", weight=1), rounds=200) == {"b": 1.0}
        world.pods.fail(world.slot("b-0"), NOW)
        assert self.shares(world, candidate("a", weight=0), candidate("b", weight=1), rounds=200) == {"a": 1.0}

    def test_all_zero_is_all_equal(self):
        world = World(pool("a", 1), pool("b", 1))
        got = self.shares(world, candidate("a", weight=0), candidate("b", weight=0))
        assert got["a"] == pytest.approx(0.5, abs=0.03)


def test_commit_records_the_prompt_and_what_to_learn_from():
    world = World(pool("a", 2))
    ask = Ask(1000, 64, hash_blocks(b"y" * 4096), intent="code", stream=True)
    the_plan = plan(candidate("a"))
    got = world.place(candidate("a"), ask=ask)
    commit(world.pods, "r", got, the_plan, ask, NOW)
    flight = world.pods.ledger.get("r")
    assert (flight.info.pool, flight.info.tier, flight.info.intent, flight.info.stream) == (
        "ns/a",
        "ns/tier",
        "code",
        True,
    )
    assert len(flight.info.attempts) == len(got.attempts)
    assert world.pods.data[col.DECODE, flight.slot] == 64
    again = world.place(candidate("a"), ask=ask, now=NOW + 1)  # when its prefill is worked off
    assert again.attempts[0] == got.attempts[0]
    assert again.prefix_hit > 0.9


def test_same_seed_same_choice():
    def run():
        world = World(pool("a", 3), pool("b", 3))
        return [endpoints(world.place(candidate("a"), candidate("b"))) for _ in range(50)]

    assert run() == run()
