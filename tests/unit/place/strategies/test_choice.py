"""Which strategy a pool has, who runs it, and what is learned where Envoy chose."""

import time

import orjson
import pytest
from support_routing import CHAT, HEADERS, chat, pool, snapshot

from ralb.v1 import snapshot_pb2 as pb
from ralb_api.objects import Strategy
from ralb_extproc.answer import routed
from ralb_extproc.decision import explanation, record
from ralb_extproc.feedback import Learner, Lengths, Outcome
from ralb_extproc.place import PodTable
from ralb_extproc.place.strategies import by_envoy, new_strategy
from ralb_extproc.router import Router
from ralb_extproc.table import RoutingTable
from ralb_extproc.understand import FeatureScore

ENVOYS = ("ROUND_ROBIN", "LEAST_REQUEST", "RING_HASH", "MAGLEV")


def balanced(strategy, name="a", count=3, *, role=pb.ROLE_UNIFIED, **settings):
    made = pool(name, ready=False)
    made.role = role
    made.balancing.CopyFrom(pb.Balancing(strategy=strategy, **settings))
    for number in range(count):
        made.endpoints.add(address=f"10.1.{len(name)}.{number}:8000")
    return made


def routing(*pools):
    pods = PodTable()
    pods.update(pools, 0.0)
    router = Router(pods, FeatureScore(), Lengths().expected_output, seed=1)
    router.table = RoutingTable.of(snapshot(*pools))
    return router


def decide(router, model="a", **headers):
    decision = router.decide(CHAT, {**HEADERS, **headers}, orjson.dumps(chat("Hi.", model=model)))
    assert decision.error is None
    return decision


def test_every_strategy_of_the_api_is_there_under_its_name():
    for strategy in Strategy:
        assert new_strategy(pb.Balancing(strategy=strategy.name)).name == strategy


def test_one_of_a_newer_operator_is_the_default():
    message = pb.Balancing()
    message.MergeFromString(b"\x08\x63")
    assert message.strategy == 99
    assert new_strategy(message).name == "ReasoningAware"


def test_envoy_runs_the_static_ones():
    assert [s.name for s in Strategy if by_envoy(balanced(s.name))] == list(ENVOYS)
    assert not by_envoy(balanced("RING_HASH", role=pb.ROLE_DECODE))


def test_it_is_kept_while_its_settings_are_equal():
    pods = PodTable()
    pods.update([balanced("RING_HASH")], 0.0)
    first = pods.strategy(pods.view("ns/a"))
    pods.update([balanced("RING_HASH", count=5)], 1.0)
    assert pods.strategy(pods.view("ns/a")) is first
    pods.update([balanced("RING_HASH", bounded_load_percent=200)], 2.0)
    second = pods.strategy(pods.view("ns/a"))
    assert second is not first
    pods.update([balanced("ROUND_ROBIN", bounded_load_percent=200)], 3.0)
    assert pods.balanced_by("ns/a") == "RoundRobin"
    pods.update([], 4.0)
    assert pods.balanced_by("ns/a") == ""


@pytest.mark.parametrize("strategy", ENVOYS)
def test_no_pod_is_named_where_envoy_runs_it(strategy):
    decision = decide(routing(balanced(strategy)))
    placement = decision.placement
    assert [(each.cluster, each.endpoint) for each in placement.attempts] == [("pool/a", "")] * 3
    assert (placement.reason, placement.considered) == ("envoy", 3)
    assert placement.strategy == new_strategy(pb.Balancing(strategy=strategy)).name
    assert record(decision)["placement"]["strategy"] == placement.strategy
    assert f"by {placement.strategy}" in explanation(decision)


@pytest.mark.parametrize("strategy", [each.name for each in Strategy])
def test_the_pod_is_named_where_the_processor_must(strategy):
    picked = routing(balanced(strategy)).pick("ns/a", CHAT, HEADERS, orjson.dumps(chat("Hi.")))
    assert all(each.endpoint for each in picked.placement.attempts)
    if strategy not in ENVOYS:
        assert all(each.endpoint for each in decide(routing(balanced(strategy))).placement.attempts)


