"""Which Secrets pools need, and which references grants allow."""

from typing import Any

import pytest

from ralb_api.objects import ModelPool
from ralb_operator.compile import Reason, compile_view, needs
from ralb_operator.view import Grant, Secret, View

POOLS = ("ralb.dev", "ModelPool", "team")
SECRETS = ("", "Secret", "")


def pool(name: str = "cloud", **external: Any) -> ModelPool:
    spec = {"model": {"name": "m"}, "backend": {"external": {"host": "api.example.com", **external}}}
    return ModelPool.model_validate({"metadata": {"name": name, "namespace": "team"}, "spec": spec})


def keyed(namespace: str | None = None, name: str = "key") -> dict[str, Any]:
    return {"credentialsRef": {"name": name} | ({"namespace": namespace} if namespace else {})}


def test_the_own_namespace_needs_no_grant() -> None:
    with_ca = pool(tls={"caCertificateRef": {"name": "ca"}}, **keyed())
    assert needs([with_ca], []) == {("team", "key"), ("team", "ca")}
    assert needs([pool("a", **keyed("team"))], []) == {("team", "key")}


def test_other_backends_need_none() -> None:
    spec = {"model": {"name": "m"}, "backend": {"service": {"host": "h", "port": 80}}}
    assert needs([ModelPool.model_validate({"metadata": {"name": "p"}, "spec": spec}), pool()], []) == frozenset()


@pytest.mark.parametrize(
    ("grant", "allowed"),
    [
        (Grant("vault", "g", (POOLS,), (SECRETS,)), True),
        (Grant("vault", "g", (POOLS,), (("", "Secret", "key"),)), True),
        (Grant("vault", "g", (POOLS,), (("", "ConfigMap", ""), SECRETS)), True),
        (Grant("vault", "g", (("ralb.dev", "ModelPool", "other"), POOLS), (SECRETS,)), True),
        (Grant("vault", "g", (POOLS,), (("", "Secret", "other"),)), False),
        (Grant("vault", "g", (POOLS,), (("", "Service", ""),)), False),
        (Grant("vault", "g", (POOLS,), (("example.com", "Secret", ""),)), False),
        (Grant("vault", "g", (POOLS,), ()), False),
        (Grant("team", "g", (POOLS,), (SECRETS,)), False),
        (Grant("vault", "g", (("ralb.dev", "ModelPool", "other"),), (SECRETS,)), False),
        (Grant("vault", "g", (("ralb.dev", "Tenant", "team"),), (SECRETS,)), False),
        (Grant("vault", "g", (("", "ModelPool", "team"),), (SECRETS,)), False),
    ],
)
def test_a_grant_opens_what_it_says(grant: Grant, allowed: bool) -> None:
    one = pool(**keyed("vault"))
    assert needs([one], [grant]) == ({("vault", "key")} if allowed else set())
    view = View(
        pools={one.key: one}, grants=(grant,), secrets={("vault", "key"): Secret("vault", "key", {"apiKey": b"sk"})}
    )
    result = compile_view(view)
    assert (result.problems == ()) == allowed
    assert {problem.reason for problem in result.problems} <= {Reason.REF_NOT_PERMITTED}
    (found,) = result.snapshot.pools
    assert bool(found.blocked) == (not allowed)


def test_a_secret_that_may_not_be_read_says_what_to_allow() -> None:
    one = pool(**keyed())
    (problem,) = compile_view(
        View(pools={one.key: one}, unreadable_secrets={("team", "key"): "403 Forbidden"})
    ).problems
    assert problem.reason == Reason.REF_NOT_PERMITTED
    assert problem.message == "the operator may not read Secret team/key: 403 Forbidden"
    assert "credentials.secrets: [{namespace: team, names: [key]}]" in problem.hint
