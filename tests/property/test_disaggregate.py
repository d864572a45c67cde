"""Whatever becomes of the two legs of requests, in whatever order: nobody is left charged, and no placement is absurd."""

from dataclasses import replace
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.place import Ask, Dice, PodSample, PodTable, commit, hash_blocks, place_plan
from ralb_extproc.place import columns as col
from ralb_extproc.place.disaggregate import charge, fall_back, hand_over, leg_id
from ralb_extproc.types import Candidate, HandoffReason, Placement, Plan

NOW = 500.0
PLAN = Plan("", "", "", "", (Candidate("d", "m", "", 0, 1), Candidate("u", "m", "", 1, 1)))

requests = st.tuples(
    st.integers(0, 40_000),  # prompt tokens
    st.integers(0, 3),  # which prompt
    st.booleans(),  # splittable
    st.lists(st.sampled_from(["leg", "fall_back", "done", "fail_prefill"]), max_size=4),
)
pods = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1)), max_size=4)


def pool(name: str, count: int, role: pb.Role) -> pb.Pool:
    made = pb.Pool(id=name, cluster=name, rewrite_cluster=f"{name}/rewrite", model=pb.Model(name="m"), role=role)
    made.metrics_path = "/metrics"
    for i in range(count):
        made.endpoints.add(address=f"{name}{i}:1")
    if role == pb.ROLE_DECODE:
        made.disaggregation.prefill_pool = "p"
        made.disaggregation.min_prompt_tokens = 1000
        made.disaggregation.timeout_s = 10.0
    return made


@settings(max_examples=60, deadline=None)
@given(pods, pods, st.lists(requests, max_size=8), st.integers(1, 5))
def test_all_load_is_given_back(
    decode: list[tuple[int, int, float]],
    prefill: list[tuple[int, int, float]],
    asked: list[tuple[int, int, bool, list[str]]],
    attempts: int,
) -> None:
    pools = [
        pool("d", len(decode), pb.ROLE_DECODE),
        pool("p", len(prefill), pb.ROLE_PREFILL),
        pool("u", 2, pb.ROLE_UNIFIED),
    ]
    table = SimpleNamespace(pools={each.id: each for each in pools})
    known, dice = PodTable(), Dice(1)
    known.update(pools, 0.0)
    for name, said in (("d", decode), ("p", prefill)):
        for i, (waiting, running, kv) in enumerate(said):
            slot = known.slot(name, f"{name}{i}:1")
            assert slot is not None
            known.observe(slot, PodSample(NOW, waiting, running, kv), NOW)
    for number, (tokens, prompt, splittable, events) in enumerate(asked):
        request_id = f"r{number}"
        ask = Ask(tokens, 100, hash_blocks(bytes([prompt]) * tokens))
        whole = place_plan(table, known, PLAN, ask, NOW, dice, attempts)
        placement = hand_over(table, known, whole, ask, NOW, dice, splittable=lambda said=splittable: said)
        _sound(placement, whole, table, tokens, splittable)
        commit(known, request_id, placement, PLAN, ask, NOW)
        charge(known, request_id, placement, ask, NOW)
        remote = placement.handoff is not None and placement.handoff.remote
        assert len(known.ledger) == 1 + remote
        for event in events:
            if event == "leg":
                known.finish(leg_id(request_id))
            elif event == "done":
                known.finish(request_id)
            elif event == "fail_prefill" and prefill:
                slot = known.slot("p", "p0:1")
                assert slot is not None
                known.fail(slot, NOW)
            elif event == "fall_back" and remote and known.finish(request_id) is not None:
                known.finish(leg_id(request_id))
                placement = fall_back(placement, ask, HandoffReason.TIMEOUT)
                remote = False
                commit(known, request_id, placement, PLAN, ask, NOW)
                flight = known.ledger.get(request_id)
                assert flight is not None
                assert not flight.info.remote
        known.finish(request_id)
        known.finish(leg_id(request_id))
        assert not known.ledger
        assert not known.data[[col.INFLIGHT, col.PREFILL, col.DECODE]].any()


def _sound(placement: Placement, whole: Placement, table: SimpleNamespace, tokens: int, splittable: bool) -> None:
    names = [(each.pool, each.endpoint) for each in placement.attempts]
    assert len(set(names)) == len(names) <= len(whole.attempts)
    assert not any(each.pool == "p" for each in placement.attempts)
    handoff = placement.handoff
    if placement.attempts[0].pool != "d":
        assert handoff is None
        return
    assert handoff is not None
    if not handoff.remote:
        assert replace(placement, handoff=None) == whole
        return
    assert splittable
    assert tokens >= 1000
    assert 0 <= handoff.uncached_tokens <= tokens
    assert 0.0 <= placement.prefix_hit <= 1.0
    assert handoff.endpoint in {each.address for each in table.pools["p"].endpoints}
    assert [each.cluster for each in placement.attempts[1:]] == [f"{pool}/rewrite" for pool, _ in names[1:]]
