"""The routing table: its indexes, and that a snapshot which contradicts itself is refused as a whole."""

import re
from collections.abc import Callable

import pytest
from support_routing import policy, pool, refuse, rule, snapshot, tier, use

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.table import ModelInfo, RoutingTable, is_service
from ralb_extproc.types import Candidate


def good() -> pb.Snapshot:
    return snapshot(
        pool("small", "llama-8b", aliases=["small-model", "fast"], adapters=["sql-lora"], context_window=8000),
        pool("spare", "llama-8b-awq", aliases=["fast"], context_window=32000),
        pool("big", "qwen-235b"),
        pool("outside", "gpt", service=True),
        tier("low", 1, ("small", 3, 0), ("spare", 1, 0), ("outside", 1, 2), fallback_tiers=["ns/high"]),
        tier("high", 2, "big", "outside"),
        policy("main", use("low"), rule("hard", use("high"), complexity_min=0.7), models=["auto", "smart"]),
        policy("other", refuse(), models=["auto"]),
    )


def test_indexes() -> None:
    table = RoutingTable.of(good())
    assert table.version == "v1"
    assert set(table.pools) == {"ns/small", "ns/spare", "ns/big", "ns/outside"}
    assert [entry.id for entry in table.by_model["auto"]] == ["ns/main", "ns/other"]
    assert [entry.id for entry in table.by_model["smart"]] == ["ns/main"]
    assert table.concrete["llama-8b"] == (("ns/small", "llama-8b"),)
    assert table.concrete["small-model"] == (("ns/small", "llama-8b"),)
    assert table.concrete["sql-lora"] == (("ns/small", "sql-lora"),)
    assert table.concrete["fast"] == (("ns/small", "llama-8b"), ("ns/spare", "llama-8b-awq"))


def test_models_to_list() -> None:
    models = {info.id: info for info in RoutingTable.of(good()).models}
    assert list(models) == sorted(models)
    assert models["auto"] == ModelInfo("auto", True, 0)
    assert models["fast"] == ModelInfo("fast", False, 32000)
    assert models["sql-lora"].context_window == 8000
    assert set(models) == {
        "auto",
        "smart",
        "llama-8b",
        "small-model",
        "fast",
        "sql-lora",
        "llama-8b-awq",
        "qwen-235b",
        "gpt",
    }


def test_what_a_tier_spills_over_to_has_priorities_of_its_own_and_none_of_its_pools() -> None:
    on = RoutingTable.of(
        snapshot(
            *(pool(name) for name in "abc"),
            tier("easy", 1, "a", fallback_tiers=["ns/mid"], spill_tiers=["ns/mid", "ns/hard"]),
            tier("mid", 2, ("a", 1, 0), ("b", 1, 1), dynamic_weights=True),
            tier("hard", 3, "b", "c", prefer_price=True),
        )
    )
    found = on.tier_spill["ns/easy"]
    assert [(c.pool, c.tier, c.dynamic, c.by_price) for c in found] == [
        ("ns/b", "ns/mid", True, False),
        ("ns/c", "ns/hard", False, True),
    ]
    assert found[0].priority < found[1].priority
    assert {c.priority for c in found}.isdisjoint(c.priority for c in on.tier_candidates["ns/easy"])
    assert on.tier_spill["ns/mid"] == ()


def test_a_tiers_pools_come_before_those_it_falls_back_on_and_none_twice() -> None:
    assert RoutingTable.of(good()).tier_candidates["ns/low"] == (
        Candidate("ns/small", "llama-8b", "ns/low", 0, 3),
        Candidate("ns/spare", "llama-8b-awq", "ns/low", 0, 1),
        Candidate("ns/outside", "gpt", "ns/low", 2, 1),
        Candidate("ns/big", "qwen-235b", "ns/high", 3, 1),
    )


def test_tiers_a_policy_reaches_are_sorted_by_level() -> None:
    assert RoutingTable.of(good()).policies[0].tiers == ("ns/high", "ns/low")
    assert RoutingTable.of(good()).policies[1].tiers == ()


