"""What the operator may do, what it asks for, and what it says when something is missing: kinds, rights, Secrets."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from support_cluster import ControlPlane, running_control_plane
from support_cluster_api import ApiProblem
from support_kubelet import FakeKubelet
from support_net import wait_until
from support_operator import collection, pool, running_operator

from ralb_operator.cluster import watch_objects
from ralb_operator.cluster.client import ApiError
from ralb_operator.cluster.permissions import RULES, Scope

CRDS = Path(__file__).parents[2] / "crds"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture
def listen(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/grpc.sock"


async def call(plane: ControlPlane, method: str, path: str, body: Any = None) -> Any:
    return await asyncio.to_thread(plane.api.request, method, path, body)


def rules(*, without: str = "") -> list[dict[str, Any]]:
    """The operator's own list as RBAC rules."""
    needed = ((rule, [name for name in rule.resources if name != without]) for rule in RULES)
    return [
        {"apiGroups": [rule.group], "resources": resources, "verbs": list(rule.verbs)}
        for rule, resources in needed
        if rule.scope is Scope.WATCHED and resources
    ]


async def account(plane: ControlPlane, namespace: str, granted: list[dict[str, Any]]) -> Path:
    """A kubeconfig of a new service account with these rights in its namespace."""
    await call(plane, "POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "operator"}})
    home = f"{RBAC}/namespaces/{namespace}"
    await call(plane, "POST", f"{home}/roles", {"metadata": {"name": "operator"}, "rules": granted})
    binding = {
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
    await call(plane, "POST", f"{home}/rolebindings", binding)
    token = await asyncio.to_thread(plane.token_for, namespace, "operator")
    return plane.kubeconfig_for(token)


async def grant(plane: ControlPlane, namespace: str, granted: list[dict[str, Any]]) -> None:
    path = f"{RBAC}/namespaces/{namespace}/roles/operator"
    role = await call(plane, "GET", path)
    role["rules"] = granted
    await call(plane, "PUT", path, role)


async def test_the_rights_it_lists_suffice(
    control_plane: ControlPlane,
    crds: list[str],
    foreign_crds: list[str],
    namespace: str,
    fake_kubelet: FakeKubelet,
    listen: str,
) -> None:
    await call(control_plane, "POST", collection("modelpools", namespace), provider("a"))
    await call(control_plane, "POST", collection("modelpools", namespace), pool("b"))
    await call(control_plane, "POST", f"/api/v1/namespaces/{namespace}/secrets", secret("key", "first"))
    await fake_kubelet.pod(namespace, "one", labels={"app": "b"})
    config = await account(control_plane, namespace, rules())
    async with running_operator(control_plane, listen, [namespace], kubeconfig=config) as running:
        await running.serving()
        await running.until(lambda: running.pods_of(f"{namespace}/b") == {"one"})
        await running.until(lambda: (namespace, "key") in running.view.secrets)
        states = {follow.name: follow.state for follow in running.operator.others}
        assert set(states.values()) == {"synced"}, states


async def test_a_missing_right_is_named_and_waited_for(
    control_plane: ControlPlane, crds: list[str], foreign_crds: list[str], namespace: str, listen: str
) -> None:
    config = await account(control_plane, namespace, rules(without="pods"))
    async with running_operator(control_plane, listen, [namespace], kubeconfig=config) as running:
        start = f"waiting for pods in namespace {namespace}: forbidden: pods is forbidden"
        await running.until(lambda: [why.startswith(start) for why in running.operator.not_ready()] == [True])
        assert not running.applied
        await grant(control_plane, namespace, rules())
        await running.serving()


async def test_missing_rights_on_our_kinds_are_named(
    control_plane: ControlPlane, crds: list[str], foreign_crds: list[str], namespace: str, listen: str
) -> None:
    config = await account(control_plane, namespace, rules(without="modelpools"))
    async with running_operator(control_plane, listen, [namespace], kubeconfig=config) as running:
        await running.until(
            lambda: any("modelpools.ralb.dev" in why and "forbidden" in why for why in running.operator.not_ready())
        )
        await grant(control_plane, namespace, rules())
        await running.serving()


async def test_kinds_that_are_not_installed_yet(listen: str, control_plane: ControlPlane) -> None:
    """``control_plane`` only says whether there can be one; its own has no CRDs."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    plane_of_its_own = running_control_plane()
    plane = await asyncio.to_thread(plane_of_its_own.__enter__)
    try:
        async with running_operator(plane, listen) as running:
            await running.until(
                lambda: any("modelpools.ralb.dev: missing" in why for why in running.operator.not_ready())
            )
            states = {follow.name: follow.state for follow in running.operator.others}
            await running.until(lambda: all(follow.synced for follow in running.operator.others))
            assert states["pods"] == "synced"
            for file in sorted(CRDS.glob("*.yaml")):
                await call(plane, "POST", path, yaml.safe_load(file.read_text()))
            await running.serving()
            await call(plane, "POST", collection("modelpools", "default"), pool("a"))
            await running.until(lambda: running.view.pools)

            # Deleting a definition deletes its objects; the last ones of a kind are gone too.
            await call(plane, "DELETE", f"{path}/modelpools.ralb.dev")
            await running.until(lambda: not running.view.pools)
            assert not running.operator.not_ready()
    finally:
        await asyncio.to_thread(plane_of_its_own.__exit__, None, None, None)


async def test_refused_credentials_are_replaced(
    control_plane: ControlPlane,
    crds: list[str],
    foreign_crds: list[str],
    namespace: str,
    listen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The account is deleted and made again: its tokens are void, what is served stays, and new ones are picked up."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    config = await account(control_plane, namespace, rules())
    async with running_operator(control_plane, listen, [namespace], kubeconfig=config) as running:
        await running.serving()
        (pods,) = (follow for follow in running.operator.others if follow.name.startswith("pods"))
        await call(control_plane, "DELETE", f"{accounts}/operator")

        async def refused() -> bool:
            try:
                await running.operator.client.request("GET", f"/api/v1/namespaces/{namespace}/pods")
            except ApiError as error:
                return error.status == 401
            return False

        await wait_until(refused, 60)
        # Watches go on with the token they began with; they are cut by ending them.
        await asyncio.to_thread(control_plane.stop_apiserver)
        await asyncio.to_thread(control_plane.start_apiserver)
        await running.until(lambda: "401" in pods.message)
        assert not running.operator.not_ready()
        await call(control_plane, "POST", accounts, {"metadata": {"name": "operator"}})
        token = await asyncio.to_thread(control_plane.token_for, namespace, "operator")
        fresh = await asyncio.to_thread(control_plane.kubeconfig_for, token)
        await asyncio.to_thread(config.write_bytes, await asyncio.to_thread(fresh.read_bytes))
        await running.until(lambda: pods.state == "synced")

        # From now on only kopf can tell of changes to objects.
        await running.until(
            lambda: all(each.witness.state == "synced" for each in running.operator.objects.followers.values())
        )
        monkeypatch.setattr(watch_objects, "TOLD_S", 3600.0)
        await call(control_plane, "POST", collection("modelpools", namespace), pool("late"))
        await running.until(lambda: running.view.pools)


# ---- Secrets ----


def provider(name: str, key: str = "key") -> dict[str, Any]:
    return pool(name, external={"host": "provider.test", "credentialsRef": {"name": key}})


def secret(name: str, value: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"apiKey": base64.b64encode(value.encode()).decode()}}


@pytest.mark.usefixtures("crds")
async def test_secrets_are_followed_by_name_and_forgotten(
    control_plane: ControlPlane, namespace: str, listen: str
) -> None:
    home = f"/api/v1/namespaces/{namespace}/secrets"
    name = (namespace, "key")
    await call(control_plane, "POST", home, secret("key", "first"))
    await call(control_plane, "POST", home, secret("unrelated", "other"))
    async with running_operator(control_plane, listen, [namespace]) as running:
        await running.serving()
        assert not running.view.secrets
        await call(control_plane, "POST", collection("modelpools", namespace), provider("a"))
        await running.until(lambda: name in running.view.secrets)
        assert running.view.secrets[name].data == {"apiKey": b"first"}
        await call(control_plane, "PUT", f"{home}/key", secret("key", "second"))
        await running.until(lambda: running.view.secrets[name].data == {"apiKey": b"second"})
        await call(control_plane, "DELETE", f"{home}/key")
        await running.until(lambda: name not in running.view.secrets)
        assert name not in running.view.unreadable_secrets
        await call(control_plane, "POST", home, secret("key", "third"))
        await running.until(lambda: name in running.view.secrets)
        await call(control_plane, "DELETE", f"{collection('modelpools', namespace)}/a")
        await running.until(lambda: not running.view.secrets and not running.view.pools)
        assert not running.operator.secrets.follows()
        assert {key for _, view in running.applied for key in view.secrets} == {name}


async def test_a_secret_that_may_not_be_read(
    control_plane: ControlPlane, crds: list[str], foreign_crds: list[str], namespace: str, listen: str
) -> None:
    """It is told with what to do, holds nobody up, and is read as soon as it may be: by its name alone."""
    name = (namespace, "key")
    await call(control_plane, "POST", f"/api/v1/namespaces/{namespace}/secrets", secret("key", "value"))
    await call(control_plane, "POST", collection("modelpools", namespace), provider("a"))
    config = await account(control_plane, namespace, rules(without="secrets"))
    async with running_operator(control_plane, listen, [namespace], kubeconfig=config) as running:
        await running.serving()
        assert "allow its service account to list and watch the Secret key" in running.view.unreadable_secrets[name]
        by_name = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["key"], "verbs": ["list", "watch"]}
        await grant(control_plane, namespace, [*rules(without="secrets"), by_name])
        await running.until(lambda: name in running.view.secrets)
        assert not running.view.unreadable_secrets


@pytest.mark.usefixtures("crds")
async def test_a_refused_namespace_is_not_mistaken_for_an_empty_one(
    control_plane: ControlPlane, namespace: str, listen: str
) -> None:
    stranger = control_plane.kubeconfig_for("no-such-token")
    async with running_operator(control_plane, listen, [namespace], kubeconfig=stranger) as running:
        await running.until(lambda: any("401" in why for why in running.operator.not_ready()))
        assert not running.applied
    with pytest.raises(ApiProblem):
        await call(control_plane, "GET", f"/api/v1/namespaces/{namespace}/pods/none")
