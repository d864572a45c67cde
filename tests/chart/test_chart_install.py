"""Both charts on a real API server: install, upgrade, rollback, uninstall; pods that a restricted namespace lets in."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from support_chart import CI, CRDS, RALB, REPOSITORY, Helm, Object, Rendered, golden, values_file
from support_cluster import ControlPlane, running_control_plane
from support_cluster_fixtures import install_crds, require
from support_net import wait_until

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
POOL = """
apiVersion: ralb.dev/v1alpha1
kind: ModelPool
metadata: {name: kept, namespace: default}
spec:
  model: {name: some/model}
  backend: {pods: {selector: {matchLabels: {app: vllm}}, port: 8000}}
"""


@pytest.fixture(scope="module")
def own_plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """A control plane whose CRDs are the chart's, not those of other tests."""
    for name in ("etcd", "kube-apiserver", "kubectl", "helm"):
        require(pytestconfig, name)
    with running_control_plane() as plane:
        yield plane


@contextmanager
def restricted_namespace(plane: ControlPlane, name: str, **labels: str) -> Iterator[str]:
    plane.api.create_namespace(name, RESTRICTED | labels)
    try:
        yield name
    finally:
        plane.api.delete_namespace(name)


def owned(plane: ControlPlane, release: str) -> list[str]:
    """Everything in the cluster that a release made and that is still there."""
    kinds = "deployments,services,serviceaccounts,configmaps,roles,rolebindings,clusterroles,clusterrolebindings"
    kinds += ",poddisruptionbudgets,horizontalpodautoscalers,networkpolicies"
    selector = f"app.kubernetes.io/managed-by=Helm,app.kubernetes.io/instance={release}"
    listed = plane.kubectl("get", kinds, "-A", "-l", selector, "-o", "name").stdout
    return sorted(listed.split())


# ---- the definitions ----


def changed_crds(folder: Path) -> Path:
    """The chart with a new field in ModelPools and another description, as a next version would have."""
    chart = Path(shutil.copytree(CRDS, folder / "ralb-crds"))
    file = chart / "templates" / "ralb.dev_modelpools.yaml"
    text = file.read_text()
    definition = yaml.safe_load(text)
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["description"] = "spec is described in other words."
    spec["properties"]["comesLater"] = {"type": "string", "maxLength": 63, "description": "comesLater is new."}
    file.write_text(yaml.safe_dump(definition, sort_keys=False))
    about = chart / "Chart.yaml"
    about.write_text(about.read_text().replace("version: 0.1.0", "version: 0.2.0"))
    return chart


def explained(plane: ControlPlane) -> str:
    return plane.kubectl("explain", "modelpool.spec").stdout


def set_later(plane: ControlPlane) -> str:
    """What the API server keeps of a field that only the next version knows, and what it says about it."""
    patch = '{"spec": {"comesLater": "yes"}}'
    said = plane.kubectl("patch", "modelpool", "kept", "--type=merge", "-p", patch).stderr
    kept = plane.api.request("GET", "/apis/ralb.dev/v1alpha1/namespaces/default/modelpools/kept")["spec"]
    return kept.get("comesLater", "") or said


async def test_definitions_that_were_applied_by_hand_can_be_taken_over(own_plane: ControlPlane, tmp_path: Path) -> None:
    plane = own_plane
    install_crds(plane, sorted((REPOSITORY / "crds").glob("*.yaml")))
    install = ("install", "ralb-crds", CRDS, "--namespace", "default")
    refused = plane.run_helm(*install, check=False)
    assert refused.returncode != 0
    assert "invalid ownership metadata" in refused.stderr
    plane.run_helm(*install, "--take-ownership")
    upgrade = ("upgrade", "ralb-crds", changed_crds(tmp_path), "--namespace", "default")
    assert 'conflict with "kubectl"' in plane.run_helm(*upgrade, check=False).stderr
    plane.run_helm(*upgrade, "--force-conflicts")
    await wait_until(lambda: "described in other words" in explained(plane), 30, what="the new description")
    plane.run_helm("uninstall", "ralb-crds", "--namespace", "default")


