"""The operator on a real API server: what is applied is served, and what is gone is gone."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from support_cluster import ControlPlane
from support_kubelet import FakeKubelet
from support_operator import collection, kubeconfig_through, pool, running_operator
from support_relay import running_relay
from support_snapshots import SnapshotClient

from ralb_api.objects import KINDS

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.usefixtures("crds")


async def call(plane: ControlPlane, method: str, path: str, body: Any = None) -> Any:
    return await asyncio.to_thread(plane.api.request, method, path, body)


@pytest.fixture
def listen(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/grpc.sock"


async def test_an_applied_example_is_served(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet, listen: str
) -> None:
    async with running_operator(control_plane, listen, [namespace]) as running:
        await running.serving()
        for file in sorted((EXAMPLES / "quickstart").glob("*.yaml")):
            for document in yaml.safe_load_all(file.read_text()):
                if document and document["kind"] in KINDS:
                    document["metadata"].pop("namespace", None)
                    path = collection(KINDS[document["kind"]].plural, namespace)
                    await call(control_plane, "POST", path, document)
        pools = await call(control_plane, "GET", collection("modelpools", namespace))
        assert pools["items"]
        for each in pools["items"]:
            labels = each["spec"]["backend"]["pods"]["selector"]["matchLabels"]
            await fake_kubelet.pod(namespace, f"pod-of-{each['metadata']['name']}", labels=labels)
        names = {each["metadata"]["name"] for each in pools["items"]}
        await running.until(lambda: all(f"pod-of-{name}" in running.pods_of(f"{namespace}/{name}") for name in names))
        async with SnapshotClient(listen) as processor:
            await running.until(lambda: running.snapshot.version in processor.received)
        assert running.snapshot.policies


async def test_pods_come_change_and_go(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet, listen: str
) -> None:
    await call(control_plane, "POST", collection("modelpools", namespace), pool("a"))
    served = f"{namespace}/a"
    async with running_operator(control_plane, listen, [namespace]) as running:
        await running.serving()
        await fake_kubelet.pod(namespace, "one", labels={"app": "a"})
        await fake_kubelet.pod(namespace, "two", labels={"app": "a"}, ready=False)
        await fake_kubelet.pod(namespace, "other", labels={"app": "b"})
        await running.until(lambda: running.pods_of(served) == {"one"})
        await fake_kubelet.set_ready(namespace, "two", True)
        await running.until(lambda: running.pods_of(served) == {"one", "two"})
        await fake_kubelet.delete(namespace, "one")
        await running.until(lambda: running.pods_of(served) == {"two"})
        # Pods that are through are not even looked at.
        await fake_kubelet.set_phase(namespace, "two", "Succeeded")
        await running.until(lambda: running.pods_of(served) == set())
        await running.until(lambda: {each.name for each in running.view.pods} == {"other"})


async def test_objects_change_and_go(control_plane: ControlPlane, namespace: str, listen: str) -> None:
    path = collection("modelpools", namespace)
    async with running_operator(control_plane, listen, [namespace]) as running:
        await running.serving()
        made = await call(control_plane, "POST", path, pool("a"))
        await running.until(lambda: [each.id for each in running.snapshot.pools] == [f"{namespace}/a"])
        made["spec"]["model"]["contextWindow"] = 4096
        await call(control_plane, "PUT", f"{path}/a", made)
        await running.until(lambda: [each.model.context_window for each in running.snapshot.pools] == [4096])
        await call(control_plane, "DELETE", f"{path}/a")
        await running.until(lambda: not running.snapshot.pools)


async def test_a_written_status_builds_nothing(control_plane: ControlPlane, namespace: str, listen: str) -> None:
    path = collection("modelpools", namespace)
    made = await call(control_plane, "POST", path, pool("a"))
    async with running_operator(control_plane, listen, [namespace]) as running:
        await running.serving()
        # The changes of the start are through when another object's are.
        await call(control_plane, "POST", path, pool("b"))
        await running.until(lambda: len(running.snapshot.pools) == 2)
        changes = running.operator.store.changes
        condition = {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        made["status"] = {"conditions": [condition]}
        await call(control_plane, "PUT", f"{path}/a/status", made)

        def seen() -> bool:
            (entry,) = (each for each in running.operator.store.entries("ModelPool") if each.key.name == "a")
            return bool(entry.status)

        await running.until(seen)
        assert running.operator.store.changes == changes


async def test_half_of_everything_vanishes_in_a_watch_gap(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet, listen: str, tmp_path: Path
) -> None:
    """Nobody tells of the deletions: the line was cut, and the restarted API server knows no events from before."""
    path = collection("modelpools", namespace)
    for name in ("a", "b"):
        await call(control_plane, "POST", path, pool(name, {"app": "a"}))
    await call(control_plane, "POST", collection("modeltiers", namespace), tier("only"))
    pods = await fake_kubelet.many(namespace, 10, labels={"app": "a"})
    async with running_relay(("127.0.0.1", int(control_plane.url.rpartition(":")[2]))) as relay:
        config = kubeconfig_through(control_plane, relay.port, tmp_path / "relay.json")
        async with running_operator(control_plane, listen, [namespace], kubeconfig=config) as running:
            await running.serving()
            await running.until(lambda: running.pods_of(f"{namespace}/a") == set(pods))
            await running.until(lambda: len(running.view.tiers) == 1)
            follows = {follow.name.split()[0]: follow for follow in running.operator.others}
            lists = follows["pods"].counts.lists
            await relay.cut()
            await fake_kubelet.delete(namespace, pods[:5])
            await call(control_plane, "DELETE", f"{path}/b")
            await call(control_plane, "DELETE", f"{collection('modeltiers', namespace)}/only")
            await asyncio.to_thread(control_plane.stop_apiserver)
            await asyncio.to_thread(control_plane.start_apiserver)
            relay.mend()
            await running.until(lambda: running.pods_of(f"{namespace}/a") == set(pods[5:]))
            await running.until(lambda: {key.name for key in running.view.pools} == {"a"})
            await running.until(lambda: not running.view.tiers)
            assert follows["pods"].counts.lists > lists, "events told of the deletions: there was no gap"
            # What comes after the gap comes as before it.
            await call(control_plane, "POST", path, pool("c", {"app": "a"}))
            await running.until(lambda: running.pods_of(f"{namespace}/c") == set(pods[5:]))


async def test_what_is_served_outlives_the_api_server(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet, listen: str, tmp_path: Path
) -> None:
    await call(control_plane, "POST", collection("modelpools", namespace), pool("a"))
    await fake_kubelet.pod(namespace, "one", labels={"app": "a"})
    async with running_relay(("127.0.0.1", int(control_plane.url.rpartition(":")[2]))) as relay:
        config = kubeconfig_through(control_plane, relay.port, tmp_path / "relay.json")
        async with running_operator(control_plane, listen, [namespace], kubeconfig=config) as running:
            await running.serving()
            await running.until(lambda: running.pods_of(f"{namespace}/a") == {"one"})
            await relay.cut()
            await running.until(lambda: any(follow.state == "failing" for follow in running.operator.others))
            async with SnapshotClient(listen) as processor:
                await running.until(lambda: running.snapshot.version in processor.received)
            assert not running.operator.not_ready()

        # A new operator does not serve half of a cluster, or nothing, to those who have all of it.
        async with running_operator(control_plane, listen, [namespace], kubeconfig=config) as fresh:
            await fresh.until(lambda: any("cannot be reached" in why for why in fresh.operator.not_ready()))
            assert not os.path.exists(listen.removeprefix("unix:"))  # noqa: ASYNC240  # a test, and one call
            relay.mend()
            await fresh.serving()
            assert fresh.pods_of(f"{namespace}/a") == {"one"}
            assert fresh.applied[0][0].result.snapshot.version == running.snapshot.version


async def test_other_namespaces_are_not_seen(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet, listen: str
) -> None:
    await call(control_plane, "POST", collection("modelpools", namespace), pool("a"))
    await fake_kubelet.pod(namespace, "one", labels={"app": "a"})
    async with running_operator(control_plane, listen, ["elsewhere"]) as running:
        await running.serving()
        assert not running.view.pools
        assert not running.view.pods
        assert not running.snapshot.pools


async def test_thousands_of_pods(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet, listen: str
) -> None:
    await call(control_plane, "POST", collection("modelpools", namespace), pool("a"))
    names = await fake_kubelet.many(namespace, 5000, labels={"app": "a"})
    async with running_operator(control_plane, listen) as running:
        await running.serving()
        assert running.pods_of(f"{namespace}/a") == set(names)
        (pods,) = (follow for follow in running.operator.others if follow.name == "pods")
        assert pods.counts.lists == 1
        await fake_kubelet.delete(namespace, names[:2500])
        await running.until(lambda: running.pods_of(f"{namespace}/a") == set(names[2500:]))


def tier(name: str) -> dict[str, Any]:
    spec = {"level": 1, "pools": [{"name": "a"}]}
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "ModelTier", "metadata": {"name": name}, "spec": spec}
