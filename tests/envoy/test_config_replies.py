"""Errors Envoy itself gives: the same shapes and stable codes as the processor's, per API family."""

import asyncio
import io
import json

import aiohttp
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ep
from support_gateway import ABORT, MAX_BODY, SSE_HEAD, Gateway, chunk

from ralb_operator.compile import Result

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

SMALL = "pool/default/small"
PATHS = pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"]
)


async def post(gw: Gateway, path: str, body: bytes = b'{"model":"auto"}', **headers: str) -> tuple[int, str, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(gw.url + path, data=io.BytesIO(body), headers=headers) as answer,
    ):
        return answer.status, answer.headers.get("content-type", ""), await answer.read()


def error_code(path: str, content_type: str, body: bytes) -> str:
    """The code, after a check that the shape is the path's API family's."""
    assert content_type == "application/json"
    value = json.loads(body)
    if path.startswith("/v1/messages"):
        assert value["type"] == "error"
        assert set(value["error"]) == {"type", "message", "code"}
    else:
        assert set(value) == {"error"}
        assert set(value["error"]) == {"message", "type", "param", "code"}
    assert value["error"]["message"]
    return str(value["error"]["code"])


@PATHS
async def test_processor_down(bare_gateway: tuple[Gateway, Result, str], path: str) -> None:
    running, _, _ = bare_gateway
    status, content_type, body = await post(running, path)
    assert status == 503
    assert error_code(path, content_type, body) == "processor_unavailable"


@PATHS
async def test_body_over_the_limit(gw: Gateway, path: str) -> None:
    status, content_type, body = await post(gw, path, b'{"model":"' + b"a" * (MAX_BODY + 1) + b'"}')
    assert status == 413
    assert error_code(path, content_type, body) == "request_too_large"
    assert gw.processor.kinds["request_body"] == 0


async def test_unavailability_says_when_to_come_back(gw: Gateway) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(gw.url + "/v1/chat/completions", data=io.BytesIO(b'{"model":"auto"}')) as answer,
    ):
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_processor_that_does_not_answer(gw: Gateway) -> None:
    gw.processor.silent = True
    path = "/v1/chat/completions"
    status, content_type, body = await post(gw, path)
    assert status == 503
    assert error_code(path, content_type, body) == "processor_unavailable"


async def test_processor_that_fails(gw: Gateway) -> None:
    def fail(request: ep.ProcessingRequest) -> ep.ProcessingResponse:
        return ep.ProcessingResponse(response_headers=ep.HeadersResponse())

    gw.processor.answer = fail
    path = "/v1/messages"
    status, content_type, body = await post(gw, path)
    assert status == 503
    assert error_code(path, content_type, body) == "processor_unavailable"


@pytest.mark.parametrize("status", [200, 400, 404, 413, 429, 500, 503])
async def test_answers_of_the_processor_are_left_alone(gw: Gateway, status: int) -> None:
    def answer(request: ep.ProcessingRequest) -> ep.ProcessingResponse:
        out = ep.ProcessingResponse()
        out.immediate_response.status.code = status
        out.immediate_response.body = b'{"own": true}'
        out.immediate_response.details = "ralb_something"
        header = out.immediate_response.headers.set_headers.add()
        header.header.key, header.header.raw_value = "content-type", b"application/json"
        return out

    gw.processor.answer = answer
    assert await post(gw, "/v1/chat/completions") == (status, "application/json", b'{"own": true}')


@PATHS
async def test_no_pod_reachable(gw: Gateway, path: str) -> None:
    gw.processor.order = [("pool/default/empty", "127.0.0.1:1")]
    status, content_type, body = await post(gw, path)
    assert status == 503
    assert error_code(path, content_type, body) == "upstream_error"


async def test_pod_that_talks_nonsense(gw: Gateway) -> None:
    gw.processor.order = [(SMALL, gw.pods.addresses["small-0"])]
    gw.pods.scripts |= {name: [b"SSH-2.0-OpenSSH\r\n\r\n", ABORT] for name in ("small-0", "small-1")}
    path = "/v1/chat/completions"
    status, content_type, body = await post(gw, path)
    assert status in (502, 503)
    assert error_code(path, content_type, body) == "upstream_error"


async def test_json_answer_that_outgrows_the_buffer(gw: Gateway) -> None:
    gw.processor.order = [(SMALL, gw.pods.addresses["small-0"])]
    head = SSE_HEAD.replace(b"text/event-stream; charset=utf-8", b"application/json")
    gw.pods.scripts["small-0"] = [head, chunk(b'{"a": "'), *[chunk(b"x" * 1_000_000)] * (MAX_BODY // 1_000_000 + 2)]
    path = "/v1/chat/completions"
    status, content_type, body = await post(gw, path)
    assert status == 502
    assert error_code(path, content_type, body) == "upstream_error"


async def raw(gw: Gateway, data: bytes) -> tuple[int, dict[str, str], bytes]:
    host, _, port = gw.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
        body = await reader.readexactly(int(headers["content-length"]))
        return int(head[0].split(" ")[1]), headers, body
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, ""),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400, "invalid_request"),
        (b"POST /v1/chat/completions HTTP/1.0\r\n\r\n", 426, "invalid_request"),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 100_000 + b"\r\n\r\n",
            431,
            "headers_too_large",
        ),
        (
            b"GET /v1/responses HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            403,
            "invalid_request",
        ),
    ],
)
async def test_requests_that_are_not_our_http(gw: Gateway, data: bytes, status: int, code: str) -> None:
    got, headers, body = await raw(gw, data)
    assert got == status
    if code:
        assert error_code("/v1/chat/completions", headers["content-type"], body) == code
