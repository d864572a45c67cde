"""What the router tells placement of a request: how long its answer will be, and which conversation it is of."""

from typing import Any

import orjson
import pytest
from support_routing import CHAT, HEADERS, chat, policy, pool, snapshot, tier, use

from ralb_extproc.feedback import Learner, Outcome
from ralb_extproc.place import PodTable
from ralb_extproc.place import columns as col
from ralb_extproc.router import Router
from ralb_extproc.table import RoutingTable
from ralb_extproc.understand import FeatureScore


class World:
    def __init__(self) -> None:
        thinking = tier("thinking", 1, "a", reasoning_effort="High")
        parts = (
            pool("a", "a", adapters=["legal"]),
            thinking,
            policy("p", use("thinking")),
        )
        parts[0].endpoints.add(address="10.9.9.9:8000")
        self.pods = PodTable()
        self.learner = Learner(self.pods, clock=lambda: 1.0)
        self.router = Router(self.pods, FeatureScore(), self.learner.lengths.expected_output, seed=1)
        self.router.table = RoutingTable.of(snapshot(*parts))
        self.pods.update(self.router.table.pools.values(), 0.0)

    def expected(self, body: dict[str, Any]) -> float:
        """Answer tokens that a request is charged with."""
        decision = self.router.decide(CHAT, HEADERS, orjson.dumps(body))
        assert decision.error is None
        flight = self.pods.finish(decision.id)
        assert flight is not None
        return flight.decode

    def answered(self, tokens: int, body: dict[str, Any]) -> None:
        """The pod answers a request with so many tokens."""
        decision = self.router.decide(CHAT, HEADERS, orjson.dumps(body))
        assert decision.placement is not None
        where = decision.placement.attempts[0].endpoint
        self.learner.learn(
            Outcome(decision_id=decision.id, status=200, attempts=1, upstream=where, duration=1.0, output_tokens=tokens)
        )


def test_by_the_effort_the_client_asks_for() -> None:
    world = World()
    world.answered(100, chat("Hi.", reasoning_effort="low"))
    world.answered(9000, chat("Hi.", reasoning_effort="high"))
    assert world.expected(chat("Hi.", reasoning_effort="low")) == 100
    assert world.expected(chat("Hi.", reasoning_effort="high")) == 9000
    assert world.expected(chat("Hi.", reasoning_effort="minimal")) == 4550


def test_by_the_effort_the_tier_sets_where_the_client_does_not_say() -> None:
    world = World()
    world.answered(100, chat("Hi.", reasoning_effort="low"))
    world.answered(9000, chat("Hi.", reasoning_effort="high"))
    assert world.expected(chat("Hi.")) == 9000


def test_by_the_adapter() -> None:
    world = World()
    world.answered(700, chat("Hi.", model="legal"))
    world.answered(100, chat("Hi.", model="a"))
    assert world.expected(chat("Hi.", model="legal")) == 700


def test_never_more_than_the_client_takes() -> None:
    world = World()
    world.answered(9000, chat("Hi.", reasoning_effort="high"))
    assert world.expected(chat("Hi.", reasoning_effort="high", max_tokens=50)) == 50
    assert world.expected(chat("Hi.", reasoning_effort="high", max_tokens=50, n=3)) == 150


@pytest.mark.parametrize("body", [None, b"\x00\x01"])
def test_a_conversation_whose_bodies_are_not_shown_stays_where_it_is(body: bytes | None) -> None:
    world = World()

    def pick(session: str) -> str:
        decision = world.router.pick("ns/a", "/tokenize", {"x-ralb-session": session}, body)
        assert decision.error is None
        assert decision.placement is not None
        flight = world.pods.finish(decision.id)
        assert flight is not None
        assert flight.info.hit_tokens == 0
        assert flight.decode == 256
        return decision.placement.attempts[0].endpoint

    homes = {session: pick(session) for session in "abcdefghijkl"}
    assert len(set(homes.values())) == 2
    for _ in range(3):
        assert {session: pick(session) for session in homes} == homes
    assert not world.pods.data[[col.INFLIGHT, col.PREFILL]].any()