def test_a_name_wins_over_an_adapter_and_that_over_an_alias() -> None:
    table = RoutingTable.of(snapshot(pool("a", "m", aliases=["x", "m"], adapters=["x"])))
    assert table.concrete["x"] == (("ns/a", "x"),)
    assert table.concrete["m"] == (("ns/a", "m"),)


def test_services() -> None:
    assert is_service(pool("a", service=True))
    assert not is_service(pool("a", ready=False))
    facts = RoutingTable.of(snapshot(pool("a", service=True), pool("b", ready=False), pool("c"))).facts
    assert [facts[f"ns/{name}"].ready for name in "abc"] == [True, False, True]


def test_an_empty_snapshot_is_a_table() -> None:
    assert RoutingTable.of(pb.Snapshot()).models == ()


def edit(change: Callable[[pb.Snapshot], object]) -> pb.Snapshot:
    broken = good()
    change(broken)
    return broken


def _double(broken: pb.Snapshot) -> None:
    broken.pools.append(broken.pools[0])


def _set(path: str, value: object) -> Callable[[pb.Snapshot], object]:
    """Set a field given as "pools.0.model.name"."""

    def change(message: pb.Snapshot) -> None:
        *parents, last = path.split(".")
        target: object = message
        for step in parents:
            target = target[int(step)] if step.isdigit() else getattr(target, step)  # type: ignore[index]
        setattr(target, last, value)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_double, "pool ns/big occurs twice"),
        (_set("pools.0.id", ""), "a pool has no id"),
        (_set("pools.0.cluster", ""), "pool ns/big names no Envoy cluster"),
        (_set("pools.0.model.name", ""), "pool ns/big has no model name"),
        (lambda s: s.pools[0].model.aliases.append(""), "pool ns/big has an empty alias"),
        (_set("pools.0.endpoints.0.address", "10.0.0.1"), "pool ns/big has an endpoint address that is not ip:port"),
        (_set("pools.0.endpoints.0.address", "10.0.0.1:99999"), "not ip:port"),
        (_set("pools.0.endpoints.0.address", ":80"), "not ip:port"),
        (_set("pools.0.endpoints.0.address", "h:" + "9" * 5000), "not ip:port"),
        (lambda s: s.pools[0].endpoints.append(s.pools[0].endpoints[0]), "twice"),
        (_set("pools.0.cost.input_per_million", float("nan")), "pool ns/big has the impossible price nan"),
        (_set("pools.0.cost.output_per_million", -1.0), "impossible price"),
        (_set("tiers.0.pools.0.pool", "ns/gone"), "tier ns/high names pool ns/gone, which is not in the snapshot"),
        (_set("tiers.0.pools.0.pool", "ns/outside"), "occurs twice"),
        (lambda s: s.tiers[0].fallback_tiers.append("ns/gone"), "tier ns/high falls back on tier ns/gone"),
        (lambda s: s.tiers[0].fallback_tiers.append("ns/high"), "tier ns/high falls back on itself"),
        (lambda s: s.tiers[0].spill_tiers.append("ns/gone"), "tier ns/high spills over to tier ns/gone"),
        (lambda s: s.tiers[0].spill_tiers.append("ns/high"), "tier ns/high spills over to itself"),
        (lambda s: s.policies[0].ClearField("models"), "policy ns/main: claims no model name"),
        (_set("policies.0.default_action.tier", "ns/gone"), "policy ns/main, default: uses tier ns/gone"),
        (lambda s: s.policies[0].rules[0].ClearField("action"), "policy ns/main, rule hard: uses neither"),
        (_set("policies.1.default_action.reject.status", 200), "policy ns/other, default: rejects with status 200"),
        (_set("policies.0.rules.0.when.complexity_min", 2.0), "policy ns/main, rule hard: complexity range 2.0 to 1.0"),
        (_set("policies.0.rules.0.when.complexity_min", float("nan")), "complexity range nan"),
        (_set("policies.0.rules.0.when.confidence_min", float("inf")), "confidence inf"),
        (lambda s: s.policies[0].headers.add(name=""), "policy ns/main: a header match has no header name"),
    ],
)
def test_contradictions_are_refused_by_name(change: Callable[[pb.Snapshot], object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        RoutingTable.of(edit(change))
    assert len(str(caught.value)) < 300