def test_pods_known_to_have_failed_count_for_envoys_pools_too():
    router = routing(balanced("RING_HASH"))
    for slot in router.pods.view("ns/a").slots:
        router.pods.fail(slot, time.monotonic())
    assert decide(router).placement.reason == "saturated"


def test_the_key_goes_into_the_metadata():
    router = routing(balanced("MAGLEV", hash_header="x-user"))
    placements = [decide(router, **{"x-user": user}).placement for user in ("ann", "ann", "bob")]
    keys = [placement.hash_key for placement in placements]
    assert keys[0] == keys[1] != keys[2]
    reply = routed(b"{}", placements[0], decision_id="d", tier="", remove=())
    assert reply.dynamic_metadata.fields["ralb.decision"].struct_value.fields["hash"].string_value == keys[0]
    assert "envoy.lb" not in reply.dynamic_metadata.fields
    no_key = decide(routing(balanced("ROUND_ROBIN")), **{"x-ralb-session": "s"}).placement
    assert no_key.hash_key == ""
    reply = routed(b"{}", no_key, decision_id="d", tier="", remove=())
    assert "hash" not in reply.dynamic_metadata.fields["ralb.decision"].struct_value.fields


def test_a_service_pool_is_given_the_key_too():
    service = pool("svc", service=True)
    service.balancing.strategy = pb.Balancing.SESSION_AFFINITY
    placement = decide(routing(service), model="svc", **{"x-ralb-session": "s"}).placement
    assert placement.reason == "service"
    assert placement.strategy == "SessionAffinity"
    assert placement.hash_key


def test_what_envoy_chose_is_learned():
    router = routing(balanced("RING_HASH"))
    decision = decide(router)
    learner = Learner(router.pods, clock=lambda: 100.0)
    learner.learn(
        Outcome(
            decision_id=decision.id, status=200, attempts=1, upstream="10.1.1.2:8000", duration=2.0, output_tokens=8
        )
    )
    assert not len(router.pods.ledger)
    assert learner.unknown == 0
    slot = router.pods.slot("ns/a", "10.1.1.2:8000")
    assert router.pods.data[:, slot].tolist() != router.pods.data[:, slot - 1].tolist()


def test_strategies_hear_of_answers(monkeypatch):
    heard = []
    router = routing(balanced("POWER_OF_TWO"))
    decision = decide(router)
    strategy = router.pods.strategy(router.pods.view("ns/a"))
    monkeypatch.setattr(type(strategy), "finished", lambda self, *said: heard.append(said))
    first = decision.placement.attempts[0].endpoint
    outcome = Outcome(decision_id=decision.id, status=200, attempts=1, upstream=first, duration=2.0, ttft=0.5)
    Learner(router.pods, clock=lambda: 100.0).learn(outcome)
    ((slot, served, now),) = heard
    assert (slot, served.duration, served.ttft, now) == (router.pods.slot("ns/a", first), 2.0, 0.5, 100.0)


def test_failed_answers_teach_strategies_nothing(monkeypatch):
    router = routing(balanced("POWER_OF_TWO"))
    strategy = router.pods.strategy(router.pods.view("ns/a"))
    monkeypatch.setattr(type(strategy), "finished", lambda self, *said: pytest.fail("told of a failure"))
    learner = Learner(router.pods, clock=lambda: 100.0)
    for changes in ({"status": 500}, {"status": 200, "aborted": True}, {"status": 200, "attempts": 2}):
        decision = decide(router)
        first = decision.placement.attempts[0].endpoint
        learner.learn(
            Outcome(**{"decision_id": decision.id, "attempts": 1, "upstream": first, "duration": 0.01} | changes)
        )
