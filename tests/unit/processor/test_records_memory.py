"""What of a request is still in memory once it was decided: nothing large, whatever became of it."""

import gc
import weakref
from typing import Any

import pytest
from support_routing import CHAT, HEADERS, pool, snapshot

from ralb_extproc.decision import Decision
from ralb_extproc.feedback import Lengths, Settled
from ralb_extproc.feedback.outcome import Outcome
from ralb_extproc.place import PodTable
from ralb_extproc.records import Records
from ralb_extproc.request import parse
from ralb_extproc.router import Router
from ralb_extproc.table import RoutingTable
from ralb_extproc.types import Attempt, Candidate, Placement, Plan
from ralb_extproc.understand import FeatureScore


class Text(str):
    """A string that can be watched."""


def _decision(number: int, at: float = 1000.0) -> Decision:
    request = parse("/v1/chat/completions", {}, b'{"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}')
    plan = Plan("p", "r", "t", "t", (Candidate("a", "m", "t", 0, 1),))
    placement = Placement((Attempt("a", "pool/a", "10.0.0.1:8000", "m"),))
    return Decision(f"d{number}", at, "v1", "/v1/chat/completions", request=request, plan=plan, placement=placement)


def test_bodies_are_not_kept_while_an_answer_is_awaited() -> None:
    put: list[dict[str, Any]] = []
    records = Records(put.append)
    decision = _decision(1)
    assert decision.request is not None
    text = Text("a large body")
    decision.request.body["x"] = text  # type: ignore[index]
    watched = weakref.ref(text)
    records.decided(decision)
    del text, decision
    gc.collect()
    assert watched() is None
    assert (len(records), put) == (1, [])
    records.settled(Settled(Outcome(decision_id="d1", status=200, attempts=1), pool="a"), None)
    assert len(records) == 0
    (record,) = put
    assert record["request"]["model"] == "auto"
    assert record["request"]["turns"] == 1
    assert record["outcome"]["status"] == 200


def test_waiting_room_is_bounded() -> None:
    put: list[dict[str, Any]] = []
    records = Records(put.append, limit=2)
    for number in range(5):
        records.decided(_decision(number))
    assert [record["id"] for record in put] == ["d0", "d1", "d2"]
    assert len(records) == 2


def test_overdue_decisions_are_recorded_without_outcome() -> None:
    put: list[dict[str, Any]] = []
    records = Records(put.append, overdue=60)
    records.decided(_decision(1, at=1000))
    records.decided(_decision(2, at=1050))
    assert records.sweep(1065) == 1
    assert [record["id"] for record in put] == ["d1"]
    assert "outcome" not in put[0]
    records.flush()
    assert [record["id"] for record in put] == ["d1", "d2"]


def test_paths_are_bounded() -> None:
    put: list[dict[str, Any]] = []
    Records(put.append).decided(Decision("d", 1.0, "v", "/" + "x" * 90_000))
    assert len(put[0]["path"]) <= 256


@pytest.mark.parametrize(
    "body",
    [b'{"model": "nobody", "messages": [{"role": "user", "content": "Hi"}]}', b'{"model": ', b'{"model": 1}', b"[]"],
    ids=["unknown", "half", "wrong", "list"],
)
def test_refused_requests_leave_no_garbage(body: bytes) -> None:
    """A cycle would keep the body until the collector comes by, which a processor that only gets such bodies puts off."""
    router = Router(PodTable(), FeatureScore(), Lengths().expected_output)
    router.table = RoutingTable.of(snapshot(pool("small")))
    assert router.decide(CHAT, HEADERS, body).error is not None
    gc.collect()
    gc.disable()
    try:
        router.decide(CHAT, HEADERS, body)
        assert gc.collect() == 0
    finally:
        gc.enable()
