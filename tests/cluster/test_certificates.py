"""Certificates as Secrets on a real API server: replicas that race, repairs, and the rights that suffice."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support_cluster import ControlPlane
from support_net import wait_until

from ralb_api.tls import CA_FILE, CERT_FILE, KEY_FILE, check
from ralb_operator.certs import signed_by
from ralb_operator.cluster.certificates import Certificates, CertificatesError, decoded, names_of, secret_name
from ralb_operator.cluster.client import ApiClient, ApiError
from ralb_operator.cluster.credentials import CredentialsSource
from ralb_operator.cluster.permissions import RULES, Scope
from ralb_operator.cluster.tls import Mode, OperatorTls, TlsOptions
from ralb_operator.rotation import Part

RELEASE = "ralb"


@asynccontextmanager
async def api(kubeconfig: Path) -> AsyncIterator[ApiClient]:
    async with ApiClient(CredentialsSource(str(kubeconfig))) as client:
        yield client


async def secrets_of(client: ApiClient, namespace: str) -> dict[Part, dict[str, Any]]:
    every = await client.request("GET", f"/api/v1/namespaces/{namespace}/secrets")
    by_name = {each["metadata"]["name"]: each for each in every["items"]}
    found = {part: by_name[name] for part in Part if (name := secret_name(RELEASE, part)) in by_name}
    for each in found.values():
        each["metadata"].pop("managedFields", None)
    return found


def certificates(client: ApiClient, namespace: str, now: datetime | None = None) -> Certificates:
    names = names_of(RELEASE, namespace)
    if now is None:
        return Certificates(client, RELEASE, namespace, names)
    return Certificates(client, RELEASE, namespace, names, clock=lambda: now)


def assert_consistent(secrets: dict[Part, dict[str, Any]], now: datetime | None = None) -> None:
    """One authority, in use by all."""
    assert set(secrets) == set(Part)
    at = (now or datetime.now(UTC)).timestamp()
    data = {part: decoded(secret) for part, secret in secrets.items()}
    for part in Part:
        check(data[part][CERT_FILE], data[part][KEY_FILE], data[part][CA_FILE], at)
        assert data[part][CA_FILE] == data[Part.AUTHORITY][CA_FILE]
    (authority,) = x509.load_pem_x509_certificates(data[Part.AUTHORITY][CA_FILE])
    for part in (Part.OPERATOR, Part.GATEWAY):
        assert signed_by(x509.load_pem_x509_certificate(data[part][CERT_FILE]), authority)


async def test_replicas_that_start_at_once_end_with_one_authority(control_plane: ControlPlane, namespace: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(api(control_plane.kubeconfig_file)) for _ in range(4)]
        replicas = [certificates(client, namespace) for client in clients]
        await asyncio.gather(*(replica.ensure() for replica in replicas))
        first = await secrets_of(clients[0], namespace)
        assert_consistent(first)
        assert {each["type"] for each in first.values()} == {"kubernetes.io/tls"}
        for replica in replicas:
            assert set(replica.ends) == set(Part)
        written = sum(replica.written for replica in replicas)
        await asyncio.gather(*(replica.ensure() for replica in replicas))
        assert sum(replica.written for replica in replicas) == written
        assert await secrets_of(clients[0], namespace) == first


@pytest.mark.parametrize("round_", range(3))
async def test_replicas_that_renew_at_once(control_plane: ControlPlane, namespace: str, round_: int) -> None:
    now = datetime.now(UTC)
    later = now + timedelta(days=61)
    async with api(control_plane.kubeconfig_file) as one, api(control_plane.kubeconfig_file) as two:
        await certificates(one, namespace, now).ensure()
        before = await secrets_of(one, namespace)
        replicas = [certificates(client, namespace, later) for client in (one, two, one, two)]
        await asyncio.gather(*(replica.ensure() for replica in replicas))
        after = await secrets_of(one, namespace)
        assert_consistent(after, later)
        assert after[Part.AUTHORITY] == before[Part.AUTHORITY]
        assert after[Part.OPERATOR]["data"][CERT_FILE] != before[Part.OPERATOR]["data"][CERT_FILE]
        # Each was written once: the others were refused and found it done.
        assert sum(replica.written for replica in replicas) == 2


async def test_deleted_authority_is_replaced_with_overlap(control_plane: ControlPlane, namespace: str) -> None:
    now = datetime.now(UTC)
    async with api(control_plane.kubeconfig_file) as client:
        await certificates(client, namespace, now).ensure()
        before = await secrets_of(client, namespace)
        path = f"/api/v1/namespaces/{namespace}/secrets/{secret_name(RELEASE, Part.AUTHORITY)}"
        await client.request("DELETE", path)
        await asyncio.gather(*(certificates(client, namespace, now).ensure() for _ in range(2)))
        announced = await secrets_of(client, namespace)
        for part in (Part.OPERATOR, Part.GATEWAY):
            assert announced[part]["data"][CERT_FILE] == before[part]["data"][CERT_FILE]
            assert len(x509.load_pem_x509_certificates(decoded(announced[part])[CA_FILE])) == 2
        for hours in (25, 50):
            await certificates(client, namespace, now + timedelta(hours=hours)).ensure()
        after = await secrets_of(client, namespace)
        assert_consistent(after, now + timedelta(hours=50))
        assert after[Part.GATEWAY]["data"][CERT_FILE] != before[Part.GATEWAY]["data"][CERT_FILE]


async def test_secrets_of_others_are_left_alone(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/secrets"
    name = secret_name(RELEASE, Part.GATEWAY)
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"x": "eA=="}}
    async with api(control_plane.kubeconfig_file) as client:
        await client.request("POST", path, body=theirs)
        with pytest.raises(CertificatesError, match=f"{name} in namespace {namespace} was not made by the operator"):
            await certificates(client, namespace).ensure()
        assert set(await secrets_of(client, namespace)) == {Part.GATEWAY}
        await client.request("DELETE", f"{path}/{name}")
        await certificates(client, namespace).ensure()
        # Labels and annotations that people put on stay.
        patch = {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}, "data": {CERT_FILE: "eA=="}}
        await client.request("PATCH", f"{path}/{name}", body=patch, content_type="application/merge-patch+json")
        await certificates(client, namespace).ensure()
        secrets = await secrets_of(client, namespace)
        assert_consistent(secrets)
        assert secrets[Part.GATEWAY]["metadata"]["labels"]["team"] == "a"
        assert secrets[Part.GATEWAY]["metadata"]["annotations"]["note"] == "b"


def _service_account(control_plane: ControlPlane, namespace: str) -> Path:
    """One that may do what ``permissions`` says about certificates, and nothing else."""
    rules = [
        {
            "apiGroups": [rule.group],
            "resources": list(rule.resources),
            "verbs": list(rule.verbs),
            **({"resourceNames": [RELEASE + name for name in rule.names]} if rule.names else {}),
        }
        for rule in RULES
        if rule.scope is Scope.OWN and rule.resources == ("secrets",)
    ]
    meta = {"name": "operator", "namespace": namespace}
    rbac = "rbac.authorization.k8s.io"
    objects = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "operator"},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
    ]
    control_plane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    return control_plane.kubeconfig_for(control_plane.token_for(namespace, "operator"), namespace)


async def test_whole_bootstrap_with_no_more_rights_than_it_says(
    control_plane: ControlPlane, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    kubeconfig = await asyncio.to_thread(_service_account, control_plane, namespace)
    async with api(kubeconfig) as client, api(control_plane.kubeconfig_file) as admin:
        with pytest.raises(ApiError) as refused:
            await client.request("GET", f"/api/v1/namespaces/{namespace}/secrets")
        assert refused.value.status == 403
        trust = OperatorTls(TlsOptions(Mode.BOOTSTRAP), namespace)
        assert trust.server is not None
        keeper = trust.server.keeper
        running = asyncio.create_task(trust.run(client, lambda: False))
        try:
            first = await asyncio.wait_for(keeper.wait(), 30)
            secrets = await secrets_of(admin, namespace)
            assert_consistent(secrets)
            assert first.key == decoded(secrets[Part.OPERATOR])[KEY_FILE]
            # What another replica renews is taken up; what somebody spoils is not.
            later = datetime.now(UTC) + timedelta(days=61)
            await certificates(admin, namespace, later - timedelta(days=61) + timedelta(minutes=1)).ensure()
            path = f"/api/v1/namespaces/{namespace}/secrets/{secret_name(RELEASE, Part.OPERATOR)}"
            spoilt = base64.b64encode(b"-----BEGIN PRIVATE KEY-----\nMIGHspoilt\n-----END PRIVATE KEY-----\n").decode()
            patch = {"data": {KEY_FILE: spoilt}}
            await admin.request("PATCH", path, body=patch, content_type="application/merge-patch+json")
            await wait_until(lambda: "no usable private key" in keeper.problem)
            assert keeper.current == first
            await certificates(admin, namespace).ensure()
            second = await asyncio.wait_for(keeper.wait(first.version), 10)
            assert keeper.problem == ""
            await admin.request("DELETE", path)
            await wait_until(lambda: "there is no Secret" in keeper.problem)
            assert keeper.current == second
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    said = caplog.text + repr(keeper.current) + repr(trust.server) + str(keeper.problem)
    assert "PRIVATE KEY" not in said
    assert "MIGHspoilt" not in said
    for pem in (first.key, second.key):
        for line in pem.decode().splitlines()[1:-1]:
            assert line not in said


async def test_secret_mode_waits_for_a_secret_of_others(control_plane: ControlPlane, namespace: str) -> None:
    async with api(control_plane.kubeconfig_file) as client:
        trust = OperatorTls(TlsOptions(Mode.SECRET), namespace)
        assert trust.server is not None
        keeper = trust.server.keeper
        running = asyncio.create_task(trust.run(client, lambda: True))
        try:
            await wait_until(lambda: "there is no Secret ralb-operator-tls" in keeper.problem)
            with pytest.raises(ValueError, match="no usable TLS material from Secret"):
                trust.server.credentials()
            await certificates(client, namespace).ensure()
            await asyncio.wait_for(keeper.wait(), 10)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_an_api_server_that_is_away_is_waited_for(control_plane: ControlPlane, namespace: str) -> None:
    """The start of the operator's TLS does not end with the first refusal; it is told once."""
    async with api(control_plane.kubeconfig_file) as good:

        class Flaky:
            calls = 0

            async def request(self, *args: Any, **more: Any) -> Any:
                Flaky.calls += 1
                if Flaky.calls <= 2:
                    raise ApiError(0, "Unreachable", "nobody there")
                return await good.request(*args, **more)

            def watch(self, *args: Any, **more: Any) -> Any:
                return good.watch(*args, **more)

        trust = OperatorTls(TlsOptions(Mode.BOOTSTRAP), namespace)
        assert trust.server is not None
        running = asyncio.create_task(trust.run(Flaky(), lambda: False))  # type: ignore[arg-type]
        try:
            await asyncio.wait_for(trust.server.keeper.wait(), 30)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
