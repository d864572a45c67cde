"""Providers outside the cluster, with a real Envoy and real TLS: the key goes there and nowhere else."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support_gateway import ABORT, SSE_HEAD, chunk, events, json_response, response, sse_response
from support_net import wait_until
from support_provider import NAME, Authority, World, external, http2_front, model_pool, pod, secret, world

from ralb_api.errors import Code
from ralb_operator.compile import Reason

pytestmark = pytest.mark.envoy

KEY = "sk-first-0123456789abcdef"
OTHER_KEY = "sk-other-fedcba9876543210"
CLIENT = {"authorization": "Bearer of-the-client", "x-api-key": "of-the-client"}


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        yield running


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secrets(authority: Authority) -> list[dict[str, Any]]:
    return [secret("key", apiKey=KEY + "\n"), secret("ca", **{"ca.crt": authority.pem})]


async def start(there: World, authority: Authority, *names: str) -> None:
    await there.pods.start(*names, tls=authority.server(there.folder))


def local(there: World, name: str) -> list[dict[str, Any]]:
    """A pool of one pod, which must be started."""
    return [
        model_pool(name, pods={"selector": {"matchLabels": {"app": name}}}),
        pod(f"{name}-0", there.pods.addresses[name], name),
    ]


def error_code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


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


# ---- who is believed to be the provider ----


@pytest.mark.parametrize(
    ("tls", "names", "good"),
    [
        ({"hostname": NAME}, (NAME,), True),
        ({}, ("localhost",), True),
        ({"hostname": NAME}, (f"*.{NAME.partition('.')[2]}",), True),
        ({"hostname": NAME}, ("localhost",), False),
        ({"hostname": NAME}, (f"*.{NAME}",), False),
        ({"hostname": NAME, "mode": "SkipVerify"}, ("localhost",), True),
    ],
)
async def test_the_name_in_the_certificate(there: World, tls: Any, names: tuple[str, ...], good: bool) -> None:
    authority = Authority(NAME, NAME.partition(".")[2], "localhost")
    context = authority.server(there.folder, *names)
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    await there.pods.start("provider", tls=context)
    ca = {} if tls.get("mode") else {"caCertificateRef": {"name": "ca"}}
    pool = external("cloud", there.pods.addresses["provider"], tls={**tls, **ca})
    await there.apply(pool, secret("key", apiKey=KEY), secret("ca", **{"ca.crt": authority.pem}))
    there.route("cloud")
    status, _, body = await there.ask()
    assert set(asked) == {tls.get("hostname", "localhost")}
    if good:
        assert (status, len(there.pods.attempts)) == (200, 1)
    else:
        assert (status, error_code(body)) == (503, Code.UPSTREAM_ERROR)
        assert b"CERTIFICATE" not in body
        assert there.pods.attempts == []


async def test_a_ca_that_did_not_sign_is_not_believed_until_it_is_replaced(there: World, authority: Authority) -> None:
    await start(there, authority, "provider")
    pool = external("cloud", there.pods.addresses["provider"])
    key = secret("key", apiKey=KEY)
    await there.apply(pool, key, secret("ca", **{"ca.crt": Authority().pem}))
    there.route("cloud")
    status, _, body = await there.ask()
    assert (status, error_code(body)) == (503, Code.UPSTREAM_ERROR)
    assert there.pods.attempts == []
    # Both, as during a rotation.
    await there.apply(pool, key, secret("ca", **{"ca.crt": Authority().pem + authority.pem}))

    async def accepted() -> bool:
        return (await there.ask())[0] == 200

    await wait_until(accepted, what="an answer under the new CA")


async def test_the_systems_cas_are_the_default(tmp_path: Path, authority: Authority) -> None:
    file = tmp_path / "system.crt"
    file.write_text(Authority().pem + authority.pem)
    async with world(tmp_path, ca_file=str(file)) as there:
        await start(there, authority, "provider")
        pool = external("cloud", there.pods.addresses["provider"], tls={"hostname": NAME})
        await there.apply(pool, secret("key", apiKey=KEY))
        there.route("cloud")
        assert (await there.ask())[0] == 200


async def test_where_the_system_has_no_cas_only_such_pools_are_left_out(tmp_path: Path, authority: Authority) -> None:
    async with world(tmp_path, ca_file=str(tmp_path / "missing.crt")) as there:
        await start(there, authority, "provider")
        applied = await there.apply(
            external("public", "localhost:443", tls={}),
            external("cloud", there.pods.addresses["provider"]),
            secret("key", apiKey=KEY),
            secret("ca", **{"ca.crt": authority.pem}),
        )
        refused = [problem for problem in applied.result.problems if problem.reason == Reason.REFUSED]
        assert [str(problem.object) for problem in refused] == ["ModelPool default/public"]
        assert [each.id for each in applied.result.snapshot.pools] == ["default/cloud"]
        there.route("cloud")
        assert (await there.ask())[0] == 200


async def test_http2_where_the_provider_speaks_it(there: World, authority: Authority, secrets: list[Any]) -> None:
    await there.pods.start("provider", "pod")
    async with http2_front(there.folder / "front", authority, there.pods.addresses["provider"]) as (front, address):
        await there.apply(external("cloud", address), *local(there, "pod"), *secrets)
        there.route("cloud", "pod=pod")
        go, parts = asyncio.Event(), events({"n": 1}, "[DONE]")
        there.pods.scripts["provider"] = [SSE_HEAD, chunk(parts[0]), go, chunk(parts[1]), chunk(b"")]
        async with there.session.post(there.url + "/v1/chat/completions", json={"model": "auto"}) as answer:
            assert await answer.content.readany() == parts[0]
            go.set()
            assert await answer.read() == parts[1]
        there.pods.scripts["provider"] = [SSE_HEAD, ABORT]
        there.pods.scripts["pod"] = sse_response(parts)
        status, headers, body = await there.ask(stream=True)
        assert (status, headers["x-ralb-pool"], body) == (200, "default/pod", b"".join(parts))
        there.pods.scripts["provider"] = json_response({"model": "m"})
        assert set(await asyncio.gather(*((_status_of(there)) for _ in range(20)))) == {200}
        assert [each.headers["authorization"] for each in there.pods.attempts if each.pod == "provider"] == [
            f"Bearer {KEY}"
        ] * 22
        counted = await front.stats("http.front.downstream_(cx|rq)_http2_total|http.front.downstream_rq_total")
        assert counted["http.front.downstream_rq_http2_total"] == counted["http.front.downstream_rq_total"] == 22
        assert counted["http.front.downstream_cx_http2_total"] < 10, "requests share connections"


async def _status_of(there: World) -> int:
    return (await there.ask())[0]


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
