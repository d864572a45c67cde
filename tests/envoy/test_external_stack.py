"""A provider beside simulated pods through the whole stack: the real processor's decisions, and what becomes of the key."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from support_gateway import Pods, json_response, response
from support_net import wait_until
from support_provider import NAME, Authority, secret
from support_stack import Stack, policy, pool, running_stack, tier

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

KEY = "sk-stack-0123456789abcdef"
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 4}
USAGE = {"prompt_tokens": 11, "completion_tokens": 5}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Pods, Authority]]:
    folder = tmp_path_factory.mktemp("provider")
    authority, pods = Authority(), Pods()
    await pods.start("provider", tls=authority.server(folder))
    yield pods, authority
    await pods.stop()


def objects(pods: Pods, authority: Authority, *, key: bool = True, first: bool = True) -> list[dict[str, Any]]:
    """The provider before the own pods, or after them."""
    external = {
        "host": "localhost",
        "port": int(pods.addresses["provider"].rpartition(":")[2]),
        "tls": {"hostname": NAME, "caCertificateRef": {"name": "ca"}},
        "credentialsRef": {"name": "key"},
    }
    cloud = pool(
        "cloud", "cloud-model", 1, spec={"backend": {"external": external}, "cost": {"outputPerMillion": 10.0}}
    )
    del cloud["metadata"]["annotations"]
    ranks = ({"priority": 0}, {"priority": 1}) if first else ({"priority": 1}, {"priority": 0})
    out = [
        cloud,
        pool("own", "own-model", 1),
        tier("t", 1, {"name": "cloud", **ranks[0]}, {"name": "own", **ranks[1]}),
        policy("auto", "t"),
        secret("ca", **{"ca.crt": authority.pem}),
    ]
    return [*out, secret("key", apiKey=KEY)] if key else out


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(provider: tuple[Pods, Authority]) -> AsyncIterator[Stack]:
    async with running_stack(*objects(*provider)) as running:
        yield running
        everything = running.log() + running.records_file.read_text()
        assert KEY not in everything


async def ask(stack: Stack, path: str = "/v1/chat/completions", **body: Any) -> tuple[int, str, str, dict[str, Any]]:
    """Status, pool, decision id and body."""
    sent = {"authorization": "Bearer of-the-client"}
    async with stack.session.post(stack.url + path, json={**CHAT, **body}, headers=sent) as answer:
        headers = answer.headers
        return answer.status, headers.get("x-ralb-pool", ""), headers.get("x-ralb-decision-id", ""), await answer.json()


async def in_force(stack: Stack, wanted: str) -> None:
    async def served() -> bool:
        return (await ask(stack))[1] == wanted

    await wait_until(served, 20, what=f"requests to {wanted}")


async def test_a_request_to_a_provider_is_recorded_like_any_other(
    stack: Stack, provider: tuple[Pods, Authority]
) -> None:
    pods, authority = provider
    stack.write(*objects(pods, authority))
    pods.scripts["provider"] = json_response({"model": "cloud-model", "usage": USAGE})
    await in_force(stack, "default/cloud")
    pods.attempts.clear()
    status, served, decision, _ = await ask(stack)
    assert (status, served) == (200, "default/cloud")
    (attempt,) = pods.attempts
    assert (attempt.model, attempt.headers["authorization"]) == ("cloud-model", f"Bearer {KEY}")
    outcome = (await stack.record(decision))["outcome"]
    tokens = outcome["tokens"]
    assert (outcome["pool"], tokens["in"], tokens["out"]) == ("default/cloud", 11, 5)
    assert outcome["cost_usd"] == pytest.approx(5 * 10 / 1e6)
    assert KEY not in json.dumps(await stack.record(decision))


async def test_a_provider_that_fails_is_followed_by_own_pods(stack: Stack, provider: tuple[Pods, Authority]) -> None:
    pods, authority = provider
    stack.write(*objects(pods, authority))
    await in_force(stack, "default/cloud")
    pods.scripts["provider"] = response(429, b"{}")
    status, served, decision, body = await ask(stack)
    assert (status, served, body["model"]) == (200, "default/own", "own-model")
    record = await stack.record(decision)
    assert record["outcome"]["attempts"] == 2
    pods.scripts["provider"] = json_response({"model": "cloud-model", "usage": USAGE})


async def test_an_api_the_provider_does_not_speak_passes_it_by(stack: Stack, provider: tuple[Pods, Authority]) -> None:
    pods, authority = provider
    stack.write(*objects(pods, authority))
    await in_force(stack, "default/cloud")
    status, served, decision, _ = await ask(stack, "/v1/messages")
    assert (status, served) == (200, "default/own")
    assert ["default/cloud", "lacks the messages API"] in (await stack.record(decision))["plan"]["skipped"]
    status, _, _, body = await ask(stack, "/v1/messages", model="cloud-model")
    assert (status, body["error"]["code"]) == (400, "unsupported_by_model")


async def test_without_its_key_the_provider_is_skipped_until_it_is_there(
    stack: Stack, provider: tuple[Pods, Authority]
) -> None:
    pods, authority = provider
    stack.write(*objects(pods, authority, key=False))
    await in_force(stack, "default/own")
    pods.attempts.clear()
    status, served, decision, _ = await ask(stack)
    assert (status, served) == (200, "default/own")
    assert ["default/cloud", "its references do not resolve"] in (await stack.record(decision))["plan"]["skipped"]
    status, _, _, body = await ask(stack, model="cloud-model")
    assert (status, body["error"]["code"]) == (503, "no_endpoint")
    assert pods.attempts == []
    await wait_until(lambda: "there is no Secret default/key" in stack.log(), what="the complaint in the log")
    stack.write(*objects(pods, authority))
    await in_force(stack, "default/cloud")
    assert {attempt.headers["authorization"] for attempt in pods.attempts} == {f"Bearer {KEY}"}


async def test_own_pods_that_are_lost_are_followed_by_the_provider(
    stack: Stack, provider: tuple[Pods, Authority]
) -> None:
    pods, authority = provider
    stack.write(*objects(pods, authority, first=False))
    await in_force(stack, "default/own")
    (own,) = stack.pods("own")
    await stack.fault(own["address"], {"kind": "status", "status": 500})
    pods.attempts.clear()
    status, served, _, _ = await ask(stack)
    assert (status, served) == (200, "default/cloud")
    assert [(each.model, each.headers["authorization"]) for each in pods.attempts] == [("cloud-model", f"Bearer {KEY}")]
    await stack.fault(own["address"])
