"""Plans keep their promises whatever the snapshot and the request."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support_routing import ask, policy, pool, refuse, rule, snapshot, tier, understood, use

from ralb.v1 import snapshot_pb2 as pb
from ralb_api.errors import ClientError
from ralb_extproc.match import Condition
from ralb_extproc.plan import needed, plan
from ralb_extproc.table import RoutingTable
from ralb_extproc.types import Api, Plan, Request, Understanding

ABILITIES = ["Chat", "Completions", "Embeddings", "Tools", "Vision", "Audio", "StructuredOutput"]
API_ABILITY = {Api.CHAT: "chat", Api.RESPONSES: "chat", Api.MESSAGES: "chat", Api.COMPLETIONS: "completions"}
NAMES = ["p0", "p1", "p2", "p3", "p4"]
TIERS = ["t0", "t1", "t2"]
INTENTS = ["code", "maths", "chat"]

pools = st.fixed_dictionaries(
    {
        "ready": st.booleans(),
        "service": st.booleans(),
        "context_window": st.sampled_from([0, 100, 1000, 10_000]),
        "capabilities": st.one_of(st.just([]), st.lists(st.sampled_from(ABILITIES), unique=True)),
        "aliases": st.lists(st.sampled_from(["alias", "p0"]), max_size=1),
    }
)
members = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 3), st.integers(0, 2)), max_size=4, unique_by=lambda m: m[0]
)
conditions = st.fixed_dictionaries(
    {},
    optional={
        "intents": st.lists(st.sampled_from(INTENTS), max_size=2),
        "complexity_min": st.sampled_from([0.0, 0.3, 0.6]),
        "complexity_max": st.sampled_from([0.6, 0.8, 1.0]),
        "tools": st.booleans(),
        "input_tokens_max": st.sampled_from([50, 5000]),
        "labels": st.just(["special"]),
    },
)
actions = st.one_of(
    st.builds(use, st.sampled_from(TIERS), output_cap=st.sampled_from([0, 50, 2000])), st.builds(refuse)
)


@st.composite
def snapshots(draw: st.DrawFn) -> pb.Snapshot:
    parts: list[Any] = [pool(name, **draw(pools)) for name in NAMES]
    for index, name in enumerate(TIERS):
        later = [f"ns/{other}" for other in TIERS[index + 1 :] if draw(st.booleans())]
        parts.append(
            tier(name, index + 1, *draw(members), fallback_tiers=later, spill_tiers=draw(st.sampled_from([[], later])))
        )
    for index in range(draw(st.integers(0, 3))):
        rules = [rule(f"r{i}", draw(actions), **draw(conditions)) for i in range(draw(st.integers(0, 3)))]
        models = draw(st.lists(st.sampled_from(["auto", "smart"]), min_size=1, unique=True))
        hosts = draw(st.sampled_from([[], ["api.example.com"], ["*.other.com"]]))
        parts.append(policy(f"policy{index}", draw(actions), *rules, models=models, hostnames=hosts))
    return snapshot(*parts)


requests = st.builds(
    ask,
    st.sampled_from(["auto", "smart", "p0", "p3", "alias", "unknown"]),
    api=st.sampled_from(Api),
    input_tokens=st.sampled_from([1, 99, 900, 20_000]),
    max_output=st.sampled_from([0, 1, 100, 9000]),
    tools=st.sampled_from([(), ("f",)]),
    images=st.sampled_from([0, 0, 1]),
    structured=st.booleans(),
    headers=st.sampled_from([{}, {}, {"x-ralb-max-tier": "1"}, {"x-ralb-max-tier": "t1"}]),
)
understandings = st.builds(
    understood, st.sampled_from(INTENTS), st.floats(0, 1), st.floats(0, 1), label=st.sampled_from(["", "special"])
)


def outcome(table: RoutingTable, request: Request, understanding: Understanding) -> Plan | ClientError:
    try:
        return plan(table, request, understanding)
    except ClientError as error:
        return error


def same(one: Plan | ClientError, other: Plan | ClientError) -> bool:
    if isinstance(one, ClientError) and isinstance(other, ClientError):
        return (one.status, one.code) == (other.status, other.code)
    return one == other


@settings(max_examples=200, deadline=None)
@given(snapshots(), requests, understandings)
def test_every_candidate_can_serve(message: pb.Snapshot, request: Request, understanding: Understanding) -> None:
    table = RoutingTable.of(message)
    found = outcome(table, request, understanding)
    if isinstance(found, ClientError):
        assert 400 <= found.status < 600
        return
    assert found.candidates
    ids = [candidate.pool for candidate in found.candidates]
    assert len(set(ids)) == len(ids)
    assert [c.priority for c in found.candidates] == sorted(c.priority for c in found.candidates)
    assert not set(ids) & {name for name, _ in found.skipped}
    answer = min(request.max_output, found.output_cap) if found.output_cap else request.max_output
    assert not {c.pool for c in found.spill} & {c.pool for c in found.candidates if c.tier == found.tier}
    assert not {c.priority for c in found.spill} & {c.priority for c in found.candidates}
    for candidate in (*found.candidates, *found.spill):
        served = table.pools[candidate.pool]
        declared = {word.lower() for word in served.model.capabilities}
        assert served.endpoints or not served.metrics_path
        window = served.model.context_window
        assert not window or request.input_tokens + answer <= window
        assert not declared or declared >= set(needed(request))
        if declared & {"chat", "completions", "embeddings"}:
            assert API_ABILITY.get(request.api, "embeddings") in declared
        assert candidate.model in (served.model.name, request.model)
    if found.tier and "x-ralb-max-tier" in request.headers:
        limit = {"1": 1, "t1": 2}[request.headers["x-ralb-max-tier"]]
        assert all(table.tiers[c.tier].level <= limit for c in (*found.candidates, *found.spill))


@settings(max_examples=80, deadline=None)
@given(snapshots(), requests, understandings)
def test_plans_depend_on_nothing_else(message: pb.Snapshot, request: Request, understanding: Understanding) -> None:
    again = pb.Snapshot.FromString(message.SerializeToString())
    one = outcome(RoutingTable.of(message), request, understanding)
    assert same(one, outcome(RoutingTable.of(again), request, understanding))


@settings(max_examples=80, deadline=None)
@given(snapshots(), requests, understandings)
def test_the_rule_is_the_first_that_holds(message: pb.Snapshot, request: Request, understanding: Understanding) -> None:
    found = outcome(RoutingTable.of(message), request, understanding)
    if isinstance(found, ClientError) or not found.policy:
        return
    owner = next(each for each in message.policies if each.id == found.policy)
    holding = [each.name for each in owner.rules if Condition.of(each.when).holds(request, understanding)]
    assert found.rule == (holding[0] if holding else "default")


@settings(max_examples=80, deadline=None)
@given(snapshots(), requests, understandings, actions, st.integers(0, 3))
def test_a_policy_for_other_traffic_changes_nothing(
    message: pb.Snapshot, request: Request, understanding: Understanding, action: pb.Action, at: int
) -> None:
    before = outcome(RoutingTable.of(message), request, understanding)
    stranger = policy("stranger", action, models=["nobody-asks-for-this"])
    elsewhere = policy("elsewhere", action, models=["auto", "smart", "p0"], hostnames=["nowhere.example"])
    policies = list(message.policies)
    policies[at:at] = [stranger, elsewhere]
    changed = pb.Snapshot(version=message.version, pools=message.pools, tiers=message.tiers, policies=policies)
    after = outcome(RoutingTable.of(changed), request, understanding)
    if request.model == "p0" or not isinstance(before, ClientError) or before.code != "model_not_found":
        assert same(before, after)


@settings(max_examples=80, deadline=None)
@given(snapshots(), requests, understandings)
def test_more_room_never_loses_a_candidate(
    message: pb.Snapshot, request: Request, understanding: Understanding
) -> None:
    table = RoutingTable.of(message)
    longer = outcome(table, request, understanding)
    if isinstance(longer, ClientError) or any(
        each.when.HasField("input_tokens_max") for p in message.policies for each in p.rules
    ):
        return
    shorter = outcome(table, replace(request, input_tokens=1, max_output=0), understanding)
    assert isinstance(shorter, Plan)
    assert {c.pool for c in longer.candidates} <= {c.pool for c in shorter.candidates}
