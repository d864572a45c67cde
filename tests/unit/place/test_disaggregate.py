"""Who computes a prompt, and what is charged to whom."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.place import Ask, Dice, PodSample, PodTable, commit, hash_blocks, place_plan
from ralb_extproc.place import columns as col
from ralb_extproc.place.disaggregate import charge, fall_back, hand_over, leg_id
from ralb_extproc.types import Attempt, Candidate, HandoffReason, Placement, Plan

NOW = 1000.0
ASK = Ask(input_tokens=8000, output_tokens=100)


def pool(name: str, count: int, role: pb.Role = pb.ROLE_UNIFIED, model: str = "m", **fields: Any) -> pb.Pool:
    return pb.Pool(
        id=f"ns/{name}",
        cluster=f"plain/{name}",
        rewrite_cluster=f"rewrite/{name}",
        model=pb.Model(name=model, adapters=["lora"]),
        endpoints=[pb.Endpoint(address=f"{name}-{i}:80") for i in range(count)],
        metrics_path="/metrics",
        role=role,
        **fields,
    )


def how(**fields: Any) -> pb.Disaggregation:
    return pb.Disaggregation(prefill_pool="ns/p", **({"min_prompt_tokens": 2000, "timeout_s": 30.0} | fields))


class World:
    def __init__(self, decode: int = 3, prefill: int = 2, cap: int = 0, **fields: Any) -> None:
        pools = [
            pool("d", decode, pb.ROLE_DECODE, disaggregation=how(**fields)),
            pool("p", prefill, pb.ROLE_PREFILL, concurrency_per_replica=cap),
            pool("u", 1),
            pool("other", 1, model="other"),
        ]
        self.table = SimpleNamespace(pools={each.id: each for each in pools})
        self.pods = PodTable()
        self.pods.update(pools, 0.0)
        for each in pools:
            for endpoint in each.endpoints:
                self.say(endpoint.address)
        self.dice = Dice(7)

    def slot(self, address: str) -> int:
        found = self.pods.slot(f"ns/{address.split('-')[0]}", address)
        assert found is not None
        return found

    def say(self, address: str, waiting: int = 0, running: int = 0, kv: float = 0.1) -> None:
        self.pods.observe(self.slot(address), PodSample(NOW, waiting, running, kv), NOW)

    def plan(self, *names: str, model: str = "m") -> Plan:
        models = {"other": "other"}
        candidates = [Candidate(f"ns/{name}", models.get(name, model), "ns/t", at, 1) for at, name in enumerate(names)]
        return Plan("", "", "ns/t", "t", tuple(candidates))

    def place(self, *names: str, ask: Ask = ASK, splittable: bool = True, model: str = "m") -> Placement:
        names = names or ("d",)
        placement = place_plan(self.table, self.pods, self.plan(*names, model=model), ask, NOW, self.dice)
        return hand_over(self.table, self.pods, placement, ask, NOW, self.dice, splittable=lambda: splittable)

    def reason(self, **options: Any) -> str:
        handoff = self.place(**options).handoff
        assert handoff is not None
        return str(handoff.reason)

    def take(self, request_id: str, placement: Placement, ask: Ask = ASK) -> None:
        commit(self.pods, request_id, placement, self.plan("d"), ask, NOW)
        charge(self.pods, request_id, placement, ask, NOW)


def test_other_pools_are_left_alone() -> None:
    world = World()
    placement = world.place("u")
    assert placement.handoff is None


def test_long_prompts_go_to_both() -> None:
    world = World()
    placement = world.place()
    handoff = placement.handoff
    assert handoff is not None
    assert handoff.remote
    assert handoff.pool == "ns/p"
    assert handoff.endpoint.startswith("p-")
    assert handoff.uncached_tokens == 8000
    assert handoff.expected == pytest.approx(8000 / col.INITIAL_PREFILL_RATE)
    assert placement.uncached_tokens == 0
    assert placement.attempts[0].cluster == "plain/d"


def test_later_attempts_go_where_the_blocks_are_taken_out() -> None:
    placement = World().place("d", "u", "other")
    assert [attempt.cluster for attempt in placement.attempts] == ["plain/d", "rewrite/d", "rewrite/u", "rewrite/other"]
    assert len({attempt.endpoint for attempt in placement.attempts}) == 4


def test_later_attempts_under_a_name_that_would_be_rewritten_are_left_out() -> None:
    world = World()
    world.table.pools["ns/u"].model.name = "base"  # it knows "m" as an adapter
    assert {attempt.pool for attempt in world.place("d", "u").attempts} == {"ns/d"}


@pytest.mark.parametrize(
    ("fields", "options", "reason"),
    [
        ({"min_prompt_tokens": 8001}, {}, "unified-short"),
        ({"min_prompt_tokens": 8000}, {}, "remote"),
        ({}, {"splittable": False}, "unified-unsupported"),
        ({}, {"model": "lora"}, "unified-unsupported"),
        ({"prefill": 0}, {}, "unified-no-prefill"),
        ({"timeout_s": 0.1}, {}, "unified-slower"),
    ],
)
def test_reasons(fields: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    assert World(**fields).reason(**options) == reason


def test_a_decode_pod_that_holds_the_prompt_computes_the_rest() -> None:
    world = World()
    prompt = hash_blocks(b"x" * 32_000)
    ask = replace(ASK, prefix=prompt)
    world.pods.record_prefix(prompt, world.slot("d-1:80"))
    placement = world.place(ask=ask)
    assert placement.handoff is not None
    assert placement.handoff.reason == "unified-short"
    assert placement.attempts[0].endpoint == "d-1:80"
    assert placement.attempts[1].cluster == "plain/d"


def test_the_prefill_pod_that_holds_the_prompt() -> None:
    world = World(prefill=4)
    prompt = hash_blocks(b"x" * 16_000)
    world.pods.record_prefix(prompt, world.slot("p-2:80"))
    handoff = world.place(ask=Ask(8000, 100, hash_blocks(b"x" * 16_000 + b"y" * 16_000))).handoff
    assert handoff is not None
    assert handoff.endpoint == "p-2:80"
    assert 3500 < handoff.uncached_tokens < 4500


def test_the_decode_pod_is_chosen_by_its_load_alone() -> None:
    world = World()
    prompt = hash_blocks(b"x" * 16_000)
    ask = Ask(8000, 100, hash_blocks(b"x" * 16_000 + b"y" * 16_000))
    world.pods.record_prefix(prompt, world.slot("d-0:80"))
    for address, running in (("d-0:80", 30), ("d-1:80", 28), ("d-2:80", 20)):
        world.say(address, 0, running)
    world.pods.data[col.HIT_TRUST] = 1.0
    placement = world.place(ask=ask)
    assert placement.handoff is not None
    assert placement.handoff.remote
    assert placement.attempts[0].endpoint == "d-2:80"


def test_backlog_spreads_prompts_over_the_prefill_pods() -> None:
    world = World()
    for number in range(4):
        world.take(f"r{number}", world.place())
    legs = [flight.slot for flight in world.pods.ledger if flight.id.endswith("/prefill")]
    assert sorted(legs.count(world.slot(f"p-{i}:80")) for i in range(2)) == [2, 2]


def test_a_queue_longer_than_it_is_worth() -> None:
    world = World(prefill=1)
    reasons = []
    for number in range(4):
        placement = world.place()
        world.take(f"r{number}", placement)
        assert placement.handoff is not None
        reasons.append(str(placement.handoff.reason))
    # Twice the time an idle decode pod needs is the limit.
    assert reasons[:2] == ["remote", "remote"]
    assert "unified-slower" in reasons[2:]


def test_no_prefill_pod_is_fit() -> None:
    world = World(prefill=1)
    world.pods.fail(world.slot("p-0:80"), NOW)
    world.pods.fail(world.slot("p-0:80"), NOW)
    assert world.reason() == "unified-no-prefill"


def test_prefill_pods_at_their_cap_are_not_asked() -> None:
    world = World(cap=1)
    for number in range(2):
        world.take(f"r{number}", world.place())
    assert world.reason() == "unified-no-prefill"


def test_both_legs_are_charged_and_released() -> None:
    world = World(decode=1, prefill=1)
    d, p, data = world.slot("d-0:80"), world.slot("p-0:80"), world.pods.data
    world.take("r", world.place())
    assert data[[col.INFLIGHT, col.PREFILL, col.DECODE], d].tolist() == [1, 0, 100]
    assert data[[col.INFLIGHT, col.PREFILL], p].tolist() == [1, 8000]
    flight = world.pods.finish(leg_id("r"))
    assert flight is not None
    assert flight.slot == p
    assert data[[col.INFLIGHT, col.PREFILL, col.DECODE], p].tolist() == [0, 0, 0]
    flight = world.pods.finish("r")
    assert flight is not None
    assert flight.info.remote
    assert data[[col.INFLIGHT, col.PREFILL, col.DECODE], d].tolist() == [0, 0, 0]
    assert not world.pods.ledger


def test_both_pods_will_hold_the_prompt() -> None:
    world = World(decode=1, prefill=1)
    ask = replace(ASK, prefix=hash_blocks(b"x" * 32_000))
    world.take("r", world.place(ask=ask), ask)
    for address in ("d-0:80", "p-0:80"):
        view = world.pods.view(f"ns/{address[0]}")
        assert view is not None
        hits = world.pods.prefix_hits(ask.prefix, view, 8000)
        assert hits is not None
        assert hits[0] > 7900


def test_falling_back() -> None:
    world = World()
    prompt = hash_blocks(b"x" * 8_000)
    ask = Ask(8000, 100, hash_blocks(b"x" * 8_000 + b"y" * 24_000))
    for i in range(3):
        world.pods.record_prefix(prompt, world.slot(f"d-{i}:80"))
    placement = world.place(ask=ask)
    after = fall_back(placement, ask, HandoffReason.TIMEOUT)
    assert after.attempts == placement.attempts
    assert after.handoff is not None
    assert placement.handoff is not None
    assert (after.handoff.reason, after.handoff.endpoint) == ("failed-timeout", placement.handoff.endpoint)
    assert 5500 < after.uncached_tokens < 6500
    assert not after.handoff.remote


def test_a_decode_pod_that_envoy_chooses() -> None:
    world = World()
    attempts = tuple(Attempt("ns/d", "plain/d", "", "m") for _ in range(3))
    placement = hand_over(
        world.table,
        world.pods,
        Placement(attempts, uncached_tokens=8000),
        ASK,
        NOW,
        world.dice,
        splittable=lambda: True,
    )
    assert placement.handoff is not None
    assert placement.handoff.remote
    assert [each.cluster for each in placement.attempts] == ["plain/d", "rewrite/d", "rewrite/d"]
    assert not any(each.endpoint for each in placement.attempts)
