"""Pools of role Prefill serve no requests, and a snapshot that pairs pools wrongly is refused."""

from typing import Any

import pytest
from support_routing import ask, policy, pool, snapshot, tier, understood, use

from ralb.v1 import snapshot_pb2 as pb
from ralb_api.errors import ClientError, Code
from ralb_extproc.plan import plan
from ralb_extproc.table import RoutingTable


def pair(**changes: Any) -> list[pb.Pool]:
    decode, prefill = pool("decode", "m"), pool("prefill", "m")
    decode.role, prefill.role = pb.ROLE_DECODE, pb.ROLE_PREFILL
    how = {"prefill_pool": "ns/prefill", "min_prompt_tokens": 1000, "timeout_s": 30.0} | changes
    decode.disaggregation.CopyFrom(pb.Disaggregation(**how))
    return [decode, prefill]


def test_a_prefill_pool_has_no_names() -> None:
    table = RoutingTable.of(snapshot(*pair()))
    assert table.concrete == {"m": (("ns/decode", "m"),)}
    found = plan(table, ask("m"), understood())
    assert [candidate.pool for candidate in found.candidates] == ["ns/decode"]


def test_a_model_of_prefill_pools_alone_does_not_exist() -> None:
    _, prefill = pair()
    table = RoutingTable.of(snapshot(prefill, pool("other", "n")))
    assert [model.id for model in table.models] == ["n"]
    with pytest.raises(ClientError) as caught:
        plan(table, ask("m"), understood())
    assert caught.value.code is Code.MODEL_NOT_FOUND


def test_a_tier_that_names_one_goes_on_without() -> None:
    table = RoutingTable.of(
        snapshot(*pair(), tier("t", 1, "prefill", "decode"), policy("auto", use("t"), models=["auto"]))
    )
    found = plan(table, ask("auto"), understood())
    assert [candidate.pool for candidate in found.candidates] == ["ns/decode"]
    assert found.skipped == (("ns/prefill", "only computes prompts for Decode pools"),)


@pytest.mark.parametrize("timeout", [0.0, -1.0, 301.0, float("nan"), float("inf")])
def test_impossible_time_limits(timeout: float) -> None:
    with pytest.raises(ValueError, match="impossible prefill timeout"):
        RoutingTable.of(snapshot(*pair(timeout_s=timeout)))


def test_pools_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="ns/gone, which is no Prefill pool"):
        RoutingTable.of(snapshot(*pair(prefill_pool="ns/gone")))
    with pytest.raises(ValueError, match="ns/decode, which is no Prefill pool"):
        RoutingTable.of(snapshot(*pair(prefill_pool="ns/decode")))
    decode, prefill = pair()
    prefill.model.name = "n"
    with pytest.raises(ValueError, match="serves another model"):
        RoutingTable.of(snapshot(decode, prefill))
