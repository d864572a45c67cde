"""Events: only about transitions worth it, never more than a bounded number, each once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_fake_api import FakeApi, Fault
from support_net import wait_until

from ralb_api.problems import ObjectKey
from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.events import EventPoster, Pace, event, worth_telling
from ralb_operator.cluster.statuses import Transition

KEY = ObjectKey("ModelPool", "ns", "p")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def change(type_: str = "Ready", before: str = "True", after: str = "False", **more: str) -> Transition:
    return Transition(type_, before, after, **{"reason": "NoEndpoints", "message": "none", "at": "2026", **more})


@asynccontextmanager
async def posting(
    client: ApiClient, may_write: Callable[[], bool] = lambda: True, **pace: Any
) -> AsyncIterator[EventPoster]:
    poster = EventPoster(client, "operator-0", may_write, pace=Pace(**pace))
    task = asyncio.create_task(poster.run())
    try:
        yield poster
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def posts(api: FakeApi) -> list[dict[str, Any]]:
    return [body for body in api.bodies if body and body.get("kind") == "Event"]


@pytest.mark.parametrize(
    ("transition", "told"),
    [
        (change(before="True", after="False"), True),
        (change(before="False", after="True"), True),
        (change(before="", after="False"), True),
        (change(before="", after="True"), False),
        (change("Programmed", "", "True", reason="Programmed"), True),
        (change("Programmed", "", "Unknown", reason="Pending"), False),
        (change("Programmed", "True", "Unknown", reason="Pending"), False),
        (change("Programmed", "True", "Unknown", reason="NoGateway"), True),
        (change("Programmed", "", "Unknown", reason="NoGateway"), False),
        (change("Programmed", "Unknown", "True", reason="Programmed"), True),
    ],
)
def test_what_is_worth_an_event(transition: Transition, told: bool) -> None:
    assert worth_telling(transition) is told


@given(st.text(max_size=3000), st.from_regex(r"[a-z]([-a-z0-9.]{0,250}[a-z0-9])?", fullmatch=True))
def test_an_event_fits_the_api(message: str, name: str) -> None:
    made = event(ObjectKey("ModelPool", "ns", name), "uid", "1", change(message=message), "i" * 500, NOW)
    assert len(made["note"].encode()) <= 1024
    assert len(made["metadata"]["name"]) <= 253
    assert len(made["reportingInstance"]) <= 128
    assert made["type"] == "Warning"


def test_the_same_transition_has_the_same_name_and_another_one_has_not() -> None:
    def name(transition: Transition, uid: str = "u", instance: str = "a") -> str:
        return str(event(KEY, uid, "1", transition, instance, NOW)["metadata"]["name"])

    assert name(change()) == name(change(), instance="another leader")
    assert len({name(change()), name(change(at="2027")), name(change(after="True")), name(change(), uid="v")}) == 4


async def test_one_object_can_not_flood(api: FakeApi, client: ApiClient) -> None:
    async with posting(client, object_burst=5, rate=1000.0, burst=1000) as poster:
        for number in range(100):
            poster.tell(KEY, "flapping", "1", (change(at=str(number)),))
        poster.tell(KEY, "calm", "1", (change(),))
        await wait_until(lambda: poster.counts.posted == 6)
        assert poster.counts.dropped == 95
    assert len(posts(api)) == 6


async def test_the_queue_is_bounded(client: ApiClient) -> None:
    poster = EventPoster(client, "i", lambda: True, pace=Pace(limit=10))
    for number in range(50):
        poster.tell(KEY, f"uid-{number}", "1", (change(),))
    assert len(poster) == 10
    assert poster.counts.dropped == 40


async def test_what_goes_wrong(api: FakeApi, client: ApiClient) -> None:
    async with posting(client) as poster:
        api.faults.append(Fault(500, "InternalError"))
        poster.tell(KEY, "a", "1", (change(),))
        await wait_until(lambda: poster.counts.posted == 1, what="tried again")
        api.faults.append(Fault(409, "AlreadyExists"))
        poster.tell(KEY, "b", "1", (change(),))
        await wait_until(lambda: poster.counts.posted == 2, what="there already, by a request whose answer was lost")
        api.faults.append(Fault(403, "Forbidden"))
        poster.tell(KEY, "c", "1", (change(),))
        await wait_until(lambda: poster.counts.failed == 1)
    assert len(api.requests) == 4, "what is forbidden is not tried again"


async def test_who_does_not_lead_posts_nothing(api: FakeApi, client: ApiClient) -> None:
    async with posting(client, lambda: False) as poster:
        poster.tell(KEY, "a", "1", (change(),))
        await wait_until(lambda: poster.counts.dropped == 1)
    assert not api.requests
