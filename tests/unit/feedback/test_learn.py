import dataclasses

import numpy as np
import pytest

from ralb.v1.snapshot_pb2 import Endpoint, Pool
from ralb_extproc.feedback import Failure, Learner, Outcome, Usage
from ralb_extproc.place import FlightInfo, PodTable, hash_blocks, health
from ralb_extproc.place import columns as col

PREFIX = hash_blocks(b"p" * 4096)
GOOD = Outcome(
    decision_id="d", request_id="x", path="/v1/chat/completions", status=200, attempts=1, upstream="a:1", duration=1.0
)


class World:
    def __init__(self):
        self.pods = PodTable()
        self.pods.update(
            [
                Pool(id="ns/a", endpoints=[Endpoint(address=f"a:{i}") for i in (1, 2, 3)]),
                Pool(id="ns/b", endpoints=[Endpoint(address="b:1")]),
            ],
            0.0,
        )
        self.settled = []
        self.learner = Learner(self.pods, settled=self.settled.append, clock=lambda: 100.0)

    def slot(self, address):
        return self.pods.slot(f"ns/{address[0]}", address)

    def begin(self, *addresses, key="d", **info):
        attempts = tuple((self.slot(a), self.pods.key(self.slot(a)).generation) if a else (-1, -1) for a in addresses)
        pools = tuple(f"ns/{a[0]}" if a else "ns/service" for a in addresses)
        full = FlightInfo(
            pool=pools[0], tier="ns/t", intent="chat", attempts=attempts, pools=pools, prefix=PREFIX, **info
        )
        self.pods.begin(key, attempts[0][0], 1000, 100, 99.0, full)

    def learn(self, **changes):
        self.learner.learn(dataclasses.replace(GOOD, **changes))
        return self.settled[-1]

    def failures(self, address):
        return float(self.pods.data[col.FAILURES, self.slot(address)])


def test_load_is_released_and_the_request_joined():
    world = World()
    world.begin("a:1", "a:2")
    got = world.learn(output_tokens=10, input_tokens=900)
    assert (got.pool, got.tier, got.endpoint, got.slot) == ("ns/a", "ns/t", "a:1", world.slot("a:1"))
    assert got.usage == Usage(900, 10)
    assert not world.pods.data[col.INFLIGHT].any()
    assert len(world.pods.ledger) == 0


def test_found_by_request_id_too():
    world = World()
    world.begin("a:1", key="x")
    assert world.learn(decision_id="").pool == "ns/a"


def test_stranger():
    world = World()
    got = world.learn()
    assert (got.flight, got.pool, got.usage) == (None, "", None)
    assert world.learner.unknown == 1


def test_tries_before_the_last_are_blamed():
    world = World()
    world.begin("a:1", "a:2", "b:1")
    got = world.learn(attempts=3, upstream="b:1")
    assert (got.pool, got.endpoint) == ("ns/b", "b:1")
    assert (world.failures("a:1"), world.failures("a:2"), world.failures("b:1")) == (1, 1, 0)


def test_success_clears_the_one_that_served():
    world = World()
    world.begin("a:1", "a:2")
    world.pods.fail(world.slot("a:2"), 90.0)
    world.learn(attempts=2, upstream="a:2")
    assert (world.failures("a:1"), world.failures("a:2")) == (1, 0)


@pytest.mark.parametrize("failure", [Failure.CONNECT, Failure.RESET, Failure.TIMEOUT, Failure.STATUS])
def test_failure_of_the_last_try_is_blamed(failure):
    world = World()
    world.begin("a:1")
    world.learn(status=503, failure=failure)
    assert world.failures("a:1") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 503, "failure": Failure.OVERFLOW},
        {"status": 0, "aborted": True},
        {"status": 0, "aborted": True, "failure": Failure.RESET},
        {"status": 503, "attempts": 0, "upstream": "", "failure": Failure.NO_UPSTREAM},
    ],
)
def test_what_proves_nothing_about_the_pod(changes):
    world = World()
    world.begin("a:1")
    world.pods.fail(world.slot("a:1"), 90.0)
    world.learn(**changes)
    assert world.failures("a:1") == 1


def test_a_client_error_shows_that_the_pod_lives():
    world = World()
    world.begin("a:1")
    world.pods.fail(world.slot("a:1"), 90.0)
    assert world.learn(status=400).usage is None
    assert world.failures("a:1") == 0


def test_fallback_pod_that_was_not_planned():
    world = World()
    world.begin("a:1")
    got = world.learn(attempts=2, upstream="a:3")
    assert (got.pool, got.slot) == ("ns/a", world.slot("a:3"))
    assert world.failures("a:1") == 1