async def test_definitions_live_longer_than_their_release(own_plane: ControlPlane, tmp_path: Path) -> None:
    plane = own_plane
    install = ("install", "ralb-crds", CRDS, "--namespace", "default")
    plane.run_helm(*install)
    names = ["modelpools", "modeltiers", "routingpolicies", "semanticroutes", "tenants", "toolbackends"]
    wanted = [f"customresourcedefinition.apiextensions.k8s.io/{name}.ralb.dev" for name in names]
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *wanted)
    plane.kubectl("apply", "-f", "-", input=POOL)
    assert "unknown field" in set_later(plane)

    plane.run_helm("upgrade", "ralb-crds", changed_crds(tmp_path), "--namespace", "default")
    await wait_until(lambda: set_later(plane) == "yes", 30, what="the new schema")
    await wait_until(lambda: "described in other words" in explained(plane), 30, what="the new description")

    plane.run_helm("rollback", "ralb-crds", "1", "--namespace", "default")
    await wait_until(lambda: "unknown field" in set_later(plane), 30, what="the old schema again")

    said = plane.run_helm("uninstall", "ralb-crds", "--namespace", "default").stdout
    assert "kept due to the resource policy" in said
    assert plane.kubectl("get", "crd", "-l", "app.kubernetes.io/name=ralb", "-o", "name").stdout.split() == wanted
    assert plane.kubectl("get", "modelpool", "kept", "-o", "name").stdout.strip() == "modelpool.ralb.dev/kept"
    plane.run_helm(*install)  # takes them over again
    history = plane.run_helm("history", "ralb-crds", "--namespace", "default").stdout
    assert "deployed" in history


# ---- the rest ----


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane, pytestconfig: pytest.Config) -> ControlPlane:
    """With all definitions the chart ralb may use, and with controllers, so that Deployments make Pods."""
    from cluster_tools import locate

    require(pytestconfig, "kube-controller-manager")
    own_plane.run_helm("upgrade", "--install", "ralb-crds", CRDS, "--namespace", "default")
    install_crds(own_plane, locate.foreign_crds())
    own_plane.controller_manager()
    return own_plane


def pods(plane: ControlPlane, namespace: str) -> list[Object]:
    items: list[Object] = plane.api.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return items


async def test_install_upgrade_rollback_uninstall(plane: ControlPlane, tmp_path: Path) -> None:
    with restricted_namespace(plane, "ralb-system") as namespace:
        at = ("--namespace", namespace)
        scrape = ("--set", "metrics.podMonitor.enabled=true", "--set", "credentials.secrets[0].namespace=default")
        installed = plane.run_helm("install", "ralb", RALB, *at, *scrape, "--set", "credentials.secrets[0].names={key}")
        assert "rollout status deployment/ralb-gateway" in installed.stdout
        assert "definitions are missing" not in installed.stdout
        assert "Warning" not in installed.stderr
        first = owned(plane, "ralb")
        assert (
            len(plane.api.request("GET", f"/apis/monitoring.coreos.com/v1/namespaces/{namespace}/podmonitors")["items"])
            == 1
        )

        # The ReplicaSet controller really creates them, in a namespace that takes nothing below "restricted".
        await wait_until(lambda: len(pods(plane, namespace)) == 4, 60, interval=0.2, what="four pods")
        for pod in pods(plane, namespace):
            assert pod["metadata"]["labels"]["app.kubernetes.io/component"] in ("operator", "gateway")

        values = tmp_path / "values.yaml"
        values.write_text(yaml.safe_dump({"operator": {"replicas": 3}, "networkPolicy": {"enabled": True}}))
        plane.run_helm("upgrade", "ralb", RALB, *at, "--reset-then-reuse-values", "--values", values)
        assert set(owned(plane, "ralb")) - set(first) == {
            "networkpolicy.networking.k8s.io/ralb-gateway",
            "networkpolicy.networking.k8s.io/ralb-operator",
        }
        await wait_until(lambda: len(pods(plane, namespace)) == 5, 60, interval=0.2, what="a third operator")

        plane.run_helm("rollback", "ralb", "1", *at)
        assert owned(plane, "ralb") == first
        await wait_until(lambda: len(pods(plane, namespace)) == 4, 60, interval=0.2, what="two operators again")

        plane.run_helm("uninstall", "ralb", *at)
        assert owned(plane, "ralb") == []
        await wait_until(lambda: not pods(plane, namespace), 60, interval=0.2, what="no pods")
        assert plane.kubectl("get", "modelpools", "-A").returncode == 0  # the definitions are another release's


