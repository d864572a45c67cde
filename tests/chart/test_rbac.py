"""The operator with the token of the chart's service account: its rights are enough for all it does, and there are no others."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support_chart_pods import chart_pods, installed
from support_cluster import ControlPlane
from support_cluster_api import AuditEntry
from support_net import wait_until

from ralb_operator.cluster.permissions import RULES, Scope

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
REVIEW = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


@dataclass(frozen=True, order=True)
class Access:
    """One thing somebody may or may not do; namespace "" = all of them, name "" = any."""

    namespace: str
    group: str
    resource: str
    verb: str
    name: str = ""


def resources(plane: ControlPlane) -> Iterator[tuple[str, str]]:
    """API group and resource, subresources too, of everything the server has."""
    for root in ("/api", "/apis"):
        for group in plane.api.request("GET", root, accept=DISCOVERY)["items"]:
            found = {
                name
                for version in group["versions"]
                for resource in version.get("resources", ())
                for name in (
                    resource["resource"],
                    *(f"{resource['resource']}/{sub['subresource']}" for sub in resource.get("subresources", ())),
                )
            }
            for name in sorted(found):
                yield group["metadata"].get("name", ""), name


def allowed(plane: ControlPlane, account: str, home: str, each: Access) -> bool:
    """What the API server's authorizer says."""
    resource, _, subresource = each.resource.partition("/")
    asked = {"namespace": each.namespace, "group": each.group, "resource": resource, "verb": each.verb}
    asked |= {"subresource": subresource, "name": each.name}
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"]
    user = f"system:serviceaccount:{home}:{account}"
    spec = {"user": user, "groups": groups, "resourceAttributes": asked}
    return bool(plane.api.request("POST", REVIEW, {"spec": spec})["status"]["allowed"])


def everything(plane: ControlPlane, namespaces: list[str], secrets: list[str]) -> Iterator[Access]:
    for namespace in (*namespaces, ""):
        for group, resource in resources(plane):
            for verb in VERBS:
                names = ["", *secrets] if (group, resource) == ("", "secrets") else [""]
                for name in names:
                    yield Access(namespace, group, resource, verb, name)


def expected(own: str, watched: list[str], secrets: dict[str, list[str]]) -> set[Access]:
    """By the operator's own list, and the Secrets granted: namespace -> names."""
    found = set()
    for rule in RULES:
        if rule.resources == ("secrets",) and rule.scope is Scope.WATCHED:
            continue
        for namespace in watched if rule.scope is Scope.WATCHED else [own]:
            for resource in rule.resources:
                for verb in rule.verbs:
                    for suffix in rule.names or ("",):
                        name = f"ralb{suffix}" if suffix else ""
                        found.add(Access(namespace, rule.group, resource, verb, name))
    for namespace, names in secrets.items():
        found |= {Access(namespace, "", "secrets", verb, name) for verb in ("list", "watch") for name in names}
    return found


def check(plane: ControlPlane, own: str, watched: list[str], others: list[str], granted: dict[str, list[str]]) -> None:
    secrets = ["granted", "other", "ralb-ca", "ralb-operator-tls", "ralb-gateway-tls"]
    namespaces = [own, *(name for name in (*watched, *others) if name and name != own)]
    wanted = expected(own, watched, granted)
    # Whoever may create a Secret may create one of any name.
    wanted |= {Access(own, "", "secrets", "create", name) for name in secrets}
    # A right in all namespaces is one in each.
    if "" in watched:
        wanted |= {
            Access(namespace, each.group, each.resource, each.verb, each.name)
            for each in wanted
            if not each.namespace
            for namespace in namespaces
        }
    matrix = list(everything(plane, namespaces, secrets))
    assert len(matrix) > 2000
    assert wanted <= set(matrix)
    wrong = []
    for each in matrix:
        may = allowed(plane, "ralb-operator", own, each)
        if may != (each in wanted) and not (may and allowed(plane, "nobody", own, each)):
            wrong.append(("may" if may else "may not", each))
    assert not wrong


@contextmanager
def namespaces(plane: ControlPlane, *names: str) -> Iterator[list[str]]:
    for name in names:
        plane.api.create_namespace(name)
    try:
        yield list(names)
    finally:
        for name in names:
            plane.api.delete_namespace(name)


