"""Condition Programmed, judged from reports: who has it, who refuses it, who is behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ralb.v1.snapshot_pb2 import Pool, Snapshot
from ralb_api.problems import ObjectKey
from ralb_operator.cluster.programmed import (
    History,
    Report,
    Verdict,
    World,
    edition,
    judge,
    used_objects,
)
from ralb_operator.compile import Condition, ConditionType, Reason, Status

POOL, TIER, POLICY = (ObjectKey(kind, "ns", "x") for kind in ("ModelPool", "ModelTier", "RoutingPolicy"))
TENANT = ObjectKey("Tenant", "ns", "x")
OTHER = ObjectKey("ModelPool", "ns", "other")
ALL = (POOL, TIER, POLICY, OTHER)
FINE = Status((Condition(ConditionType.ACCEPTED, True, Reason.ACCEPTED, ""),), 1)
INVALID = Status((Condition(ConditionType.ACCEPTED, False, Reason.INVALID, "spec: no"),))


class Scene:
    """A leader's history after two editions; the second edits POOL."""

    def __init__(self) -> None:
        self.history = History()
        self.before = self.history.add({key: ("t", 1) for key in ALL}, ALL)
        self.now = self.history.add({key: ("t", 2 if key == POOL else 1) for key in ALL}, ALL)

    def own(self, **changes: object) -> Report:
        return Report(
            **{"replica": "me", "edition": self.now, "settled": self.now, "envoys": 1, "processors": 1} | changes
        )  # type: ignore[arg-type]

    def judge(self, key: ObjectKey, *reports: Report, was_true: bool = False, **world: object) -> Verdict:
        made = World(self.history, reports, **{"used": frozenset(ALL)} | world)  # type: ignore[arg-type]
        return judge(key, FINE, made, was_true=was_true)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_programmed_when_every_gateway_of_every_replica_has_it(scene: Scene) -> None:
    verdict = scene.judge(POOL, scene.own(), scene.own(replica="peer"))
    assert (verdict.status, verdict.reason, verdict.waiting) == ("True", "Programmed", False)


def test_a_late_gateway_is_named_and_only_what_it_lacks_waits(scene: Scene) -> None:
    own = scene.own(settled=scene.before, late=("gw-7",), late_count=1)
    verdict = scene.judge(POOL, own)
    assert (verdict.status, verdict.reason, verdict.waiting) == ("Unknown", "Pending", True)
    assert verdict.message == "Waiting for 1 of 2 gateways and processors: gw-7."
    assert scene.judge(TIER, own).status == "True"
    assert scene.judge(POOL, own, was_true=True).status == "True", "what was in force stays so"


def test_a_replica_that_is_behind_is_named(scene: Scene) -> None:
    behind = scene.own(replica="operator-b", edition=scene.before, settled=scene.before)
    verdict = scene.judge(POOL, scene.own(), behind)
    assert (verdict.status, verdict.reason) == ("Unknown", "Pending")
    assert "operator-b" in verdict.message
    assert scene.judge(POOL, scene.own(), scene.own(replica="z", edition="never seen", settled="")).reason == "Pending"
    empty = scene.own(replica="c", edition=scene.before, settled="", envoys=0, processors=0)
    assert scene.judge(POOL, scene.own(), empty).status == "True", "nobody is connected there"


def test_messages_are_bounded(scene: Scene) -> None:
    late = tuple(f"gateway-{i}" * 20 + "\n\x1b" for i in range(16))
    own = scene.own(settled=scene.before, late=late, late_count=900, envoys=500, processors=500)
    message = scene.judge(POOL, own).message
    assert "900 of 1000" in message
    assert "and 897 more" in message
    assert len(message) < 600
    assert message.isprintable()
    words = scene.own(refused=((str(POOL), "so\nbad " * 10_000),))
    assert len(scene.judge(POOL, words).message) < 1200
    assert scene.judge(POOL, words).message.isprintable()


def test_nobody_connected(scene: Scene) -> None:
    nobody = scene.own(envoys=0, processors=0, settled="")
    verdict = scene.judge(POOL, nobody)
    assert (verdict.status, verdict.reason, verdict.waiting) == ("Unknown", "NoGateway", True)
    assert scene.judge(POOL, nobody, was_true=True).status == "True", "operators restart, and gateways come back"
    assert scene.judge(POOL, nobody, was_true=True, deserted=True).reason == "NoGateway"
    assert "processor" in scene.judge(POOL, scene.own(processors=0)).message


