"""What users are told, on a real API server: by replicas of the operator with clients that accept, refuse or hang."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support_cluster import ControlPlane, running_control_plane
from support_cluster_fixtures import REPOSITORY
from support_kubelet import FakeKubelet
from support_net import wait_until
from support_replica import (
    Objects,
    connected_gateway,
    policy_to,
    running_replica,
    served,
    served_by_pods,
    tier_of,
)
from support_snapshots import trouble

BAD = "refused.example.com"


@pytest.fixture
def objects(control_plane: ControlPlane, namespace: str, crds: list[str]) -> Objects:
    return Objects(control_plane, namespace)


async def make_all(objects: Objects) -> None:
    await objects.apply("ModelPool", "p", served())
    await objects.apply("ModelTier", "t", tier_of("p"))
    await objects.apply("RoutingPolicy", "r", policy_to("t"))


ALL = (("ModelPool", "p"), ("ModelTier", "t"), ("RoutingPolicy", "r"))


async def all_programmed(objects: Objects) -> None:
    for kind, name in ALL:
        await objects.until(kind, name, "Programmed", "True")


async def test_from_nothing_to_programmed_and_what_an_edit_brings(objects: Objects, tmp_path: Path) -> None:
    async with running_replica(objects.plane, objects.namespace, tmp_path, "a") as replica:
        await make_all(objects)
        condition = await objects.until("ModelPool", "p", "Programmed", "Unknown", "NoGateway")
        assert condition["message"].startswith("No gateway is connected")
        assert (await objects.conditions("ModelPool", "p"))["Accepted"]["status"] == "True"
        async with connected_gateway(replica, bad=BAD.encode()) as (envoy, _):
            await all_programmed(objects)
            first = (await objects.get("ModelPool", "p"))["status"]
            assert first["snapshot"] == replica.operator.control.snapshots.version[:12]

            await objects.apply("ModelPool", "p", served(BAD))
            condition = await objects.until("ModelPool", "p", "Programmed", "False", "Refused")
            assert "cannot use pool/" in condition["message"], "Envoy's own words"
            assert "snapshot" not in (await objects.get("ModelPool", "p"))["status"]

            await objects.apply("ModelPool", "q", served("other.example.com"))
            await objects.until("ModelPool", "q", "Programmed", "True")

            await objects.apply("ModelPool", "p", served("better.example.com"))
            await all_programmed(objects)

            envoy.hold = True
            await objects.apply("ModelPool", "p", served("slow.example.com"))
            condition = await objects.until("ModelPool", "p", "Programmed", "Unknown", "Pending", 30)
            assert condition["message"] == "Waiting for 1 of 2 gateways and processors: gw."
            assert (await objects.conditions("ModelPool", "q"))["Programmed"]["status"] == "True"
            await envoy.release()
            await objects.until("ModelPool", "p", "Programmed", "True")


async def test_what_processors_cannot_read_of_a_pool_s_metrics_is_on_the_pool(
    objects: Objects, fake_kubelet: FakeKubelet, tmp_path: Path
) -> None:
    pool = f"{objects.namespace}/p"
    series = "vllm:kv_cache_usage_perc"
    async with (
        running_replica(objects.plane, objects.namespace, tmp_path, "a") as first,
        running_replica(objects.plane, objects.namespace, tmp_path, "b") as second,
    ):
        leader, follower = (first, second) if first.leading else (second, first)
        await wait_until(lambda: leader.leading)
        await fake_kubelet.pod(objects.namespace, "p-0", labels={"app": "p"})
        await objects.apply("ModelPool", "p", served_by_pods("p"))
        async with connected_gateway(leader, "gw-a") as (_, near):
            async with connected_gateway(follower, "gw-b") as (_, far):
                await objects.until("ModelPool", "p", "Programmed", "True")
                assert "MetricsAvailable" not in await objects.conditions("ModelPool", "p")
                await near.tell()
                await far.tell(trouble(pool, 1, 1, "p-0", series=series))
                condition = await objects.until("ModelPool", "p", "MetricsAvailable", "False", "MissingSeries")
                assert condition["message"].startswith(f"1 of 1 pods do not publish {series}: p-0.")

                async def warned() -> bool:
                    return ("Warning", "MissingSeries", "MetricsAvailable") in await objects.events("p")

                await wait_until(warned)
                await near.tell(trouble(pool, 1, 1, "p-0", error="timeout"))
                await far.tell()
                await objects.until("ModelPool", "p", "MetricsAvailable", "False", "Unreadable")
                await near.tell()
                await objects.until("ModelPool", "p", "MetricsAvailable", "True", "Available")
                await far.tell(trouble(pool, 1, 1, "p-0", series=series))
                await objects.until("ModelPool", "p", "MetricsAvailable", "False", "MissingSeries")
            # The one that told is gone, and what it told with it.
            await objects.until("ModelPool", "p", "MetricsAvailable", "True", "Available")
        await objects.until("ModelPool", "p", "MetricsAvailable", "Unknown", "NoGateway")
        await objects.apply("ModelPool", "p", served_by_pods("p", engine="Generic"))

        async def gone() -> bool:
            found = await objects.conditions("ModelPool", "p")
            return "Accepted" in found and "MetricsAvailable" not in found

        await wait_until(gone, what="nobody expects metrics of a Generic pool")


async def test_a_pool_that_was_made_anew_is_another_one(objects: Objects, tmp_path: Path) -> None:
    """Deleted and made again within a second: generation and time of creation are the same, what Envoy has is not."""
    async with (
        running_replica(objects.plane, objects.namespace, tmp_path, "a") as replica,
        connected_gateway(replica) as (envoy, _),
    ):
        await make_all(objects)
        await all_programmed(objects)
        # Both have to be of the same second.
        await wait_until(lambda: datetime.now(UTC).microsecond < 100_000)
        await objects.delete("ModelPool", "p")
        await objects.apply("ModelPool", "p", served("first.example.com"))
        await all_programmed(objects)
        envoy.hold = True
        await objects.delete("ModelPool", "p")
        await objects.apply("ModelPool", "p", served("second.example.com"))
        await objects.until("ModelPool", "p", "Programmed", "Unknown", "Pending", 30)
        await envoy.release()
        await objects.until("ModelPool", "p", "Programmed", "True")


async def test_conditions_times_and_events_move_with_the_truth_only(objects: Objects, tmp_path: Path) -> None:
    async with (
        running_replica(objects.plane, objects.namespace, tmp_path, "a") as replica,
        connected_gateway(replica),
    ):
        await make_all(objects)
        await all_programmed(objects)

        async def told() -> bool:
            return await objects.events("r") == [("Normal", "Programmed", "Programmed")]

        await wait_until(told)
        before = await objects.conditions("RoutingPolicy", "r")
        # Times are in whole seconds.
        await wait_until(lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}" > before["Programmed"]["lastTransitionTime"])

        await objects.apply("RoutingPolicy", "r", policy_to("t", "other"))
        condition = await objects.until("RoutingPolicy", "r", "Programmed", "True")
        assert condition["lastTransitionTime"] == before["Programmed"]["lastTransitionTime"]
        assert await objects.events("r") == [("Normal", "Programmed", "Programmed")]

        await objects.apply("RoutingPolicy", "r", policy_to("nowhere"))
        condition = await objects.until("RoutingPolicy", "r", "ResolvedRefs", "False", "RefNotFound")
        assert condition["lastTransitionTime"] != before["ResolvedRefs"]["lastTransitionTime"]
        warning = ("Warning", "RefNotFound", "ResolvedRefs")

        async def warned() -> bool:
            return warning in await objects.events("r")

        await wait_until(warned)


async def test_a_new_leader_writes_and_tells_nothing_that_is_known(objects: Objects, tmp_path: Path) -> None:
    plane, namespace = objects.plane, objects.namespace
    await make_all(objects)
    await objects.apply("Tenant", "n", {"identification": {"apiKeySecretRef": {"name": "key"}}})
    async with running_replica(plane, namespace, tmp_path, "b") as second:
        async with running_replica(plane, namespace, tmp_path, "a") as first:
            leader, follower = (first, second) if first.leading else (second, first)
            await wait_until(lambda: leader.leading)
            async with connected_gateway(first, "gw-a"), connected_gateway(second, "gw-b"):
                await all_programmed(objects)
                await objects.until("Tenant", "n", "Programmed", "False", "NotSupported")
                await wait_until(lambda: len(leader.attached.reporter.writer) == 0)
                mark = plane.audit.mark()
                resources = {name: (await objects.get(kind, name))["metadata"]["resourceVersion"] for kind, name in ALL}
                told = [await objects.events(name) for name in ("p", "t", "r", "n")]
                leader.stop.set()
                await wait_until(lambda: follower.leading, 20)
                # One look at everything by the new leader, and its sign of life: an edit that it reports.
                await objects.apply("ModelPool", "new", served("new.example.com"))
                await objects.until("ModelPool", "new", "Programmed", "True", seconds=30)
        for kind, name in ALL:
            assert (await objects.get(kind, name))["metadata"]["resourceVersion"] == resources[name]
        assert [await objects.events(name) for name in ("p", "t", "r", "n")] == told
        assert set(objects.status_writes(mark)) == {"new"}


async def test_what_the_other_replicas_gateways_say_counts(objects: Objects, tmp_path: Path) -> None:
    plane, namespace = objects.plane, objects.namespace
    async with (
        running_replica(plane, namespace, tmp_path, "a") as first,
        running_replica(plane, namespace, tmp_path, "b") as second,
    ):
        await wait_until(lambda: first.leading or second.leading, 20)
        leader, follower = (first, second) if first.leading else (second, first)
        await make_all(objects)
        await objects.until("ModelPool", "p", "Programmed", "Unknown", "NoGateway")
        async with connected_gateway(follower, "far", bad=BAD.encode()) as (envoy, _):
            await all_programmed(objects)
            await objects.apply("ModelPool", "p", served(BAD))
            condition = await objects.until("ModelPool", "p", "Programmed", "False", "Refused")
            assert "cannot use pool/" in condition["message"]
            assert not leader.operator.control.ads.peers()

            envoy.hold = True
            await objects.apply("ModelPool", "p", served("slow.example.com"))
            condition = await objects.until("ModelPool", "p", "Programmed", "Unknown", "Pending", 30)
            assert "far" in condition["message"] or follower.operator.options.identity in condition["message"]
            await envoy.release()
            await objects.until("ModelPool", "p", "Programmed", "True")


async def test_reports_go_with_their_replica(objects: Objects, tmp_path: Path) -> None:
    plane, namespace = objects.plane, objects.namespace
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    async def names() -> set[str]:
        listed = await asyncio.to_thread(plane.api.request, "GET", path)
        return {item["metadata"]["name"] for item in listed["items"]}

    async with running_replica(plane, namespace, tmp_path, "a") as first:
        async with running_replica(plane, namespace, tmp_path, "b"):
            await wait_until(lambda: len(first.attached.reporter.peers.fresh()) == 1)
            assert await names() == {"ralb-operator", "ralb-report-a", "ralb-report-b"}
        await wait_until(lambda: not first.attached.reporter.peers.fresh())
        assert await names() == {"ralb-operator", "ralb-report-a"}
    assert await names() == {"ralb-operator"}


async def test_gateways_that_are_away_for_a_moment_change_nothing(objects: Objects, tmp_path: Path) -> None:
    async with running_replica(objects.plane, objects.namespace, tmp_path, "a", desertion=6.0) as replica:
        await make_all(objects)
        async with connected_gateway(replica):
            await all_programmed(objects)
        mark = objects.plane.audit.mark()
        await wait_until(lambda: not replica.operator.control.ads.peers())
        await objects.apply("ModelPool", "q", served("q.example.com"))
        await objects.until("ModelPool", "q", "Programmed", "Unknown", "NoGateway")
        assert {*objects.status_writes(mark)} == {"q"}, "what was in force stays so for a while"
        async with connected_gateway(replica):
            await objects.until("ModelPool", "q", "Programmed", "True")
            assert {*objects.status_writes(mark)} == {"q"}
        await objects.until("ModelPool", "p", "Programmed", "Unknown", "NoGateway", 30)


async def test_pods_come_and_go_without_status_writes_elsewhere(objects: Objects, tmp_path: Path) -> None:
    pods = f"/api/v1/namespaces/{objects.namespace}/pods"
    spec = {
        "model": {"name": "n", "contextWindow": 100},
        "backend": {"pods": {"selector": {"matchLabels": {"a": "n"}}}},
    }
    async with (
        running_replica(objects.plane, objects.namespace, tmp_path, "a") as replica,
        connected_gateway(replica),
    ):
        await make_all(objects)
        await objects.apply("ModelPool", "n", spec)
        await all_programmed(objects)
        await objects.until("ModelPool", "n", "Programmed", "True")
        await wait_until(lambda: len(replica.attached.reporter.writer) == 0)
        mark, version = objects.plane.audit.mark(), replica.operator.control.snapshots.version
        for i in range(3):
            pod = {
                "metadata": {"name": f"n{i}", "labels": {"a": "n"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            }
            await asyncio.to_thread(objects.plane.api.request, "POST", pods, pod)
            status = {"status": {"podIP": f"127.9.9.{i + 1}", "conditions": [{"type": "Ready", "status": "True"}]}}
            await asyncio.to_thread(
                objects.plane.api.request,
                "PATCH",
                f"{pods}/n{i}/status",
                status,
                content_type="application/merge-patch+json",
            )
        await objects.until("ModelPool", "n", "Ready", "True")

        async def counted() -> bool:
            return (await objects.get("ModelPool", "n"))["status"]["endpoints"] == {"ready": 3, "total": 3}

        await wait_until(counted)
        assert replica.operator.control.snapshots.version != version
        assert {*objects.status_writes(mark)} == {"n", *(f"n{i}" for i in range(3))}


async def test_the_operator_shows_how_it_is_doing(objects: Objects, tmp_path: Path) -> None:
    async with (
        running_replica(objects.plane, objects.namespace, tmp_path, "a") as replica,
        connected_gateway(replica, "a-gateway", bad=BAD.encode()),
        aiohttp.ClientSession() as session,
    ):
        await make_all(objects)
        await objects.apply("ModelPool", "odd", served(BAD))
        await all_programmed(objects)
        await objects.until("ModelPool", "odd", "Programmed", "False")

        async def get(path: str) -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{replica.attached.admin.port}{path}") as answer:
                return answer.status, await answer.text()

        assert await get("/healthz") == (200, "ok\n")
        assert await get("/readyz") == (200, "ready\n")
        await wait_until(lambda: len(replica.attached.reporter.writer) == 0)
        _, page = await get("/metrics")
        series = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }
        own = "ralb_operator_"
        assert series[own + "leader",] == series[own + "envoys",] == series[own + "processors",] == 1
        assert series[own + "objects", "ModelPool", "accepted"] == 1
        assert series[own + "objects", "ModelPool", "invalid"] == 1
        assert series[own + "store_objects", "ModelTier"] == 1
        assert series[own + "status_writes_total", "written"] >= 4
        assert series[own + "events_total", "posted"] >= 1
        assert series[own + "envoy_refusals_total",] >= 1
        assert series[own + "publishes_total", "published"] >= 1
        assert series[own + "compile_seconds_count",] >= 2
        assert series[own + "change_to_ack_seconds_count",] >= 1
        assert series[own + "watch_synced", "modelpools.ralb.dev"] == 1
        assert series[own + "watch_lists_total", "pods"] == 1
        assert series[own + "watch_silence_seconds", "pods"] >= 0
        assert series[own + "snapshot_info", replica.operator.control.snapshots.version[:12]] == 1
        for name in ("a-gateway", objects.namespace, "odd", BAD):
            assert name not in page, "labels are of bounded number"


async def test_objects_that_can_not_be_read_are_told_so(tmp_path: Path) -> None:
    """With a CRD that lets everything through, as one of another release might."""
    with running_control_plane() as plane:
        for file in sorted((REPOSITORY / "crds").glob("*.yaml")):
            crd = yaml.safe_load(file.read_text())
            crd["spec"]["versions"][0].pop("selectableFields", None)
            schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            schema.pop("x-kubernetes-validations", None)
            name = crd["metadata"]["name"]
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
            plane.api.apply(path, crd)
            await wait_until(lambda path=path: _established(plane, path), 20)  # type: ignore[misc]
        plane.api.create_namespace("ns")
        objects = Objects(plane, "ns")
        async with running_replica(plane, "ns", tmp_path, "a") as replica, connected_gateway(replica):
            await objects.apply("ModelTier", "t", {"level": "high"})
            condition = await objects.until("ModelTier", "t", "Accepted", "False", "Invalid")
            assert "spec.level" in condition["message"]
            await objects.until("ModelTier", "t", "Programmed", "False", "NotAccepted")
            status = (await objects.get("ModelTier", "t"))["status"]
            assert [each["type"] for each in status["conditions"]] == ["Accepted", "Programmed"]
            await objects.apply("ModelPool", "p", served())
            await objects.apply("ModelTier", "t", tier_of("p"))
            await objects.until("ModelTier", "t", "Programmed", "True")
            await objects.apply("ModelTier", "t", {"level": 1, "pools": "p"})
            await objects.until("ModelTier", "t", "Accepted", "False", "Invalid")
            assert "ResolvedRefs" not in await objects.conditions("ModelTier", "t")


def _established(plane: ControlPlane, path: str) -> bool:
    conditions = plane.api.request("GET", path).get("status", {}).get("conditions", [])
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
