"""Providers outside the cluster, with a real Envoy and real TLS: who is believed to be one, and what is spoken with it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support_gateway import ABORT, SSE_HEAD, chunk, events, json_response, sse_response
from support_net import wait_until
from support_provider import (
    KEY,
    NAME,
    Authority,
    World,
    error_code,
    external,
    http2_front,
    local,
    secret,
    start,
    world,
)

from ralb_api.errors import Code
from ralb_operator.compile import Reason

pytestmark = pytest.mark.envoy


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