def test_prompt_moves_to_the_pod_that_served():
    world = World()
    world.begin("a:1", "a:2")
    world.learn(attempts=2, upstream="a:2")

    assert world.pods.prefix_hits(PREFIX, world.pods.view("ns/a"), 100)[1] > 99


def test_pod_gone_meanwhile():
    world = World()
    world.begin("a:1", "a:2")
    world.pods.update([Pool(id="ns/b", endpoints=[Endpoint(address="b:1"), Endpoint(address="b:2")])], 100.0)
    before = world.pods.data.copy()
    got = world.learn(attempts=2, upstream="a:2", ttft=0.5, cached_tokens=10)
    assert (got.slot, got.pool) == (-1, "ns/a")
    assert (world.pods.data == before).all()


def test_service_pool():
    world = World()
    world.begin("", "a:1")
    got = world.learn(upstream="93.184.216.34:443", input_tokens=5, output_tokens=6)
    assert (got.pool, got.slot, got.usage) == ("ns/service", -1, Usage(5, 6))


def test_prefill_rate_and_trust_are_corrected():
    world = World()
    world.begin("a:1", hit_tokens=800, input_tokens=1800)
    world.learn(ttft=10.0, cached_tokens=0, input_tokens=1800, output_tokens=1)
    assert world.pods.data[col.PREFILL_RATE, world.slot("a:1")] < col.INITIAL_PREFILL_RATE
    assert world.pods.data[col.HIT_TRUST, world.slot("a:1")] == pytest.approx(0.95)


def test_retried_requests_teach_no_speed():
    world = World()
    world.begin("a:1", "a:1", hit_tokens=800)
    world.learn(attempts=2, ttft=10.0, cached_tokens=0)
    assert world.pods.data[col.PREFILL_RATE, world.slot("a:1")] == col.INITIAL_PREFILL_RATE
    assert world.pods.data[col.HIT_TRUST, world.slot("a:1")] == 1.0


def test_usage_is_estimated_from_sizes_where_it_is_not_said():
    world = World()
    for _ in range(200):
        world.begin("a:1", stream=True, input_tokens=77)
        world.learn(input_tokens=77, output_tokens=10, response_bytes=1000)
    world.begin("a:1", stream=True, input_tokens=77)
    usage = world.learn(response_bytes=5000).usage
    assert usage == Usage(77, 50, estimated=True)


def test_impossible_shares_are_cut():
    world = World()
    world.begin("a:1")
    usage = world.learn(input_tokens=10, output_tokens=5, cached_tokens=99, reasoning_tokens=99).usage
    assert (usage.cached, usage.reasoning) == (10, 5)


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({"status": 429}, 1.0),
        ({"status": 429, "retry_after": 20.0}, 20.0),
        ({"status": 503, "failure": Failure.STATUS, "retry_after": 30.0}, 30.0),
    ],
)
def test_a_pod_that_wants_no_work_gets_none_and_is_not_blamed(changes, seconds):
    world = World()
    world.begin("a:1")
    world.learn(**changes)
    assert world.failures("a:1") == 0
    assert world.pods.ward.state[health.LIMITED, world.slot("a:1")] == 100.0 + seconds


def test_our_own_refusals_limit_nobody():
    world = World()
    world.begin("a:1")
    world.learn(status=429, attempts=0, upstream="", retry_after=None)
    assert not np.isfinite(world.pods.ward.state[health.LIMITED]).any()


def test_times_are_learned_of_the_pod_that_was_asked():
    world = World()
    world.begin("a:1", stream=True, input_tokens=900)
    world.learn(output_tokens=50, input_tokens=900, ttft=0.2, duration=1.2)
    world.begin("a:1", "a:2", stream=True, input_tokens=900)
    world.learn(output_tokens=50, input_tokens=900, ttft=9.0, duration=9.2, attempts=2, upstream="a:2")
    assert world.pods.ward.answers("ns/a", world.slot("a:1")) == (1, 1, 0)
    assert world.pods.ward.answers("ns/a", world.slot("a:2")) == (0, 0, 0)


def test_an_answer_in_one_piece_is_timed_as_a_whole():
    world = World()
    world.begin("a:1", input_tokens=900)
    world.learn(output_tokens=50, input_tokens=900, ttft=1.2, duration=1.2)
    assert world.pods.ward.answers("ns/a", world.slot("a:1")) == (0, 0, 1)


def test_lengths_are_learned_by_what_was_asked():
    world = World()
    for effort, tokens in (("low", 100), ("high", 4000)):
        world.begin("a:1", effort=effort, adapter="legal", input_tokens=900)
        world.learn(output_tokens=tokens, input_tokens=900)
    lengths = world.learner.lengths
    assert lengths.expected_output("ns/a", "chat", "low") == 100
    assert lengths.expected_output("ns/a", "chat", "high", "legal") == 4000
    assert lengths.expected_output("ns/a", "chat") == 2050
