import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from support_net import wait_until
from support_routing import CHAT, HEADERS, policy, pool, rule, snapshot, tier, use

from ralb_api.errors import ClientError, Code
from ralb_extproc.cost import dollars, top_tier_dollars
from ralb_extproc.decision import Decision, explanation, record
from ralb_extproc.feedback import Lengths, Outcome, Settled, Usage
from ralb_extproc.place import PodTable
from ralb_extproc.records import Records
from ralb_extproc.router import Router
from ralb_extproc.sink import RecordSink
from ralb_extproc.table import RoutingTable
from ralb_extproc.understand import FeatureScore


def table() -> RoutingTable:
    small, big = pool("small"), pool("big")
    small.cost.input_per_million, small.cost.cached_input_per_million, small.cost.output_per_million = 1.0, 0.1, 2.0
    big.cost.input_per_million, big.cost.cached_input_per_million, big.cost.output_per_million = 10.0, 1.0, 20.0
    return RoutingTable.of(
        snapshot(
            small,
            big,
            tier("small", 1, "small"),
            tier("big", 3, "big"),
            policy("p", use("small"), rule("hard", use("big"), complexity_min=0.99)),
        )
    )


def router() -> Router:
    pods = PodTable()
    made = Router(pods, FeatureScore(), Lengths().expected_output, seed=1)
    made.table = table()
    pods.update(made.table.pools.values(), 0.0)
    return made


def body(text: str = "hello", **fields: Any) -> bytes:
    return orjson.dumps({"model": "auto", "messages": [{"role": "user", "content": text}], **fields})


def settled(decision: Decision, usage: Usage | None = None) -> Settled:
    outcome = Outcome(decision_id=decision.id, status=200, attempts=2, upstream="10.0.0.9:1", ttft=0.5, duration=1.25)
    return Settled(outcome, pool="ns/small", tier="ns/small", endpoint="10.0.0.9:1", usage=usage)


def test_a_routed_request_passes_every_stage_and_is_charged() -> None:
    made = router()
    decision = made.decide(CHAT, HEADERS, body())
    assert decision.error is None
    assert set(decision.stages) == {"parse", "understand", "plan", "place"}
    assert decision.placement is not None
    assert decision.placement.attempts[0].pool == "ns/small"
    assert len(made.pods.ledger) == 1
    assert made.pods.finish(decision.id) is not None


def test_a_refused_request_keeps_what_was_known_and_charges_nothing() -> None:
    made = router()
    decision = made.decide(
        CHAT, HEADERS, orjson.dumps({"model": "nope", "messages": [{"role": "user", "content": "x"}]})
    )
    assert decision.error is not None
    assert decision.error.code == Code.MODEL_NOT_FOUND
    assert decision.understanding is not None
    assert decision.placement is None
    assert not len(made.pods.ledger)


def test_without_a_snapshot_nothing_is_decided() -> None:
    made = Router(PodTable(), FeatureScore(), Lengths().expected_output)
    decision = made.decide(CHAT, HEADERS, body())
    assert decision.error is not None
    assert (decision.error.status, decision.error.code) == (503, Code.NOT_READY)
    assert ("retry-after", "1") in decision.error.headers


def test_ids_are_unique_over_processors() -> None:
    ids = {made.open(CHAT).id for made in (router(), router()) for _ in range(100)}
    assert len(ids) == 200


def test_records_hold_no_prompt_text() -> None:
    secret = "xyzzy-prompt-text"
    decision = router().decide(CHAT, HEADERS | {"authorization": "Bearer hidden"}, body(secret, user=secret))
    text = orjson.dumps(record(decision, {"status": 200})).decode() + explanation(decision)
    assert secret not in text
    assert "hidden" not in text


def test_explanation_is_one_bounded_line_of_ascii() -> None:
    decision = router().decide(CHAT, HEADERS, body("Prove it — " + "déjà " * 300))
    text = explanation(decision)
    assert text.isascii()
    assert "\n" not in text
    assert 0 < len(text) <= 1024
    assert "policy ns/p rule default -> tier small" in text
    assert explanation(Decision("d", 0.0, "", "/x")) == ""


def test_a_spilled_request_says_from_where_to_where() -> None:
    decision = router().decide(CHAT, HEADERS, body())
    assert decision.placement is not None
    assert "spilled" not in record(decision)["placement"]
    decision.placement = replace(decision.placement, reason="spilled", spilled=("ns/small", "ns/large"))
    placement = record(decision)["placement"]
    assert (placement["reason"], placement["spilled"]) == ("spilled", {"from": "ns/small", "to": "ns/large"})
    assert "ns/small is saturated and ns/large takes it" in explanation(decision)


