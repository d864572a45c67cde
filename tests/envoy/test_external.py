"""Providers outside the cluster, with a real Envoy and real TLS: the key goes there and nowhere else."""

import asyncio
from typing import Any

import pytest
from support_gateway import ABORT, SSE_HEAD, chunk, events, json_response, sse_response
from support_net import wait_until
from support_provider import (
    CLIENT,
    KEY,
    Authority,
    World,
    external,
    local,
    start,
)

pytestmark = pytest.mark.envoy

# ---- what the provider gets ----


async def test_the_provider_gets_the_key_and_nothing_of_the_clients(
    there: World, authority: Authority, secrets: list[Any]
) -> None:
    await start(there, authority, "provider")
    applied = await there.apply(external("cloud", there.pods.addresses["provider"]), *secrets)
    assert applied.report.complete, applied.report
    there.pods.scripts["provider"] = json_response(
        {"model": "m"},
        "set-cookie: a=b",
        "alt-svc: h3",
        "strict-transport-security: max-age=1",
        "openai-organization: o",
    )
    there.route("cloud")
    private = {
        **CLIENT,
        "cookie": "a=b",
        "x-ralb-session": "s",
        "openai-organization": "mine",
        "accept-encoding": "gzip",
        "x-forwarded-for": "1.2.3.4",
    }
    status, headers, _ = await there.ask(headers={**private, "x-request-id": "r-1", "traceparent": "t"})
    assert status == 200
    (attempt,) = there.pods.attempts
    assert attempt.path == "/v1/chat/completions"
    kept = {"accept", "user-agent", "content-type", "content-length"}
    assert {name: value for name, value in attempt.headers.items() if name not in kept} == {
        "host": f"localhost:{there.pods.addresses['provider'].rpartition(':')[2]}",
        "authorization": f"Bearer {KEY}",
        "x-request-id": "r-1",
        "traceparent": "t",
    }
    assert (headers["x-ralb-pool"], headers["x-ralb-model"]) == ("default/cloud", "cloud-model")
    assert headers["server"] == "ralb"
    assert not {"set-cookie", "alt-svc", "strict-transport-security", "openai-organization"} & headers.keys()


async def test_anthropic(there: World, authority: Authority, secrets: list[Any]) -> None:
    await start(there, authority, "provider")
    pool = external("cloud", there.pods.addresses["provider"], schema="Anthropic", pathPrefix="/proxy")
    await there.apply(pool, *secrets)
    there.route("cloud")
    await there.ask("/v1/messages", CLIENT)
    await there.ask("/v1/messages?beta=true", {**CLIENT, "anthropic-version": "2024-01-01", "anthropic-beta": "b"})
    first, second = there.pods.attempts
    assert (first.path, second.path) == ("/proxy/v1/messages", "/proxy/v1/messages?beta=true")
    for attempt in (first, second):
        assert attempt.headers["x-api-key"] == KEY
        assert "authorization" not in attempt.headers
    assert first.headers["anthropic-version"] == "2023-06-01"
    assert (second.headers["anthropic-version"], second.headers["anthropic-beta"]) == ("2024-01-01", "b")


async def test_without_credentials_no_key_is_sent_not_even_the_clients(there: World) -> None:
    await there.pods.start("provider")
    pool = external("cloud", there.pods.addresses["provider"], credentialsRef=None, tls={"mode": "Disabled"})
    applied = await there.apply(pool)
    assert applied.report.complete, applied.report
    there.route("cloud")
    status, _, _ = await there.ask(headers=CLIENT)
    assert status == 200
    (attempt,) = there.pods.attempts
    assert not {"authorization", "x-api-key"} & attempt.headers.keys()


# ---- streams ----


