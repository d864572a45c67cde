"""From conditions to ``.status``: times move only with the truth, and what says the same is not written."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ralb_api.problems import ObjectKey
from ralb_operator.cluster.programmed import IN_FORCE, Verdict
from ralb_operator.cluster.statuses import (
    Said,
    Wanted,
    render,
    transitions,
    wanted,
    was_programmed,
)
from ralb_operator.compile import Condition, ConditionType, Reason, Status

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
POOL = ObjectKey("ModelPool", "ns", "p")
TIER = ObjectKey("ModelTier", "ns", "t")

TYPES = ("Accepted", "ResolvedRefs", "Programmed", "Ready", "MetricsAvailable")
said = st.builds(
    Said,
    type=st.sampled_from(TYPES),
    status=st.sampled_from(("True", "False", "Unknown")),
    reason=st.sampled_from(("A", "B")),
    message=st.sampled_from(("", "x", "y")),
)


def reachable(want: Wanted) -> Wanted:
    """A snapshot is named only by those who are in force."""
    programmed = any(each.type == "Programmed" and each.status == "True" for each in want.conditions)
    return want if programmed else replace(want, snapshot="")


wants = st.builds(
    Wanted,
    generation=st.integers(1, 3),
    conditions=st.lists(said, min_size=1, unique_by=lambda each: each.type).map(tuple),
    endpoints=st.none() | st.tuples(st.integers(0, 2), st.integers(0, 2)),
    snapshot=st.sampled_from(("aaa", "bbb")),
).map(reachable)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("conditions", "type", "status", "snapshot", "lastTransitionTime")), inner)
    ),
    max_leaves=8,
)


def by_type(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["type"]: item for item in status["conditions"]}


@given(wants, wants)
def test_times_move_exactly_when_the_truth_does(first: Wanted, second: Wanted) -> None:
    old = render(POOL, {}, first, NOW)
    assert old is not None
    new = render(POOL, old, second, LATER)
    if new is None:
        return
    before = by_type(old)
    for type_, item in by_type(new).items():
        same = type_ in before and before[type_]["status"] == item["status"]
        assert item["lastTransitionTime"] == (before[type_]["lastTransitionTime"] if same else "2026-01-02T03:05:05Z")
        assert item["observedGeneration"] == second.generation


@given(wants)
def test_what_says_the_same_is_not_written(want: Wanted) -> None:
    written = render(POOL, {}, want, NOW)
    assert written is not None
    assert render(POOL, written, want, LATER) is None


@given(wants, wants)
def test_what_says_something_else_is_written_once(first: Wanted, second: Wanted) -> None:
    old = render(POOL, {}, first, NOW)
    assert old is not None
    new = render(POOL, old, second, LATER)
    settled = old if new is None else new
    assert [(c["type"], c["status"], c["reason"], c["message"]) for c in settled["conditions"]] == [
        (c.type, c.status, c.reason, c.message) for c in (first if new is None else second).conditions
    ]
    assert render(POOL, settled, second, LATER + timedelta(hours=1)) is None


@given(st.dictionaries(st.sampled_from(("conditions", "snapshot", "endpoints")), junk), wants)
def test_any_old_status_is_borne(old: dict[str, Any], want: Wanted) -> None:
    new = render(POOL, old, want, NOW)
    if new is not None:
        assert render(POOL, new, want, LATER) is None
        assert all(isinstance(item["lastTransitionTime"], str) for item in new["conditions"])


def test_conditions_of_others_neither_count_nor_get_copied() -> None:
    want = Wanted(1, (Said("Accepted", "True", "Accepted", "fine"),))
    written = render(TIER, {}, want, NOW)
    assert written is not None
    foreign = {"type": "example.com/Checked", "status": "True", "reason": "R", "message": ""}
    ready = {"type": "Ready", "status": "True", "reason": "R", "message": "somebody's, tiers have none of ours"}
    status = {"conditions": [foreign, *written["conditions"], ready]}
    assert render(TIER, status, want, LATER) is None
    new = render(TIER, status, Wanted(2, want.conditions), LATER)
    assert new is not None
    assert [item["type"] for item in new["conditions"]] == ["Accepted"]


def test_the_snapshot_is_the_one_it_became_programmed_with() -> None:
    accepted = Condition(ConditionType.ACCEPTED, True, Reason.ACCEPTED, "")
    status = Status((accepted,), 1, (1, 1))
    first = render(POOL, {}, wanted(status, IN_FORCE, 1, "a" * 32), NOW)
    assert first is not None
    assert first["snapshot"] == "a" * 12
    assert render(POOL, first, wanted(status, IN_FORCE, 1, "b" * 32), LATER) is None, "another pod's snapshot"
    edited = render(POOL, first, wanted(status, IN_FORCE, 2, "c" * 32), LATER)
    assert edited is not None
    assert edited["snapshot"] == "c" * 12
    refused = render(POOL, edited, wanted(status, Verdict("False", "Refused", "no"), 3, "d" * 32), LATER)
    assert refused is not None
    assert "snapshot" not in refused
    assert was_programmed(POOL, edited, 2)
    assert not was_programmed(POOL, edited, 3)
    assert not was_programmed(POOL, refused, 3)


def test_an_object_that_became_invalid_loses_what_can_not_be_said_any_more() -> None:
    good = Status(
        (
            Condition(ConditionType.ACCEPTED, True, Reason.ACCEPTED, ""),
            Condition(ConditionType.RESOLVED_REFS, True, Reason.RESOLVED_REFS, ""),
            Condition(ConditionType.READY, True, Reason.READY, ""),
        ),
        1,
        (2, 2),
    )
    bad = Status((Condition(ConditionType.ACCEPTED, False, Reason.INVALID, "spec: no"),))
    old = render(POOL, {}, wanted(good, IN_FORCE, 1, "x", ("True", "Available", "m")), NOW)
    assert old is not None
    assert [item["type"] for item in old["conditions"]] == list(TYPES)
    new = render(POOL, old, wanted(bad, Verdict("False", "NotAccepted", "no"), 2, "x"), LATER)
    assert new is not None
    assert [item["type"] for item in new["conditions"]] == ["Accepted", "Programmed"]
    assert "endpoints" not in new
    assert [(t.type, t.before, t.after) for t in transitions(POOL, old, new)] == [
        ("Accepted", "True", "False"),
        ("Programmed", "True", "False"),
    ]


def test_long_messages_fit_the_schema() -> None:
    new = render(POOL, {}, Wanted(1, (Said("Accepted", "False", "Invalid", "x" * 100_000),)), NOW)
    assert new is not None
    assert len(new["conditions"][0]["message"]) == 32_768
