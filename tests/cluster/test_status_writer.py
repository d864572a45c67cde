"""Statuses on a real API server: nobody's conditions are lost, nothing old is written over something new, nothing twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from support_cluster import ControlPlane
from support_net import wait_until

from ralb_api.problems import ObjectKey
from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.credentials import CredentialsSource
from ralb_operator.cluster.statuses import Said, Wanted
from ralb_operator.cluster.writer import Pace, StatusWriter, Target

QUICK = Pace(rate=1000.0, burst=1000, spacing=0.0)
TIER = {"level": 1, "pools": [{"name": "p"}]}


def path(namespace: str, name: str, plural: str = "modeltiers") -> str:
    return f"/apis/ralb.dev/v1alpha1/namespaces/{namespace}/{plural}/{name}"


class Tiers:
    """ModelTiers of one namespace, as the administrator sees them."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace

    def make(self, name: str, level: int = 1) -> dict[str, Any]:
        manifest = {
            "apiVersion": "ralb.dev/v1alpha1",
            "kind": "ModelTier",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**TIER, "level": level},
        }
        return dict(self.plane.api.apply(path(self.namespace, name), manifest))

    def get(self, name: str) -> dict[str, Any]:
        return dict(self.plane.api.request("GET", path(self.namespace, name)))

    def conditions(self, name: str) -> dict[str, dict[str, Any]]:
        return {item["type"]: item for item in self.get(name).get("status", {}).get("conditions", [])}

    def writes(self, mark: int) -> list[tuple[str, int]]:
        entries = self.plane.audit.writes(mark, resource="modeltiers/status")
        return [(entry.name, entry.code) for entry in entries if entry.namespace == self.namespace]


def target(data: dict[str, Any], *conditions: tuple[str, str], generation: int = 0) -> Target:
    metadata = data["metadata"]
    key = ObjectKey("ModelTier", metadata["namespace"], metadata["name"])
    said = tuple(Said(type_, status, "Reason", f"{type_} is {status}") for type_, status in conditions)
    want = Wanted(generation or metadata["generation"], said)
    return Target(key, metadata["uid"], metadata["resourceVersion"], data.get("status", {}), want)


@pytest.fixture
def tiers(control_plane: ControlPlane, namespace: str, crds: list[str]) -> Tiers:
    return Tiers(control_plane, namespace)


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[ApiClient]:
    async with ApiClient(CredentialsSource(str(control_plane.kubeconfig_file))) as made:
        yield made


@asynccontextmanager
async def writing(
    client: ApiClient, may_write: Callable[[], bool] = lambda: True, **options: Any
) -> AsyncIterator[StatusWriter]:
    writer = StatusWriter(client, may_write, **{"pace": QUICK, **options})
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def done(writer: StatusWriter) -> None:
    await wait_until(lambda: len(writer) == 0, what="everything is written")


async def test_others_conditions_stay_and_ours_go_when_they_are_not_said_any_more(
    tiers: Tiers, client: ApiClient
) -> None:
    data = tiers.make("t")
    foreign = {
        "type": "example.com/Checked",
        "status": "True",
        "reason": "Checked",
        "message": "by somebody else",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"apiVersion": data["apiVersion"], "kind": "ModelTier", "status": {"conditions": [foreign]}}
    tiers.plane.api.apply(path(tiers.namespace, "t") + "/status", status, manager="somebody")
    async with writing(client) as writer:
        writer.offer(target(tiers.get("t"), ("Accepted", "True"), ("ResolvedRefs", "False")))
        await done(writer)
        found = tiers.conditions("t")
        assert found.keys() == {"example.com/Checked", "Accepted", "ResolvedRefs"}
        assert found["example.com/Checked"] == foreign
        assert found["Accepted"]["observedGeneration"] == 1
        writer.offer(target(tiers.get("t"), ("Accepted", "False")))
        await done(writer)
    found = tiers.conditions("t")
    assert found.keys() == {"example.com/Checked", "Accepted"}
    assert found["Accepted"]["status"] == "False"


async def test_a_status_is_not_written_twice_by_whomever(tiers: Tiers, client: ApiClient) -> None:
    names = [f"t{i}" for i in range(20)]
    first = [tiers.make(name) for name in names]
    said = (("Accepted", "True"), ("ResolvedRefs", "True"))
    mark = tiers.plane.audit.mark()
    async with writing(client) as writer:
        for data in first:
            writer.offer(target(data, *said))
        await done(writer)
        assert writer.counts.written == len(names)
        for data in first:
            # What was judged before the watch told of the write: the same again, and not sent.
            writer.offer(target(data, *said))
        for name in names:
            writer.offer(target(tiers.get(name), *said))
        await done(writer)
    async with writing(client) as successor:  # another replica leads now
        for name in names:
            successor.offer(target(tiers.get(name), *said))
        await done(successor)
        assert successor.counts.written == 0
    await wait_until(lambda: len(tiers.writes(mark)) >= len(names))
    assert sorted(tiers.writes(mark)) == sorted((name, 200) for name in names)