@pytest.mark.usefixtures("crds", "foreign_crds")
def test_rights_in_the_whole_cluster_are_exactly_those(control_plane: ControlPlane, namespace: str) -> None:
    values = {"credentials": {"secrets": [{"namespace": namespace, "names": ["granted"]}]}}
    with installed(control_plane, namespace, values):
        check(control_plane, namespace, [""], ["kube-system"], {namespace: ["granted"]})


@pytest.mark.usefixtures("crds", "foreign_crds")
def test_rights_in_namespaced_mode_are_exactly_those(control_plane: ControlPlane, namespace: str) -> None:
    with namespaces(control_plane, f"{namespace}-a") as (team,):
        values = {
            "watch": {"namespaces": [team]},
            "credentials": {"secrets": [{"namespace": team, "names": ["granted"]}]},
        }
        with installed(control_plane, namespace, values):
            check(control_plane, namespace, [team], ["kube-system"], {team: ["granted"]})


OBJECTS = "/apis/ralb.dev/v1alpha1/namespaces"


def provider(name: str, namespace: str, secret: str) -> dict[str, Any]:
    external = {"host": "provider.test", "credentialsRef": {"name": secret}}
    spec = {"model": {"name": f"some/{name}"}, "backend": {"external": external}}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "ModelPool", "metadata": meta, "spec": spec}


@pytest.mark.parametrize("namespaced", [False, True], ids=["cluster", "namespaced"])
@pytest.mark.usefixtures("crds", "foreign_crds")
async def test_the_token_suffices_for_all_the_operator_does(
    control_plane: ControlPlane, namespace: str, namespaced: bool
) -> None:
    plane = control_plane
    values: dict[str, Any] = {"credentials": {"secrets": [{"namespace": namespace, "names": ["granted"]}]}}
    if namespaced:
        values["watch"] = {"namespaces": [namespace]}
    for secret in ("granted", "other"):
        body = {"metadata": {"name": secret}, "data": {"apiKey": b64encode(b"value").decode()}}
        plane.api.request("POST", f"/api/v1/namespaces/{namespace}/secrets", body)
        plane.api.request("POST", f"{OBJECTS}/{namespace}/modelpools", provider(f"of-{secret}", namespace, secret))
    user = f"system:serviceaccount:{namespace}:ralb-operator"

    def conditions(pool: str) -> dict[str, dict[str, Any]]:
        found = plane.api.request("GET", f"{OBJECTS}/{namespace}/modelpools/{pool}").get("status", {})
        return {each["type"]: each for each in found.get("conditions", ())}

    async with chart_pods(plane, namespace, values) as pods:
        since = plane.audit.mark()
        pods.start_operator()
        await pods.until("operator", "operator")
        await wait_until(lambda: "ResolvedRefs" in conditions("of-granted"), 60, interval=0.1, what="a status")
        assert conditions("of-granted")["ResolvedRefs"]["status"] == "True"
        await wait_until(lambda: "ResolvedRefs" in conditions("of-other"), 60, interval=0.1, what="a status")
        refused = conditions("of-other")["ResolvedRefs"]
        assert refused["status"] == "False"
        assert "Secret other" in refused["message"]
        leases = plane.api.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")["items"]
        held = {each["metadata"]["name"]: each["spec"].get("holderIdentity", "") for each in leases}
        assert held["ralb-operator"].startswith("ralb-operator-")
        assert len(held) == 2  # and a report
        await wait_until(pods.mount_certificates, 30, what="the gateway's certificate")

        mine = [entry for entry in plane.audit.entries(since) if entry.user == user]
        forbidden = {(entry.resource, entry.namespace, entry.name) for entry in mine if entry.code == 403}
        assert forbidden == {("secrets", namespace, "other")}
        written = [entry for entry in mine if entry.write]
        assert {entry.resource for entry in written} <= {"leases", "secrets", "events", *statuses(written)}
        certificates = {f"ralb-{part}" for part in ("ca", "operator-tls", "gateway-tls")}
        assert {entry.name for entry in written if entry.resource == "secrets"} == certificates
        assert all(entry.namespace == namespace for entry in mine if namespaced or entry.resource == "leases")


def statuses(entries: list[AuditEntry]) -> set[str]:
    """In the whole cluster there may be objects of other tests."""
    return {entry.resource for entry in entries if entry.resource.endswith("/status") and entry.group == "ralb.dev"}