async def test_streams_pass_as_they_come_and_are_counted(
    there: World, authority: Authority, secrets: list[Any]
) -> None:
    await start(there, authority, "provider")
    await there.apply(external("cloud", there.pods.addresses["provider"]), *secrets)
    there.route("cloud")
    go = asyncio.Event()
    first, *rest = events({"choices": []}, {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}, "[DONE]")
    there.pods.scripts["provider"] = [SSE_HEAD, chunk(first), go, *(chunk(each) for each in (*rest, b""))]
    url, headers = there.url + "/v1/chat/completions", {"x-request-id": "r-1"}
    async with there.session.post(url, json={"model": "auto", "stream": True}, headers=headers) as answer:
        assert await answer.content.readany() == first
        go.set()
        assert await answer.read() == b"".join(rest)
    entry = await there.processor.log("r-1")
    usage = entry.common_properties.metadata.filter_metadata["ralb.usage"]
    assert (usage["in"], usage["out"]) == (7, 3)


async def test_a_stream_that_breaks_before_its_first_token_is_tried_elsewhere(
    there: World, authority: Authority, secrets: list[Any]
) -> None:
    await start(there, authority, "provider")
    await there.pods.start("pod")
    await there.apply(external("cloud", there.pods.addresses["provider"]), *local(there, "pod"), *secrets)
    there.pods.scripts["provider"] = [SSE_HEAD, ABORT]
    parts = events({"n": 1}, "[DONE]")
    there.pods.scripts["pod"] = sse_response(parts)
    there.route("cloud", "pod=pod")
    status, headers, body = await there.ask(stream=True)
    assert (status, headers["x-ralb-attempts"], body) == (200, "2", b"".join(parts))
    assert there.pods.served == [("provider", "cloud-model"), ("pod", "pod-model")]


async def test_a_client_that_leaves_ends_the_providers_work(
    there: World, authority: Authority, secrets: list[Any]
) -> None:
    await start(there, authority, "provider")
    await there.apply(external("cloud", there.pods.addresses["provider"]), *secrets)
    there.route("cloud")
    (part,) = events({"n": 1})
    there.pods.scripts["provider"] = [SSE_HEAD, chunk(part), asyncio.Event()]
    async with there.session.post(there.url + "/v1/chat/completions", json={"model": "auto"}) as answer:
        assert await answer.content.readany() == part

    async def over() -> bool:
        active = await there.envoy.stats(r"cluster\.external/default/cloud\.upstream_rq_active")
        return set(active.values()) == {0}

    await wait_until(over, what="the end of the provider's stream")


async def test_many_at_once_with_everything_going_wrong(there: World, authority: Authority, secrets: list[Any]) -> None:
    """Large bodies, resets, refusals, clients that leave; Envoy stays and nothing is left open."""
    await start(there, authority, "provider", "broken")
    await there.pods.start("pod")
    await there.apply(
        external("cloud", there.pods.addresses["provider"]),
        external("broken", there.pods.addresses["broken"]),
        *local(there, "pod"),
        *secrets,
    )
    there.pods.scripts["provider"] = sse_response(
        [*events(*({"n": "x" * 1000} for _ in range(300))), b"data: [DONE]\n\n"]
    )
    there.pods.scripts["broken"] = [SSE_HEAD, ABORT]
    there.route("broken", "cloud", "pod=pod")
    big = "y" * 1_000_000

    async def one(number: int) -> int:
        if number % 5 == 4:
            body = {"model": "auto", "stream": True}
            async with there.session.post(there.url + "/v1/chat/completions", json=body) as answer:
                await answer.content.readany()
                return answer.status  # and goes
        status, headers, body = await there.ask(messages=big if number % 5 == 0 else "", headers=CLIENT)
        assert body.endswith(b"[DONE]\n\n")
        assert headers["x-ralb-pool"] == "default/cloud"
        return status

    for _ in range(3):
        assert set(await asyncio.gather(*(one(number) for number in range(50)))) == {200}
    assert there.envoy.process.returncode is None
    assert {each.headers["authorization"] for each in there.pods.attempts} == {f"Bearer {KEY}"}

    async def idle() -> bool:
        active = await there.envoy.stats("cluster\\..*upstream_rq_active|http\\.ralb.*downstream_rq_active")
        return bool(active) and {value for name, value in active.items() if "ralb-" not in name} == {0}

    await wait_until(idle, what="the end of all requests")