def test_a_refused_pool_says_so_in_envoys_words_whoever_heard_them(scene: Scene) -> None:
    refused = ((str(POOL), "bad cipher."),)
    for reports in ((scene.own(refused=refused),), (scene.own(), scene.own(replica="b", refused=refused))):
        verdict = scene.judge(POOL, *reports, was_true=True)
        assert (verdict.status, verdict.reason) == ("False", "Refused")
        assert "bad cipher. It is left out" in verdict.message
        assert scene.judge(OTHER, *reports).status == "True"


def test_a_refusal_of_an_earlier_generation_does_not_count(scene: Scene) -> None:
    old = scene.own(replica="b", edition=scene.before, settled=scene.before, refused=((str(POOL), "bad"),))
    assert scene.judge(POOL, scene.own(), old).reason == "Pending"


def test_what_all_policies_need(scene: Scene) -> None:
    own = scene.own(shared="no such filter", settled=scene.before, held="gateways refuse Listener ralb: no such filter")
    verdict = scene.judge(POLICY, own, was_true=True)
    assert (verdict.status, verdict.reason) == ("False", "Refused")
    assert "no such filter" in verdict.message
    assert "stays in force" in verdict.message
    assert scene.judge(TIER, own, was_true=True).status == "True"
    held = scene.judge(POOL, own)
    assert (held.status, held.reason) == ("Unknown", "Pending")
    assert "Held back" in held.message


def test_a_processor_refuses_the_snapshot(scene: Scene) -> None:
    own = scene.own(snapshot_refused="cannot be read")
    verdict = scene.judge(POOL, own)
    assert (verdict.status, verdict.reason) == ("False", "Refused")
    assert "the one before" in verdict.message
    assert scene.judge(TIER, own, was_true=True).status == "True", "it is in the one before"


def test_what_is_not_in_the_configuration(scene: Scene) -> None:
    assert scene.judge(POOL, scene.own(), used=frozenset()).reason == "NotUsable"
    world = World(scene.history, (scene.own(),), frozenset(ALL))
    verdict = judge(POOL, INVALID, world, was_true=False)
    assert (verdict.status, verdict.reason) == ("False", "NotAccepted")
    assert judge(TENANT, FINE, world, was_true=False).reason == "NotSupported"
    assert judge(TENANT, INVALID, world, was_true=False).reason == "NotAccepted"


def test_an_object_that_comes_into_use_later_waits_for_that_edition() -> None:
    history = History()
    first = history.add({POLICY: ("t", 1), OTHER: ("t", 1)}, [OTHER])  # POLICY is in conflict with something
    second = history.add({POLICY: ("t", 1)}, [POLICY])
    assert history.has_judged(first, POLICY)
    assert not history.has_used(first, POLICY)
    assert history.has_used(second, POLICY)


@given(st.dictionaries(st.sampled_from(ALL), st.tuples(st.sampled_from("ab"), st.integers(1, 3))))
def test_an_edition_is_of_the_objects_not_of_their_order(objects: dict[ObjectKey, tuple[str, int]]) -> None:
    assert edition(objects) == edition(dict(reversed(objects.items())))
    for key in objects:
        changed = {**objects, key: (objects[key][0], objects[key][1] + 1)}
        assert edition(changed) != edition(objects)


@given(st.lists(st.dictionaries(st.sampled_from(ALL), st.integers(1, 3)), min_size=1, max_size=30))
def test_history_knows_since_when_an_object_is_as_it_is(states: list[dict[ObjectKey, int]]) -> None:
    history, editions = History(), []
    for state in states:
        editions.append(history.add({key: ("t", generation) for key, generation in state.items()}, state))
    assert editions[-1] == edition({key: ("t", generation) for key, generation in states[-1].items()})
    for key in ALL:
        for at, digest in enumerate(editions):
            last = max(i for i, each in enumerate(editions) if each == digest)
            there = all(state.get(key) == states[-1].get(key) for state in states[last:]) and key in states[-1]
            assert history.has_used(digest, key) == there, at


def test_history_is_bounded() -> None:
    history = History()
    for generation in range(3000):
        digest = history.add({POOL: ("t", generation)}, [POOL])
    assert history.has_used(digest, POOL)
    assert len(history._index) <= 1024


def test_objects_of_a_snapshot() -> None:
    assert used_objects(Snapshot(pools=[Pool(id="ns/x")])) == {POOL}
