"""The control plane that the tests run on is real: what it grants, keeps and makes."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cluster_tools.locate import ASSETS
from cluster_tools.modules import CONTROL_PLANE, HELM
from support_cluster import ControlPlane
from support_cluster_api import ApiProblem, ClusterApi
from support_kubelet import FakeKubelet, PodSpec
from support_net import wait_until
from support_simulators import Simulators

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def account(plane: ControlPlane, namespace: str, name: str, *rules: dict[str, Any]) -> ClusterApi:
    """A client with the token of a new ServiceAccount that has these rules in its namespace."""
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    plane.api.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
    plane.api.request("POST", rbac + "/roles", {"metadata": {"name": name}, "rules": list(rules)})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    plane.api.request("POST", rbac + "/rolebindings", binding)
    return ClusterApi(plane.url, plane.ca_file, plane.token_for(namespace, name))


def test_versions_are_stamped(control_plane: ControlPlane, helm: Path) -> None:
    version = json.loads(control_plane.kubectl("version", "-o", "json").stdout)
    server, client = version["serverVersion"], version["clientVersion"]
    if not os.environ.get(ASSETS):
        assert server["gitVersion"] == client["gitVersion"] == CONTROL_PLANE.version("k8s.io/kubernetes")
    assert server["gitVersion"].startswith(f"v{server['major']}.{server['minor']}.")
    assert int(server["minor"]) > 0
    assert control_plane.run_helm("version", "--template", "{{.Version}}").stdout == HELM.version("helm.sh/helm/v4")


def test_rbac_grants_what_a_role_says_and_nothing_else(control_plane: ControlPlane, namespace: str) -> None:
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    mine = account(control_plane, namespace, "reader", rule)
    try:
        assert mine.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"] == []
        for method, path, body in (
            ("GET", "/api/v1/namespaces/default/pods", None),
            ("GET", "/api/v1/pods", None),
            ("GET", f"/api/v1/namespaces/{namespace}/secrets", None),
            ("POST", f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": "a"}}),
        ):
            with pytest.raises(ApiProblem) as refused:
                mine.request(method, path, body)
            assert refused.value.status == 403
    finally:
        mine.close()


def test_a_wrong_token_is_nobody(control_plane: ControlPlane) -> None:
    stranger = ClusterApi(control_plane.url, control_plane.ca_file, "wrong")
    with pytest.raises(ApiProblem) as refused:
        stranger.request("GET", "/api/v1/pods")
    stranger.close()
    assert refused.value.status == 401
    kubeconfig = control_plane.kubeconfig_for("wrong")
    assert control_plane.kubectl("get", "pods", check=False, kubeconfig=kubeconfig).returncode == 1


def test_pod_security_is_enforced_where_a_namespace_asks(control_plane: ControlPlane, namespace: str) -> None:
    pod = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    pods = f"/api/v1/namespaces/{namespace}/pods"
    control_plane.api.request("POST", pods + "?dryRun=All", pod)
    control_plane.kubectl("label", "namespace", namespace, *(f"{key}={value}" for key, value in RESTRICTED.items()))
    with pytest.raises(ApiProblem, match="violates PodSecurity"):
        control_plane.api.request("POST", pods, pod)


async def test_pods_get_addresses_readiness_and_an_end(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet
) -> None:
    control_plane.kubectl("label", "namespace", namespace, *(f"{key}={value}" for key, value in RESTRICTED.items()))
    path = f"/api/v1/namespaces/{namespace}/pods"

    def pod(name: str) -> dict[str, Any]:
        found: dict[str, Any] = control_plane.api.request("GET", f"{path}/{name}")
        return found

    def ready(name: str) -> str:
        return str({one["type"]: one["status"] for one in pod(name)["status"]["conditions"]}["Ready"])

    ip = await fake_kubelet.pod(namespace, "a", labels={"app": "a"}, ports={"http": 8000})
    assert pod("a")["status"]["podIP"] == ip
    assert ip.startswith("127.")
    assert ready("a") == "True"
    await fake_kubelet.set_ready(namespace, "a", False)
    assert ready("a") == "False"

    names = await fake_kubelet.many(namespace, 40, labels={"app": "many"})
    pods = control_plane.api.request("GET", path + "?labelSelector=app%3Dmany")["items"]
    assert {one["metadata"]["name"] for one in pods} == set(names)
    assert len({one["status"]["podIP"] for one in pods}) == 40

    await fake_kubelet.delete(namespace, "a", grace=30)
    assert pod("a")["metadata"]["deletionTimestamp"]
    await fake_kubelet.delete(namespace, "a")
    with pytest.raises(ApiProblem, match="not found"):
        await fake_kubelet.delete(namespace, "a")
    assert not control_plane.api.exists(path + "/a")
    await fake_kubelet.delete_all(namespace, "app=many")
    assert control_plane.api.request("GET", path)["items"] == []


async def test_a_simulated_server_is_behind_a_pods_address(
    control_plane: ControlPlane, namespace: str, fake_kubelet: FakeKubelet, simulators: Simulators
) -> None:
    ip = await simulators.start("m", time_scale=0.01)
    await fake_kubelet.pods(namespace, [PodSpec("a", ip)])
    pod = control_plane.api.request("GET", f"/api/v1/namespaces/{namespace}/pods/a")
    reader, writer = await asyncio.open_connection(pod["status"]["podIP"], 8000)
    writer.write(b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b'"m"' in answer


async def test_data_survives_restarts_of_the_api_server_and_of_etcd(
    control_plane: ControlPlane, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/kept"
    control_plane.kubectl("create", "configmap", "kept", "-n", namespace, "--from-literal=a=b")
    control_plane.stop_apiserver(signal.SIGKILL)
    with pytest.raises(OSError):
        control_plane.api.exists(path)
    control_plane.start_apiserver()
    assert control_plane.api.exists(path)
    # Started from threads of an event loop, whose end must not end them: the kernel signal belongs to a thread.
    await asyncio.to_thread(control_plane.stop_etcd, signal.SIGKILL)
    assert not control_plane.etcd.pid
    await asyncio.to_thread(control_plane.start_etcd)
    assert await wait_until(lambda: control_plane.api.exists(path), 30, what="API server with etcd again")


def test_the_audit_log_says_who_wrote_what(control_plane: ControlPlane, namespace: str) -> None:
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get"]}
    writer = account(control_plane, namespace, "writer", rule)
    user, mark = f"system:serviceaccount:{namespace}:writer", control_plane.audit.mark()
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    writer.request("POST", path, {"metadata": {"name": "a"}})
    writer.request("GET", path + "/a")
    with pytest.raises(ApiProblem):
        writer.request("DELETE", path + "/a")
    writer.close()
    asyncio.run(wait_until(lambda: len([e for e in control_plane.audit.entries(mark) if e.user == user]) >= 3))
    seen = [entry for entry in control_plane.audit.entries(mark) if entry.user == user]
    assert [(entry.verb, entry.resource, entry.code) for entry in seen] == [
        ("create", "configmaps", 201),
        ("get", "configmaps", 200),
        ("delete", "configmaps", 403),
    ]
    assert [entry.verb for entry in control_plane.audit.writes(mark, user=user)] == ["create", "delete"]


def test_our_and_foreign_definitions_are_served(
    control_plane: ControlPlane, namespace: str, crds: list[str], foreign_crds: list[str]
) -> None:
    assert "modelpools.ralb.dev" in crds
    assert set(foreign_crds) == {
        "inferencepools.inference.networking.k8s.io",
        "podmonitors.monitoring.coreos.com",
        "referencegrants.gateway.networking.k8s.io",
    }
    for name in crds + foreign_crds:
        assert control_plane.kubectl("get", name, "-n", namespace).returncode == 0
    path = f"/apis/inference.networking.k8s.io/v1/namespaces/{namespace}/inferencepools/a"
    pool = {"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": "a"}}
    with pytest.raises(ApiProblem, match="spec: Required value"):
        control_plane.api.apply(path, pool)


def test_a_deleted_namespace_is_empty_and_gone(control_plane: ControlPlane, crds: list[str]) -> None:
    api = control_plane.api
    api.create_namespace("short-lived")
    api.request("POST", "/api/v1/namespaces/short-lived/configmaps", {"metadata": {"name": "a"}})
    pool = {"model": {"name": "m"}, "backend": {"pods": {"selector": {"matchLabels": {"a": "b"}}}}}
    pools = "/apis/ralb.dev/v1alpha1/namespaces/short-lived/modelpools"
    manifest = {"apiVersion": "ralb.dev/v1alpha1", "kind": "ModelPool", "metadata": {"name": "a"}, "spec": pool}
    api.request("POST", pools, manifest)
    api.delete_namespace("short-lived")
    assert not api.exists("/api/v1/namespaces/short-lived")
    for path in ("/api/v1/configmaps", "/apis/ralb.dev/v1alpha1/modelpools"):
        items = api.request("GET", path)["items"]
        assert not [item for item in items if item["metadata"]["namespace"] == "short-lived"]


async def test_the_controller_manager_does_its_part(
    controller_manager: ControlPlane, namespace: str, fake_kubelet: FakeKubelet
) -> None:
    api, base = controller_manager.api, f"/api/v1/namespaces/{namespace}"
    await wait_until(lambda: api.exists(f"{base}/serviceaccounts/default"), what="default account")
    # An address outside of 127.0.0.0/8, which EndpointSlices do not take.
    await fake_kubelet.pod(namespace, "a", ip="10.1.2.3", labels={"app": "a"})
    service = {"metadata": {"name": "a"}, "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}}
    api.request("POST", f"{base}/services", service)
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"

    def endpoints() -> list[str]:
        items = api.request("GET", slices)["items"]
        return [ip for item in items for endpoint in item["endpoints"] or () for ip in endpoint["addresses"]]

    await wait_until(lambda: endpoints() == ["10.1.2.3"], 20, what="an EndpointSlice")
    api.create_namespace("ends-itself")
    api.request("POST", "/api/v1/namespaces/ends-itself/configmaps", {"metadata": {"name": "a"}})
    api.request("DELETE", "/api/v1/namespaces/ends-itself")
    await wait_until(lambda: not api.exists("/api/v1/namespaces/ends-itself"), 60, what="end of the namespace")


async def test_a_deployment_is_rolled_out_and_its_pods_end(
    controller_manager: ControlPlane, namespace: str, fake_kubelet: FakeKubelet
) -> None:
    async def run(*arguments: str) -> None:
        await asyncio.to_thread(controller_manager.kubectl, *arguments)

    pods = f"/api/v1/namespaces/{namespace}/pods"
    async with fake_kubelet.keeping(namespace):
        await run("create", "deployment", "a", "-n", namespace, "--image=test.invalid/a:1", "--replicas=3")
        await run("rollout", "status", "deployment/a", "-n", namespace, "--timeout=60s")
        items = controller_manager.api.request("GET", pods)["items"]
        assert len({item["status"]["podIP"] for item in items}) == 3
        await run("scale", "deployment/a", "-n", namespace, "--replicas=1")
        await wait_until(lambda: len(controller_manager.api.request("GET", pods)["items"]) == 1, 30, what="one Pod")


def test_what_a_failed_test_left_stopped_is_started_again(control_plane: ControlPlane) -> None:
    control_plane.stop_apiserver(signal.SIGKILL)
    control_plane.stop_etcd(signal.SIGKILL)
    control_plane.ensure()
    assert control_plane.api.exists("/api/v1/namespaces/default")
