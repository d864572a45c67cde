"""Whatever clients send: an answer in the API's own error shape with a stable code, soon; nothing leaks, nobody else notices."""

import asyncio
import base64
import gzip
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support_gateway import Pods
from support_http import Connection, Response, call, request
from support_net import wait_until
from support_stack import Stack, policy, pool, running_stack, tier

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

CHAT = "/v1/chat/completions"
API_PATHS = (CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages")
SMALL = {
    "name": "acme/small-8b",
    "aliases": ["small"],
    "adapters": ["small-lora"],
    "contextWindow": 32768,
    "capabilities": ["Chat", "Completions", "Tools", "Vision"],
}
OBJECTS = (
    pool("small", "", 2, time_scale=0.5, spec={"model": SMALL}),
    pool("big", "big-70b", 1, time_scale=0.5),
    pool("echo", "echo", 0),
    pool("empty", "empty", 0),
    pool("ill", "ill", 1, faults='{"kind": "status", "status": 500}'),
    tier("small", 1, {"name": "small"}),
    tier("big", 3, {"name": "big"}),
    tier("none", 3, {"name": "empty"}),
    tier("ill", 2, {"name": "ill"}, {"name": "small", "priority": 1}),
    policy(
        "auto",
        "small",
        {"name": "deep", "when": {"labels": ["deep"]}, "use": {"tier": "big"}},
        {
            "name": "never",
            "when": {"labels": ["never"]},
            "use": {"reject": {"status": 403, "message": "Not at this time."}},
        },
        {"name": "none", "when": {"labels": ["none"]}, "use": {"tier": "none"}},
        {"name": "ill", "when": {"labels": ["ill"]}, "use": {"tier": "ill"}},
    ),
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def echo() -> AsyncIterator[Pods]:
    """A pod that shows what reaches a pod."""
    pods = Pods()
    await pods.start("echo")
    yield pods
    await pods.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(echo: Pods) -> AsyncIterator[Stack]:
    metadata = {
        "name": "echo-0",
        "labels": {"pool": "echo"},
        "annotations": {"ralb.dev/port": echo.addresses["echo"].rpartition(":")[2]},
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"podIP": "127.0.0.1"}}
    async with running_stack(*OBJECTS, pod) as running:
        yield running


def chat(text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 3, **more}


def refused(response: Response, status: int, code: str, *, anthropic: bool = False) -> dict[str, Any]:
    """Assert an error of that code in the right shape; gives its inner object."""
    assert (response.status, response.body[:400]) == (status, response.body[:400])
    assert response.headers["content-type"] == "application/json"
    body = response.json
    error = body["error"]
    assert error["code"] == code
    assert len(error["message"]) > 10
    if anthropic:
        assert body == {"type": "error", "error": error}
        assert set(error) == {"type", "message", "code"}
    else:
        assert set(body) == {"error"}
        assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


# ---- bodies ----

MESSAGE = {"role": "user", "content": "Hi"}
BODIES: dict[str, tuple[Any, int, str]] = {
    "no-json": (b"hello", 400, "invalid_json"),
    "form": (b"model=auto&x=1", 400, "invalid_json"),
    "half-json": (b'{"model": "auto", "messages": [', 400, "invalid_json"),
    "two-values": (b'{"model": "auto"} {}', 400, "invalid_json"),
    "single-quotes": (b"{'model': 'auto'}", 400, "invalid_json"),
    "truncated-utf8": (b'{"model":"auto","messages":[{"role":"user","content":"\xe2\x82"}]}', 400, "invalid_json"),
    "latin1": ('{"model": "é"}'.encode("latin-1"), 400, "invalid_json"),
    "utf16": ('{"model": "auto"}'.encode("utf-16"), 400, "invalid_json"),
    "bad-escape": (rb'{"model": "\x41"}', 400, "invalid_json"),
    "half-escape": (rb'{"model": "\u12"}', 400, "invalid_json"),
    "lone-surrogate": (rb'{"model": "\ud800"}', 400, "invalid_json"),
    "nul": (b'{"model": "a\x00"}', 400, "invalid_json"),
    "nan": (b'{"model": "auto", "temperature": NaN}', 400, "invalid_json"),
    "infinity": (b'{"model": "auto", "temperature": -Infinity}', 400, "invalid_json"),
    "deep": (b"[" * 100_000, 400, "invalid_json"),
    "deep-closed": (b"[" * 100_000 + b"]" * 100_000, 400, "invalid_json"),
    "deep-but-not-wide": (b"[" * 40_000 + b"]" * 40_000, 400, "invalid_json"),
    "wide": (b'{"model": "auto", "x": [' + b"[]," * 3_000_000 + b"[]]}", 400, "invalid_json"),
    "deep-objects": (b'{"a":' * 500 + b"1" + b"}" * 500, 400, "invalid_json"),
    "empty": (b"", 400, "body_required"),
    "blank": (b" \r\n\t ", 400, "body_required"),
    "null": (b"null", 400, "invalid_request"),
    "list": (b"[]", 400, "invalid_request"),
    "string": (b'"auto"', 400, "invalid_request"),
    "number": (b"1", 400, "invalid_request"),
    "no-model": ({"messages": [MESSAGE]}, 400, "invalid_request"),
    "model-null": (chat(model=None), 400, "invalid_request"),
    "model-number": (chat(model=7), 400, "invalid_request"),
    "model-list": (chat(model=["auto"]), 400, "invalid_request"),
    "model-empty": (chat(model=""), 400, "invalid_request"),
    "model-long": (chat(model="x" * 100_000), 400, "invalid_request"),
    "model-unknown": (chat(model="gpt-17"), 404, "model_not_found"),
    "model-control": (chat(model="a\r\nx-evil: 1"), 404, "model_not_found"),
    "no-messages": ({"model": "auto"}, 400, "invalid_request"),
    "messages-empty": (chat(messages=[]), 400, "invalid_request"),
    "messages-text": (chat(messages="Hi"), 400, "invalid_request"),
    "messages-of-text": (chat(messages=["Hi"]), 400, "invalid_request"),
    "messages-null": (chat(messages=[None]), 400, "invalid_request"),
    "role-missing": (chat(messages=[{"content": "Hi"}]), 400, "invalid_request"),
    "role-number": (chat(messages=[{"role": 1, "content": "Hi"}]), 400, "invalid_request"),
    "content-number": (chat(messages=[{"role": "user", "content": 1}]), 400, "invalid_request"),
    "content-object": (chat(messages=[{"role": "user", "content": {}}]), 400, "invalid_request"),
    "part-text": (chat(messages=[{"role": "user", "content": ["Hi"]}]), 400, "invalid_request"),
    "part-no-text": (chat(messages=[{"role": "user", "content": [{"type": "text"}]}]), 400, "invalid_request"),
    "part-type-list": (chat(messages=[{"role": "user", "content": [{"type": []}]}]), 400, "invalid_request"),
    "tool-calls-text": (chat(messages=[{"role": "assistant", "tool_calls": "x"}]), 400, "invalid_request"),
    "stream-text": (chat(stream="yes"), 400, "invalid_request"),
    "stream-number": (chat(stream=1), 400, "invalid_request"),
    "n-zero": (chat(n=0), 400, "invalid_request"),
    "n-many": (chat(n=10**9), 400, "invalid_request"),
    "max-tokens-negative": (chat(max_tokens=-1), 400, "invalid_request"),
    "max-tokens-text": (chat(max_tokens="10"), 400, "invalid_request"),
    "max-tokens-real": (chat(max_tokens=1.5), 400, "invalid_request"),
    "max-tokens-boolean": (chat(max_tokens=True), 400, "invalid_request"),
    "max-tokens-huge": (json.dumps(chat()).replace('"max_tokens": 3', '"max_tokens": ' + "9" * 400), 400, ""),
    "number-huge": (json.dumps(chat()).replace('"max_tokens": 3', '"max_tokens": 1e999'), 400, ""),
    "tools-object": (chat(tools={}), 400, "invalid_request"),
    "tools-of-text": (chat(tools=["search"]), 400, "invalid_request"),
    "tool-choice-number": (chat(tools=[], tool_choice=1), 400, "invalid_request"),
    "response-format-text": (chat(response_format="json"), 400, "invalid_request"),
    "effort-number": (chat(reasoning_effort=3), 400, "invalid_request"),
    "too-long": (chat("word " * 60_000), 400, "context_length_exceeded"),
    "cannot-hear": (
        chat(
            model="small",
            messages=[
                {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}
            ],
        ),
        400,
        "unsupported_by_model",
    ),
}


@pytest.mark.parametrize("name", BODIES)
async def test_body(stack: Stack, name: str) -> None:
    body, status, code = BODIES[name]
    response = await call(stack.port, request(CHAT, body))
    refused(response, status, code or response.code)
    assert response.code in ("invalid_json", "invalid_request") or code


@pytest.mark.parametrize("path", API_PATHS)
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "body_required"),
        ({"model": 1}, 400, "invalid_request"),
        ({"model": "auto"}, 400, "invalid_request"),
        (
            {"model": "nobody", "input": "a", "prompt": "a", "messages": [MESSAGE], "max_tokens": 1},
            404,
            "model_not_found",
        ),
        ({"model": "auto", "input": 1, "prompt": {}, "messages": 7, "max_tokens": 1}, 400, "invalid_request"),
        (
            {"model": "auto", "input": [[]], "prompt": [None], "messages": [[1]], "max_tokens": 1},
            400,
            "invalid_request",
        ),
    ],
    ids=["half", "empty", "model", "nothing", "unknown", "wrong", "nested"],
)
async def test_every_api_refuses_in_its_own_shape(stack: Stack, path: str, body: Any, status: int, code: str) -> None:
    refused(await call(stack.port, request(path, body)), status, code, anthropic=path == "/v1/messages")