async def test_autoscaling_begins_with_the_pods_there_are(plane: ControlPlane) -> None:
    """And an upgrade leaves alone what it has come to: a Deployment that loses its ``replicas`` has one."""
    with restricted_namespace(plane, "ralb-system") as namespace:
        at = ("--namespace", namespace)
        gateway = f"/apis/apps/v1/namespaces/{namespace}/deployments/ralb-gateway"

        def replicas() -> int:
            return int(plane.api.request("GET", gateway)["spec"]["replicas"])

        plane.run_helm("install", "ralb", RALB, *at, "--set", "gateway.replicas=4")
        plane.run_helm("upgrade", "ralb", RALB, *at, "--set", "gateway.autoscaling.enabled=true")
        assert replicas() == 4
        plane.kubectl("scale", "deployment/ralb-gateway", "-n", namespace, "--replicas=3")  # as the autoscaler does
        plane.run_helm("upgrade", "ralb", RALB, *at, "--reset-then-reuse-values", "--set", "gateway.drainSeconds=200")
        assert replicas() == 3
        back = ("upgrade", "ralb", RALB, *at, "--set", "gateway.replicas=2")
        assert "conflict" in plane.run_helm(*back, check=False).stderr
        plane.run_helm(*back, "--force-conflicts")
        assert replicas() == 2
        plane.run_helm("uninstall", "ralb", *at)


def test_namespaced_mode_makes_nothing_cluster_wide(plane: ControlPlane) -> None:
    with (
        restricted_namespace(plane, "ralb-system") as namespace,
        restricted_namespace(plane, "team-a"),
        restricted_namespace(plane, "team-b"),
    ):
        plane.run_helm("install", "mine", RALB, "--namespace", namespace, "--values", values_file("namespaced"))
        made = owned(plane, "mine")
        assert not [each for each in made if "clusterrole" in each]
        for team, names in (("team-a", ["credentials", "watch"]), ("team-b", ["credentials", "watch"])):
            listed = plane.kubectl("get", "roles", "-n", team, "-o", "name").stdout.split()
            assert [each.rpartition("-")[2] for each in listed] == names
        plane.run_helm("uninstall", "mine", "--namespace", namespace)
        assert owned(plane, "mine") == []


def test_two_releases_share_a_cluster(plane: ControlPlane) -> None:
    with restricted_namespace(plane, "one") as one, restricted_namespace(plane, "two") as two:
        for namespace in (one, two):
            plane.run_helm("install", "ralb", RALB, "--namespace", namespace)
        for namespace in (one, two):
            plane.run_helm("uninstall", "ralb", "--namespace", namespace)
        assert owned(plane, "ralb") == []


@pytest.mark.parametrize("case", CI)
def test_the_api_server_takes_every_case_without_a_warning(plane: ControlPlane, helm: Helm, case: str) -> None:
    """cert-manager's own objects apart, whose definitions are not there."""
    objects = [each for each in helm.case(case).objects if not each["apiVersion"].startswith("cert-manager.io/")]
    namespaces = {each["metadata"].get("namespace", "ralb-system") for each in objects}
    for name in namespaces:
        plane.api.create_namespace(name, RESTRICTED)
    try:
        text = golden(objects)
        done = plane.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", input=text)
        assert not re.search("warning", done.stderr, re.IGNORECASE), done.stderr
        assert len(done.stdout.splitlines()) == len(objects)
        for name, template in Rendered(tuple(objects)).pods():
            said = plane.kubectl("create", "--dry-run=server", "-f", "-", input=pod_of(name, template)).stderr
            assert not said, said
    finally:
        for name in namespaces:
            plane.api.delete_namespace(name)


def pod_of(name: str, template: dict[str, Any]) -> str:
    meta = {"name": name, "namespace": "ralb-system", "labels": template["metadata"]["labels"]}
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