async def test_a_conflict_is_read_again_and_written(tiers: Tiers, client: ApiClient) -> None:
    old = tiers.make("t")
    tiers.plane.api.request(
        "PATCH",
        path(tiers.namespace, "t"),
        {"metadata": {"labels": {"a": "b"}}},
        content_type="application/merge-patch+json",
    )
    told: list[tuple[str, str]] = []
    async with writing(client, restatus=lambda key, status, version: told.append((key.name, version))) as writer:
        writer.offer(target(old, ("Accepted", "True")))
        await done(writer)
        assert (writer.counts.conflicts, writer.counts.written) == (1, 1)
    now = tiers.get("t")
    assert now["metadata"]["labels"] == {"a": "b"}
    assert tiers.conditions("t")["Accepted"]["status"] == "True"
    assert told[-1] == ("t", now["metadata"]["resourceVersion"])


async def test_nothing_old_is_written_over_a_newer_generation(tiers: Tiers, client: ApiClient) -> None:
    old = tiers.make("t")
    tiers.make("t", level=2)
    async with writing(client) as writer:
        writer.offer(target(old, ("Accepted", "True")))
        await done(writer)
        assert (writer.counts.superseded, writer.counts.written) == (1, 0)
    assert not tiers.conditions("t")


async def test_a_namesake_is_left_alone(tiers: Tiers, client: ApiClient) -> None:
    old = tiers.make("t")
    tiers.plane.api.request("DELETE", path(tiers.namespace, "t"))
    async with writing(client) as writer:
        writer.offer(target(old, ("Accepted", "True")))
        await done(writer)
        assert (writer.counts.gone, writer.counts.written) == (1, 0)
        tiers.make("t")
        writer.offer(target(old, ("Accepted", "True")))
        await done(writer)
        assert (writer.counts.gone, writer.counts.written) == (2, 0)
    assert not tiers.conditions("t")


async def test_our_own_write_whose_answer_was_lost_is_recognized(tiers: Tiers, client: ApiClient) -> None:
    old = tiers.make("t")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    async with writing(client, now=lambda: now) as writer:
        writer.offer(target(old, ("Accepted", "True")))
        await done(writer)
    mark, written = tiers.plane.audit.mark(), tiers.get("t")
    async with writing(client) as writer:
        writer.offer(target(old, ("Accepted", "True")))
        await done(writer)
        assert (writer.counts.conflicts, writer.counts.equal, writer.counts.written) == (1, 1, 0)
    assert tiers.get("t") == written
    await wait_until(lambda: tiers.writes(mark))
    assert tiers.writes(mark) == [("t", 409)]


async def test_the_newest_of_many_is_written(tiers: Tiers, client: ApiClient) -> None:
    data = tiers.make("t")
    async with writing(client, pace=Pace(rate=1000.0, burst=1000, spacing=0.3)) as writer:
        for i in range(50):
            writer.offer(target(data, ("Accepted", "False" if i % 2 else "True")))
            await asyncio.sleep(0.001)
        await done(writer)
        assert writer.counts.written <= 3
    assert tiers.conditions("t")["Accepted"]["status"] == "False"


async def test_who_does_not_lead_does_not_write(tiers: Tiers, client: ApiClient) -> None:
    mark, data = tiers.plane.audit.mark(), tiers.make("t")
    leading = True
    async with writing(client, lambda: leading, pace=Pace(rate=5.0, burst=1, spacing=0.0)) as writer:
        leading = False
        for name in ("t", "u", "v"):
            writer.offer(target(tiers.make(name), ("Accepted", "True")))
        await done(writer)
        assert writer.counts.written == 0
    assert tiers.writes(mark) == []
    assert tiers.get("t") == data


async def test_an_api_server_that_comes_back_gets_what_waited(tiers: Tiers, client: ApiClient) -> None:
    data = tiers.make("t")
    async with writing(client, pace=Pace(rate=1000.0, burst=1000, spacing=0.0)) as writer:
        await asyncio.to_thread(tiers.plane.stop_apiserver)
        try:
            writer.offer(target(data, ("Accepted", "True")))
            await wait_until(lambda: writer.counts.failed)
        finally:
            await asyncio.to_thread(tiers.plane.start_apiserver)
        await wait_until(lambda: writer.counts.written == 1, 30)
    assert tiers.conditions("t")["Accepted"]["status"] == "True"


async def test_what_the_server_refuses_is_given_up(tiers: Tiers, client: ApiClient, monkeypatch: Any) -> None:
    monkeypatch.setattr("ralb_operator.cluster.writer._TRIES", 2)
    data = tiers.make("t")
    key = ObjectKey("ModelTier", tiers.namespace, "t")
    bad = Wanted(1, (Said("Accepted", "True", "not a reason!", ""),))
    async with writing(client) as writer:
        writer.offer(Target(key, data["metadata"]["uid"], data["metadata"]["resourceVersion"], {}, bad))
        await done(writer)
        assert (writer.counts.dropped, writer.counts.written) == (1, 0)
    assert not tiers.conditions("t")