async def test_error_names_the_field(stack: Stack) -> None:
    response = await call(stack.port, request(CHAT, chat(messages=[MESSAGE, {"role": "user", "content": [1]}])))
    assert refused(response, 400, "invalid_request")["param"] == "messages[1].content[0]"


async def test_rules_may_refuse(stack: Stack) -> None:
    response = await call(stack.port, request(CHAT, chat(), "x-ralb-intent: never"))
    assert refused(response, 403, "rejected_by_policy")["message"] == "Not at this time."


async def test_nobody_there(stack: Stack) -> None:
    for response in (
        await call(stack.port, request(CHAT, chat(), "x-ralb-intent: none")),
        await call(stack.port, request(CHAT, chat(model="empty"))),
    ):
        refused(response, 503, "no_endpoint")
        assert int(response.headers["retry-after"]) >= 1


# ---- sizes ----


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_body_of_20_mb(stack: Stack, path: str, chunked: bool) -> None:
    body = json.dumps(chat("x" * (20 << 20))).encode()
    if chunked:
        data = request(path, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), "transfer-encoding: chunked")
    else:
        data = request(path, body)
    response = await call(stack.port, data, 20)
    refused(response, 413, "request_too_large", anthropic=path == "/v1/messages")


@pytest.mark.parametrize("label", ["", "ill"], ids=["at-once", "by-another-model"])
async def test_body_of_10_mb_is_served(stack: Stack, label: str) -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(7_500_000)).decode()
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    body = json.dumps(chat(messages=[{"role": "user", "content": content}])).encode()
    assert len(body) > 10_000_000
    response = await call(stack.port, request(CHAT, body, f"x-ralb-intent: {label}"), 20)
    assert response.status == 200, response.body[:500]
    assert response.json["usage"]["completion_tokens"] == 3
    assert response.json["model"] == response.headers["x-ralb-model"] == "acme/small-8b"
    assert response.headers["x-ralb-attempts"] == ("2" if label else "1")


