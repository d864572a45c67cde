"""The gateway's placement as policies of the offline simulator: told what a router is told, and no more."""

import random

import pytest

from ralb.v1.snapshot_pb2 import Balancing
from ralb_api.objects import Strategy
from ralb_cli.sim_policies import Placement, ours
from ralb_extproc.place import columns as col
from ralb_sim.offline.policy import Done, Page, Setting, Work

BLOCK = 512
POOL = "sim/pool"


class Nobody:
    """Nobody may look at the truth."""

    def completion(self, pod, work, now):
        raise AssertionError


def setting(pods=4, seed=1):
    return Setting(pods, 0, 1, random.Random(seed), [400_000] * pods, BLOCK, Nobody())


def policy(strategy=Balancing.REASONING_AWARE, pods=4):
    made = Placement(setting(pods), strategy)
    made.pods(range(pods), 0.0)
    for pod in range(pods):
        made.scraped(pod, Page(kv_capacity=400_000), 0.0, 0.0)
    return made


def work(name, blocks=(), **fields):
    return Work(name, 4 * BLOCK, blocks, BLOCK, **fields)


def done(name, pod, *, ok=True, attempts=1, cached=0, output=100):
    return Done(name, pod, ok, 0.2, 2.0, output, cached, attempts)


def column(made, which):
    return [float(made._pods.data[which, made._pods.slot(POOL, address)]) for address in made._addresses]


def test_all_strategies_of_the_api_and_the_default_under_its_plain_name():
    names = list(ours())
    assert names[0] == "reasoning-aware"
    assert {*names[1:]} == {f"ralb:{strategy}" for strategy in Strategy if strategy != "ReasoningAware"}


@pytest.mark.parametrize("name", ours())
def test_each_places_and_takes_what_became_of_it(name):
    made = ours()[name](setting())
    made.pods(range(4), 0.0)
    for number in range(20):
        order = made.place(work(f"r{number}", (1, 2, 3, number)), float(number))
        assert len(set(order)) == len(order) == 4
        made.first_token(f"r{number}", number + 0.2)
        made.finished(done(f"r{number}", order[0]), number + 0.5)
    assert not any(column(made, col.INFLIGHT))


def test_chance_is_its_own():
    one, same, other = (ours()["reasoning-aware"](setting(8, seed)) for seed in (1, 1, 2))
    for made in (one, same, other):
        made.pods(range(8), 0.0)
    orders = [[tuple(made.place(work(f"r{n}"), 0.0)) for n in range(20)] for made in (one, same, other)]
    assert orders[0] == orders[1] != orders[2]


def test_a_prompt_goes_where_its_begin_is():
    made = policy()
    first = made.place(work("r0", (1, 2, 3, 4)), 0.0)[0]
    made.finished(done("r0", first), 1.0)
    assert made.place(work("r1", (1, 2, 3, 5)), 1.0)[0] == first


def test_where_blocks_are_unknown_a_conversation_stays():
    made = policy()
    first = made.place(work("r0", session="s"), 0.0)[0]
    made.finished(done("r0", first), 1.0)
    assert made.place(work("r1", session="s"), 1.0)[0] == first


def test_pages_are_believed():
    made = policy()
    made.scraped(0, Page(waiting=9, running=40, kv_usage=0.5, kv_capacity=400_000), 0.0, 0.1)
    assert column(made, col.SEEN) == [49.0, 0.0, 0.0, 0.0]
    assert made.place(work("r0"), 0.1)[-1] == 0


def test_pages_of_pods_that_are_gone_are_nothing():
    made = policy()
    made.pods([0, 1], 1.0)
    made.scraped(3, Page(waiting=9), 1.0, 1.0)
    assert set(made.place(work("r0"), 1.0)) == {0, 1}


def test_pods_that_failed_it_are_blamed():
    made = policy()
    order = made.place(work("r0"), 0.0)
    made.finished(done("r0", order[2], attempts=3), 1.0)
    failures = column(made, col.FAILURES)
    assert [failures[pod] for pod in order] == [1.0, 1.0, 0.0, 0.0]
    again = made.place(work("r1"), 1.0)
    made.finished(done("r1", again[0], ok=False), 1.1)
    assert column(made, col.FAILURES)[again[0]] == 1.0


def test_a_request_that_nobody_had_blames_those_tried():
    made = policy(pods=2)
    made.place(work("r0"), 0.0)
    made.finished(done("r0", -1, ok=False, attempts=2), 1.0)
    assert column(made, col.FAILURES) == [1.0, 1.0]
    assert not any(column(made, col.INFLIGHT))


def test_lengths_of_answers_are_learned_and_never_known_before():
    made = policy()
    made.place(work("r0"), 0.0)
    assert sum(column(made, col.DECODE)) == 256.0
    made.finished(done("r0", 0, output=9000), 1.0)
    made.place(work("r1"), 1.0)
    assert sum(column(made, col.DECODE)) == 9000.0
    made.place(work("r2", max_output=50), 1.0)
    assert sum(column(made, col.DECODE)) == 9050.0


def test_speed_is_learned():
    made = policy()
    before = made._pods.model(POOL).token_seconds(1, 1000)
    for number in range(100):
        pod = made.place(work(f"r{number}"), float(number))[0]
        made.finished(Done(f"r{number}", pod, True, 0.2, 20.0, 100, 0), number + 0.5)
    assert made._pods.model(POOL).token_seconds(1, 1000) > 2 * before