def test_cost_counts_cached_tokens_at_their_price() -> None:
    usage = Usage(input=1_000_000, output=1_000_000, cached=400_000)
    assert dollars(table().pools["ns/small"], usage) == pytest.approx(0.6 * 1.0 + 0.4 * 0.1 + 2.0)
    assert top_tier_dollars(table(), "ns/p", usage) == pytest.approx(6.0 + 0.4 + 20.0)
    assert top_tier_dollars(table(), "", usage) is None


def test_a_routed_decision_is_recorded_once_with_its_outcome() -> None:
    out: list[dict[str, Any]] = []
    records = Records(out.append)
    decision = router().decide(CHAT, HEADERS, body())
    records.decided(decision)
    assert out == []
    usage = Usage(input=100, output=50, cached=10, reasoning=5)
    top = records.settled(settled(decision, usage), table())
    assert records.settled(settled(decision, usage), table()) is None, "a second report of the same end"
    (line,) = out
    assert line["id"] == decision.id
    assert line["outcome"]["tokens"] == {"in": 100, "out": 50, "cached": 10, "reasoning": 5, "estimated": False}
    assert line["outcome"]["attempts"] == 2
    assert line["outcome"]["top_tier_cost_usd"] == top
    assert line["outcome"]["cost_usd"] < line["outcome"]["top_tier_cost_usd"]


def test_a_waiting_decision_is_found_by_its_request_id_and_forgotten_with_it() -> None:
    records = Records(lambda _: None)
    made = router()
    first = made.decide(CHAT, HEADERS | {"x-request-id": "r1"}, body())
    second = made.decide(CHAT, HEADERS | {"x-request-id": "r1"}, body())
    for decision in (first, second):
        records.decided(decision)
    assert records.named("r1") == second.id, "of a repeated id the latest"
    records.settled(settled(first), table())
    assert records.named("r1") == second.id
    records.settled(settled(second), table())
    assert records.named("r1") == ""
    assert records.named("") == ""


def test_refused_decisions_are_recorded_at_once() -> None:
    out: list[dict[str, Any]] = []
    decision = router().open(CHAT)
    decision.error = ClientError(400, Code.INVALID_JSON, "no")
    Records(out.append).decided(decision)
    assert out[0]["error"] == {"status": 400, "code": "invalid_json"}


def test_what_waits_is_bounded_and_overdue_ones_go_out_without_outcome() -> None:
    out: list[dict[str, Any]] = []
    records = Records(out.append, limit=2, overdue=10.0)
    made = router()
    decisions = [made.decide(CHAT, HEADERS, body()) for _ in range(3)]
    for decision in decisions:
        records.decided(decision)
    assert [line["id"] for line in out] == [decisions[0].id]
    assert records.sweep(decisions[1].time + 5.0) == 0
    assert records.sweep(decisions[2].time + 10.1) == 2
    assert not len(records)
    assert all("outcome" not in line for line in out)


async def test_the_sink_writes_lines_in_order_and_closes_whole(tmp_path: Path) -> None:
    target = tmp_path / "records.jsonl"
    sink = RecordSink(str(target))
    writer = asyncio.create_task(sink.run())
    for number in range(50):
        sink.put({"n": number})
    await wait_until(lambda: sink.written == 50, 5.0)
    sink.put({"n": 50})
    writer.cancel()
    sink.close()
    assert [orjson.loads(line)["n"] for line in target.read_bytes().splitlines()] == list(range(51))


def test_a_full_sink_drops_and_counts(tmp_path: Path) -> None:
    sink = RecordSink(str(tmp_path / "records"), limit=3)
    for number in range(5):
        sink.put({"n": number})
    sink.close()
    assert (sink.written, sink.dropped) == (3, 2)


def test_a_target_that_fails_is_counted_not_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = RecordSink("/dev/full")
    sink.put({"n": 1})
    sink.close()
    assert sink.dropped == 1
    assert "cannot be written" in caplog.text


def test_an_empty_target_takes_nothing() -> None:
    sink = RecordSink("")
    sink.put({"n": 1})
    sink.close()
    assert (sink.written, sink.dropped) == (0, 0)