# ---- media types and codings ----


@pytest.mark.parametrize(
    "media", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "x" * 5000, ";"]
)
async def test_media_type(stack: Stack, media: str) -> None:
    response = await call(stack.port, request(CHAT, chat(), content_type=media))
    if media == ";":
        assert response.status == 200
    else:
        refused(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("media", ["", "application/json; charset=utf-8", "APPLICATION/JSON", "application/ld+json"])
async def test_media_type_that_will_do(stack: Stack, media: str) -> None:
    assert (await call(stack.port, request(CHAT, chat(), content_type=media))).status == 200


async def test_compressed_body(stack: Stack) -> None:
    body = gzip.compress(json.dumps(chat()).encode())
    refused(await call(stack.port, request(CHAT, body, "content-encoding: gzip")), 415, "unsupported_media_type")
    refused(await call(stack.port, request(CHAT, body)), 400, "invalid_json")


# ---- paths and methods ----


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/chat",
        "/v1/chat/completions/",
        "/v1/chat/completions/x",
        "/V1/CHAT/COMPLETIONS",
        "/v1/images/generations",
        "/metrics",
        "/admin/faults",
        "/../../../../etc/passwd",
        "/v1/models/../../etc/passwd",
        "/v1/%2e%2e/%2e%2e/etc/passwd",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completions;x=1",
        "/" + "a" * 8000,
        "/%ff%fe",
        "/\xff",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_path(stack: Stack, path: str, method: str) -> None:
    response = await call(stack.port, request(path, chat() if method == "POST" else b"", method=method))
    if response.status == 400:  # no path at all, as far as HTTP goes
        refused(response, 400, "invalid_request")
        assert path in (
            "/\xff",
            "/../../../../etc/passwd",
            "/v1/%2e%2e/%2e%2e/etc/passwd",
            "/v1/models/../../etc/passwd",
        )
    else:
        assert "/v1/chat/completions" in refused(response, 404, "unknown_path")["message"]


@pytest.mark.parametrize(
    "path",
    [
        CHAT + "?api-version=1",
        CHAT + "?",
        "//v1//chat/completions",
        "/v1/./chat/completions",
        "/x/../v1/chat/completions",
    ],
)
async def test_path_in_other_words(stack: Stack, path: str) -> None:
    assert (await call(stack.port, request(path, chat()))).status == 200


async def test_target_with_host(stack: Stack) -> None:
    assert (await call(stack.port, request(f"http://ralb.test{CHAT}", chat()))).status == 200


@pytest.mark.parametrize("path", API_PATHS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_method(stack: Stack, path: str, method: str) -> None:
    response = await call(stack.port, request(path, b"", method=method))
    refused(response, 405, "method_not_allowed", anthropic=path == "/v1/messages")
    assert response.headers["allow"] == "POST"


async def test_methods_of_the_model_list(stack: Stack) -> None:
    response = await call(stack.port, request("/v1/models", {}, method="POST"))
    refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET"
    response = await call(stack.port, request("/v1/models", method="HEAD"), head=True)
    assert (response.status, response.body) == (200, b"")
    refused(await call(stack.port, request("/v1/models/nobody", method="GET")), 404, "model_not_found")
    response = await call(stack.port, request("/v1/models/acme/small-8b", method="GET"))
    assert response.json["id"] == "acme/small-8b"
    names = {entry["id"] for entry in (await call(stack.port, request("/v1/models", method="GET"))).json["data"]}
    assert {"auto", "acme/small-8b", "small", "small-lora", "big-70b"} <= names


@pytest.mark.parametrize(
    "data",
    [
        b"BREW /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET /v1/models HTTP/1.0\r\nhost: a\r\n\r\n",
        b"GET /v1/models\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"hello\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nbad header: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\ncontent-length: 2\r\n\r\n{}",
    ],
    ids=[
        "method",
        "trace",
        "connect",
        "http10",
        "http09",
        "no-host",
        "http99",
        "tls",
        "greeting",
        "two-lengths",
        "negative-length",
        "length-and-chunked",
        "bad-chunk",
        "bad-name",
        "nul",
    ],
)
async def test_not_http_as_we_speak_it(stack: Stack, data: bytes) -> None:
    response = await call(stack.port, data)
    assert 400 <= response.status < 500
    refused(response, response.status, response.code)
    assert response.code in ("invalid_request", "method_not_allowed", "unknown_path")


# ---- headers ----


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
@pytest.mark.parametrize(
    "lines",
    [["x-big: " + "a" * 200_000], [f"x-{i}: {'a' * 2000}" for i in range(100)], [f"x-{i}: 1" for i in range(2000)]],
    ids=["one-big", "many-long", "many"],
)
async def test_headers_of_200_kb(stack: Stack, path: str, lines: list[str]) -> None:
    response = await call(stack.port, request(path, chat(), *lines))
    # Refused before the path is looked at, so the shape is the same for all.
    refused(response, 431, "headers_too_large")


async def test_repeated_headers(stack: Stack) -> None:
    response = await call(stack.port, request(CHAT, chat(), "x-ralb-intent: deep", "x-ralb-intent: never"))
    assert (response.status, response.headers["x-ralb-tier"]) == (200, "big")
    assert (await call(stack.port, request(CHAT, chat(), "cookie: a", "cookie: b"))).status == 200
    response = await call(stack.port, request(CHAT, chat(), "content-type: text/html"))
    refused(response, 415, "unsupported_media_type")
    odd = await call(stack.port, request(CHAT, chat(), "x-ralb-intent: \xff\xfe", "x-ralb-session: " + "s" * 60_000))
    assert odd.status == 200


async def test_answer_says_who_served(stack: Stack) -> None:
    response = await call(stack.port, request(CHAT, chat(), "x-request-id: my-own-id"))
    headers = response.headers
    assert headers["x-ralb-tier"] == "small"
    assert headers["x-ralb-pool"] == "default/small"
    assert headers["x-ralb-model"] == response.json["model"] == "acme/small-8b"
    assert headers["x-ralb-attempts"] == "1"
    assert headers["x-request-id"] == "my-own-id"
    assert headers["x-ralb-decision-id"]
    assert not {name for name in headers if name.startswith("x-envoy-")}
    assert "x-ralb-explanation" not in headers
    record = await stack.record(headers["x-ralb-decision-id"])
    assert record["plan"]["tier"] == "small"


async def test_explanation(stack: Stack) -> None:
    response = await call(stack.port, request(CHAT, chat(), "x-ralb-explain: true", "x-ralb-intent: deep"))
    text = response.headers["x-ralb-explanation"]
    assert "policy default/auto rule deep -> tier big" in text
    assert "default/big" in text


async def test_highest_tier(stack: Stack) -> None:
    response = await call(stack.port, request(CHAT, chat(), "x-ralb-intent: deep", "x-ralb-max-tier: small"))
    assert (response.status, response.headers["x-ralb-tier"]) == (200, "small")
    response = await call(stack.port, request(CHAT, chat(), "x-ralb-intent: deep", "x-ralb-max-tier: 3"))
    assert response.headers["x-ralb-tier"] == "big"
    for wrong in ("huge", "0", "", "1" * 5000):
        response = await call(stack.port, request(CHAT, chat(), f"x-ralb-max-tier: {wrong}"))
        assert refused(response, 400, "invalid_request")["param"] == "x-ralb-max-tier"


@pytest.mark.parametrize("name", ["acme/small-8b", "small", "small-lora"])
async def test_model_by_name(stack: Stack, name: str) -> None:
    response = await call(stack.port, request(CHAT, chat(model=name), "x-ralb-intent: deep"))
    assert response.status == 200
    assert response.headers["x-ralb-pool"] == "default/small"
    assert "x-ralb-tier" not in response.headers
    # An alias is another name of the same model; an adapter is a model of its own to the server.
    assert response.json["model"] == ("small-lora" if name == "small-lora" else "acme/small-8b")


async def test_internal_headers_have_no_effect(stack: Stack, echo: Pods) -> None:
    forged = (
        "x-ralb-tier: big",
        "x-ralb-pool: default/big",
        "x-ralb-decision-id: forged",
        "x-ralb-rewrite-model: other",
        "x-ralb-anything: 1",
        "x-envoy-max-retries: 9",
        "x-envoy-upstream-rq-timeout-ms: 1",
        "x-envoy-retry-on: 5xx",
        "x-envoy-original-path: /metrics",
        "x-gateway-destination-endpoint: 127.0.0.1:1",
        "x-ralb-session: s1",
        "authorization: Bearer key",
    )
    response = await call(stack.port, request(CHAT, chat(), *forged))
    assert response.status == 200
    assert response.headers["x-ralb-pool"] == "default/small"
    assert response.headers["x-ralb-decision-id"] != "forged"
    echo.reset()
    response = await call(stack.port, request(CHAT, chat(model="echo"), *forged))
    assert response.status == 200
    (attempt,) = echo.attempts
    assert attempt.path == CHAT
    assert attempt.headers["authorization"] == "Bearer key"
    ours = {name: value for name, value in attempt.headers.items() if name.startswith(("x-ralb-", "x-gateway-"))}
    assert ours == {"x-ralb-decision-id": response.headers["x-ralb-decision-id"]}
    assert not {name for name in attempt.headers if name.startswith("x-envoy-")} - {
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-attempt-count",
        "x-envoy-internal",
        "x-envoy-external-address",
    }


# ---- connections ----


async def test_chunked_body(stack: Stack) -> None:
    body = json.dumps(chat()).encode()
    chunks = (
        b"".join(b"%x;ext=1\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body))) + b"0\r\ntrailer: 1\r\n\r\n"
    )
    assert (await call(stack.port, request(CHAT, chunks, "transfer-encoding: chunked"))).status == 200


async def test_expect_continue(stack: Stack) -> None:
    async with Connection(stack.port) as connection:
        head, _, body = request(CHAT, chat(), "expect: 100-continue").partition(b"\r\n\r\n")
        await connection.send(head + b"\r\n\r\n")
        assert (await connection.receive(head=True)).status == 100
        await connection.send(body)
        assert (await connection.receive()).status == 200


async def test_pipelined_requests(stack: Stack) -> None:
    async with Connection(stack.port) as connection:
        await connection.send(
            request(CHAT, chat(), keep=True)
            + request(CHAT, chat(model="nobody"), keep=True)
            + request("/v1/models", method="GET", keep=True)
            + request(CHAT, chat(model="big-70b"))
        )
        answers = [await connection.receive() for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 404, 200, 200]
    assert answers[1].code == "model_not_found"
    assert answers[3].json["model"] == "big-70b"


async def test_a_thousand_rapid_connections(stack: Stack) -> None:
    async def one(number: int) -> None:
        async with Connection(stack.port) as connection:
            if number % 4 == 1:
                await connection.send(b"POST /v1/chat/comp")
            elif number % 4 == 2:
                await connection.send(request(CHAT, chat(), "content-length: 5000"))
            elif number % 4 == 3:
                await connection.send(b"\x00\xff\r\n\r\n")

    for start in range(0, 1000, 100):
        await asyncio.gather(*(one(number) for number in range(start, start + 100)))
    assert (await call(stack.port, request(CHAT, chat()))).status == 200


async def test_request_that_never_ends(stack: Stack) -> None:
    """Half a request head is given up in ten seconds; others are served meanwhile."""
    async with Connection(stack.port) as connection:
        start = time.monotonic()
        await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-slow: ")
        assert (await call(stack.port, request(CHAT, chat()))).status == 200
        response = await connection.receive(15)
        refused(response, 408, "request_timeout")
        assert 5 < time.monotonic() - start < 14


async def test_processor_that_hangs(stack: Stack) -> None:
    pid = stack.pid("processor")
    os.kill(pid, signal.SIGSTOP)
    try:
        paths = (CHAT, "/v1/messages")
        answers = await asyncio.gather(*(call(stack.port, request(path, chat()), 8) for path in paths))
    finally:
        os.kill(pid, signal.SIGCONT)
    for path, response in zip(paths, answers, strict=True):
        refused(response, 503, "processor_unavailable", anthropic=path == "/v1/messages")
        assert response.headers["retry-after"] == "1"
    assert (await call(stack.port, request(CHAT, chat()))).status == 200


# ---- clients that go away ----


async def _nothing_open(stack: Stack) -> bool:
    busy = [
        value
        for pod in stack.pods()
        for name, value in (await stack.pod_gauges(pod["address"])).items()
        if "num" in name
    ]
    return not any(busy) and await stack.in_flight() == 0


@pytest.mark.parametrize("stage", ["head", "half-body", "body", "queued", "stream"])
async def test_client_goes_away(stack: Stack, stage: str) -> None:
    data = request(CHAT, chat("Go on", stream=stage == "stream", max_tokens=4000, min_tokens=4000, ignore_eos=True))
    head, _, body = data.partition(b"\r\n\r\n")
    async with Connection(stack.port) as connection:
        await connection.send(head + b"\r\n\r\n")
        if stage == "half-body":
            await connection.send(body[:20])
        elif stage != "head":
            await connection.send(body)
        if stage in ("queued", "stream"):
            await wait_until(lambda: _busy(stack), 5, what="the request at a pod")
        if stage == "stream":
            await asyncio.wait_for(connection.reader.readuntil(b"data: "), 5)
    # The pod would need many seconds for it: that it stops is the cancellation.
    await wait_until(lambda: _nothing_open(stack), 5, interval=0.05, what="the end of the request everywhere")


async def _busy(stack: Stack) -> bool:
    gauges = [await stack.pod_gauges(pod["address"]) for pod in stack.pods()]
    return any(value for each in gauges for value in each.values())


# ---- at the end ----


def _resident_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def _barrage(port: int, count: int, large: int) -> None:
    # Envoy closes an HTTP/1.1 connection after a 400, so each goes on one of its own.
    small = [data for data in (request(CHAT, body) for body, _, _ in BODIES.values()) if len(data) < 20_000]
    # Valid JSON of many small objects, the costliest kind to hold; refused only once it was read.
    items = [{"role": "user", "content": [{"type": "text", "text": f"word {i}"}]} for i in range(12_000)]
    big = request(CHAT, chat(model="nobody", messages=items))

    async def client(number: int) -> None:
        for i in range(count // 20):
            assert 400 <= (await call(port, small[(number + i * 7) % len(small)])).status < 500

    await asyncio.gather(*(client(number) for number in range(20)))
    for _ in range(large):
        assert (await call(port, big, 30)).status == 404


async def test_memory_stays_flat(stack: Stack) -> None:
    await _barrage(stack.port, 1000, 10)
    before = _resident_mib(stack.pid("processor"))
    await _barrage(stack.port, 4000, 30)
    after = _resident_mib(stack.pid("processor"))
    assert after < before * 1.1 + 16, f"{before:.0f} MiB -> {after:.0f} MiB"


async def test_nothing_is_left_behind(stack: Stack) -> None:
    await wait_until(lambda: _nothing_open(stack), 10, interval=0.1, what="all requests ended")
    assert "Traceback" not in stack.log()
    assert "could not be decided" not in stack.log()
    stats = await stack.envoy_stats("^http.ralb.downstream_rq_active$")
    assert stats == {"http.ralb.downstream_rq_active": 0}
