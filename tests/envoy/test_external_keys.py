"""Providers outside the cluster, with a real Envoy and real TLS: where a key goes, and what follows without a good one."""

import asyncio
import json
from base64 import b64encode
from typing import Any

import pytest
from support_gateway import ABORT, response
from support_net import wait_until
from support_provider import (
    CLIENT,
    KEY,
    OTHER_KEY,
    Authority,
    World,
    error_code,
    external,
    local,
    secret,
    start,
)

from ralb_api.errors import Code

pytestmark = pytest.mark.envoy

# ---- where the key does not go ----


async def test_the_key_does_not_move_on_with_the_request(
    there: World, authority: Authority, secrets: list[Any]
) -> None:
    await start(there, authority, "provider", "second")
    await there.pods.start("pod")
    await there.apply(
        external("cloud", there.pods.addresses["provider"], pathPrefix="/openai"),
        external("other", there.pods.addresses["second"], schema="Anthropic", credentialsRef={"name": "other"}),
        *local(there, "pod"),
        *secrets,
        secret("other", apiKey=OTHER_KEY),
    )
    there.pods.scripts["provider"] = response(503, b"{}")
    there.pods.scripts["second"] = response(429, b"{}")
    there.route("cloud", "other", "pod=pod")
    status, headers, _ = await there.ask(headers=CLIENT)
    assert (status, headers["x-ralb-attempts"], headers["x-ralb-pool"]) == (200, "3", "default/pod")
    assert there.pods.served == [("provider", "cloud-model"), ("second", "other-model"), ("pod", "pod-model")]
    first, second, third = there.pods.attempts
    assert [each.path for each in there.pods.attempts] == [
        "/openai/v1/chat/completions",
        "/v1/chat/completions",
        "/v1/chat/completions",
    ]
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert OTHER_KEY not in str(first)
    assert second.headers["x-api-key"] == OTHER_KEY
    assert KEY not in str(second)
    assert "authorization" not in second.headers
    assert {name: third.headers[name] for name in CLIENT} == CLIENT, "pods get what the client sent"
    assert third.headers["host"] == there.url.removeprefix("http://")
    assert "anthropic-version" not in third.headers
    assert "sk-" not in str(third)


async def test_from_a_pod_to_a_provider(there: World, authority: Authority, secrets: list[Any]) -> None:
    await start(there, authority, "provider")
    await there.pods.start("pod")
    await there.apply(external("cloud", there.pods.addresses["provider"]), *local(there, "pod"), *secrets)
    there.pods.scripts["pod"] = [ABORT]
    there.route("pod=pod", "cloud")
    status, headers, _ = await there.ask(headers=CLIENT)
    assert (status, headers["x-ralb-attempts"], headers["x-ralb-model"]) == (200, "2", "cloud-model")
    assert there.pods.served == [("pod", "pod-model"), ("provider", "cloud-model")]
    assert there.pods.attempts[1].headers["authorization"] == f"Bearer {KEY}"
    assert "of-the-client" not in str(there.pods.attempts[1])


async def test_the_key_is_seen_nowhere_else(there: World, authority: Authority, secrets: list[Any]) -> None:
    await start(there, authority, "provider")
    await there.pods.start("pod")
    applied = await there.apply(external("cloud", there.pods.addresses["provider"]), *local(there, "pod"), *secrets)
    there.route("pod=pod", "cloud")
    there.pods.scripts["pod"] = response(503, b"{}")
    _, headers, body = await there.ask(headers={"x-request-id": "r-1"})
    await there.processor.log("r-1")
    assert [attempt.headers.get("authorization") for attempt in there.pods.attempts] == [None, f"Bearer {KEY}"]
    config = await there.envoy.get("/config_dump?include_eds")
    assert "external/default/cloud/key" in config, "there is something to be redacted"
    assert b64encode(b"[redacted]").decode() in config
    assert there.processor.rewritten == ["cloud-model"]
    for text in (
        config,
        await there.envoy.get("/clusters"),
        await there.envoy.get("/stats"),
        await there.envoy.get("/certs"),
        there.envoy.log.read_text(),
        there.processor.everything().decode("latin-1"),
        str(headers) + body.decode(),
        repr(applied),
        str(applied.result.snapshot),
        str(there.control.ads.nodes()),
    ):
        assert KEY not in text
        assert KEY.encode().hex() not in text
        assert b64encode(KEY.encode()).decode() not in text
    names = {name for named in applied.result.xds.by_type.values() for name in named}
    assert not [name for name in names if KEY in name]
    bearers = [
        resource.name
        for named in applied.result.xds.by_type.values()
        for resource in named.values()
        if KEY.encode() in resource.body
    ]
    assert bearers == ["external/default/cloud/key"]


# ---- when the key is missing, wrong or changes ----


async def test_without_its_key_nothing_is_sent(there: World, authority: Authority, secrets: list[Any]) -> None:
    await start(there, authority, "provider")
    await there.pods.start("pod")
    pool = external("cloud", there.pods.addresses["provider"])
    everything = [pool, *local(there, "pod"), *secrets]
    without = [each for each in everything if each["metadata"]["name"] != "key"]
    there.route("cloud", "pod=pod")
    for objects, expected in ((without, ["pod"]), (everything, ["provider"]), (without, ["pod"])):
        applied = await there.apply(*objects)
        assert applied.report.complete, applied.report
        there.pods.attempts.clear()

        # A decision made just before may still name the pool: it is refused there, and goes on to the next.
        async def asked(wanted: list[str] = expected) -> bool:
            there.pods.attempts.clear()
            assert (await there.ask())[0] == 200
            assert all("authorization" in each.headers for each in there.pods.attempts if each.pod == "provider")
            return [each.pod for each in there.pods.attempts] == wanted

        await wait_until(asked, what=f"served by {expected}")
    (blocked,) = (each for each in applied.result.snapshot.pools if each.id == "default/cloud")
    assert blocked.blocked


async def test_the_key_is_replaced_under_traffic(there: World, authority: Authority, secrets: list[Any]) -> None:
    await start(there, authority, "provider")
    pool = external("cloud", there.pods.addresses["provider"])
    await there.apply(pool, *secrets)
    there.route("cloud")
    going, statuses = True, []

    async def client() -> None:
        while going:
            statuses.append((await there.ask())[0])

    def last() -> str:
        return there.pods.attempts[-1].headers["authorization"]

    counters = "listener_manager.listener_(added|modified|removed)|cluster_manager.cluster_(added|modified)"
    before = await there.envoy.stats(counters)
    clients = [asyncio.create_task(client()) for _ in range(4)]
    try:
        await wait_until(lambda: there.pods.attempts, what="traffic")
        for number in range(5):
            key = f"sk-number-{number}"
            await there.apply(pool, secret("key", apiKey=key), secrets[1])
            await wait_until(lambda wanted=f"Bearer {key}": last() == wanted, what=key)
    finally:
        going = False
        await asyncio.gather(*clients)
    assert set(statuses) == {200}
    assert len(statuses) >= 5
    seen = list(dict.fromkeys(each.headers["authorization"] for each in there.pods.attempts))
    assert seen == [f"Bearer {KEY}", *(f"Bearer sk-number-{number}" for number in range(5))]
    assert await there.envoy.stats(counters) == before, "nothing but the secret was touched"


async def test_a_key_that_the_provider_refuses_is_not_the_clients_fault(
    there: World, authority: Authority, secrets: list[Any]
) -> None:
    await start(there, authority, "provider")
    await there.pods.start("pod")
    await there.apply(
        external("cloud", there.pods.addresses["provider"], schema="Anthropic"), *local(there, "pod"), *secrets
    )
    there.pods.scripts["provider"] = response(401, json.dumps({"error": f"Incorrect API key provided: {KEY}"}).encode())
    there.route("cloud")
    status, _, body = await there.ask("/v1/messages")
    assert (status, error_code(body), json.loads(body)["type"]) == (502, Code.UPSTREAM_ERROR, "error")
    assert KEY.encode() not in body
    there.route("cloud", "pod=pod")
    status, headers, _ = await there.ask()
    assert (status, headers["x-ralb-pool"]) == (200, "default/pod")


@pytest.mark.parametrize("status", [400, 403, 404, 422, 500, 529])
async def test_other_errors_of_a_provider_reach_the_client(
    there: World, authority: Authority, secrets: list[Any], status: int
) -> None:
    await start(there, authority, "provider")
    await there.apply(external("cloud", there.pods.addresses["provider"]), *secrets)
    there.pods.scripts["provider"] = response(status, b'{"error": {"message": "no"}}')
    there.route("cloud")
    answered, headers, body = await there.ask()
    assert (answered, body) == (status, b'{"error": {"message": "no"}}')
    assert headers["content-type"] == "application/json"
