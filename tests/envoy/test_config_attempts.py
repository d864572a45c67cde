"""Attempts: which pod and pool a request is tried on next, with which model name, and when no more."""

import asyncio
import io
import json

import aiohttp
import pytest
from support_gateway import ABORT, SSE_HEAD, Gateway, chunk, events, json_response, response, sse_response
from support_net import wait_until

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

SMALL, BIG, BIG_REWRITTEN = "pool/default/small", "pool/default/big", "pool/default/big/rewrite"
SERVICE, SERVICE_REWRITTEN = "pool/default/service", "pool/default/service/rewrite"
CHAT = "/v1/chat/completions"
FAIL = response(503, b'{"error":"busy"}')
STREAM = sse_response(events({"choices": [{"delta": {"content": "hi"}}]}, "[DONE]"))
HEADERS_THEN_RESET = [SSE_HEAD, 0.05, ABORT]


async def post(gw: Gateway, body: object = None, path: str = CHAT, **headers: str) -> tuple[int, dict[str, str], bytes]:
    data = body if isinstance(body, bytes) else json.dumps(body or {"model": "auto"}).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            gw.url + path, data=io.BytesIO(data), headers={"content-type": "application/json", **headers}
        ) as answer,
    ):
        content = await answer.read()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, content


def order(gw: Gateway, *attempts: tuple[str, str]) -> None:
    gw.processor.order = [(cluster, gw.pods.addresses.get(pod, pod)) for cluster, pod in attempts]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_failing_pod_is_followed_by_the_next_of_the_order(gw: Gateway, status: int) -> None:
    order(gw, (SMALL, "small-1"), (SMALL, "small-0"), (BIG_REWRITTEN, "big-0"))
    gw.pods.scripts["small-1"] = response(status, b"{}")
    code, headers, _ = await post(gw)
    assert code == 200
    assert gw.pods.served == [("small-1", "first"), ("small-0", "first")]
    assert headers["x-ralb-attempts"] == "2"
    assert headers["x-ralb-pool"] == "default/small"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_errors_of_the_client_are_not_retried(gw: Gateway, status: int) -> None:
    order(gw, (SMALL, "small-0"), (SMALL, "small-1"))
    gw.pods.scripts["small-0"] = response(status, b'{"error": {"message": "no"}}')
    code, headers, body = await post(gw)
    assert (code, body) == (status, b'{"error": {"message": "no"}}')
    assert headers["x-ralb-attempts"] == "1"
    assert len(gw.pods.attempts) == 1


async def test_next_pool_gets_its_own_model_name(gw: Gateway) -> None:
    order(gw, (SMALL, "small-0"), (SMALL, "small-1"), (BIG_REWRITTEN, "big-0"))
    gw.pods.scripts |= {"small-0": FAIL, "small-1": FAIL}
    code, headers, _ = await post(gw, {"model": "auto", "messages": [{"role": "user", "content": "ü" * 100}]})
    assert code == 200
    assert gw.pods.served == [("small-0", "first"), ("small-1", "first"), ("big-0", "big-model")]
    assert gw.processor.rewritten == ["big-model"]
    last = json.loads(gw.pods.attempts[-1].body)
    assert last["messages"][0]["content"] == "ü" * 100
    assert headers["x-ralb-pool"] == "default/big"
    assert headers["x-ralb-model"] == "big-model"
    assert headers["x-ralb-attempts"] == "3"
    assert (await gw.processor.log(headers["x-request-id"])).common_properties.upstream_request_attempt_count == 3


async def test_after_the_rewritten_attempt_the_first_body_is_back(gw: Gateway) -> None:
    order(gw, (SMALL, "small-0"), (BIG_REWRITTEN, "big-0"), (SMALL, "small-1"))
    gw.pods.scripts |= {"small-0": FAIL, "big-0": FAIL}
    code, _, _ = await post(gw)
    assert code == 200
    assert gw.pods.served == [("small-0", "first"), ("big-0", "big-model"), ("small-1", "first")]


async def test_refused_connection_is_followed_by_the_next(gw: Gateway) -> None:
    order(gw, (SMALL, "small-dead"), (SMALL, "small-1"))
    code, headers, _ = await post(gw)
    assert (code, headers["x-ralb-attempts"]) == (200, "2")
    assert gw.pods.served == [("small-1", "first")]


async def test_pod_that_is_gone_is_replaced_by_the_next(gw: Gateway) -> None:
    order(gw, (SMALL, "10.255.255.1:8000"), (SMALL, "small-1"))
    code, headers, _ = await post(gw)
    assert (code, headers["x-ralb-attempts"]) == (200, "1")
    assert gw.pods.served == [("small-1", "first")]


async def test_pool_that_just_lost_its_last_pod_is_followed_by_the_next(gw: Gateway) -> None:
    order(gw, ("pool/default/empty", "127.0.0.1:1"), (SERVICE_REWRITTEN, ""), (BIG_REWRITTEN, "big-0"))
    code, headers, _ = await post(gw)
    assert code == 200
    assert gw.pods.served == [("service", "service-model")]
    assert headers["x-ralb-pool"] == "default/service"


async def test_pods_keep_their_place_behind_a_service_pool(gw: Gateway) -> None:
    order(gw, (SERVICE, ""), (SMALL, "small-1"), (SMALL, "small-0"))
    gw.pods.scripts |= {"service": FAIL, "small-1": FAIL}
    code, _, _ = await post(gw)
    assert code == 200
    assert gw.pods.served == [("service", "first"), ("small-1", "first"), ("small-0", "first")]


async def test_no_more_attempts_than_allowed_and_the_last_answer_is_given(gw: Gateway) -> None:
    order(gw, *[(SMALL, "small-0"), (SMALL, "small-1"), (BIG, "big-0")] * 3)
    gw.pods.scripts |= {"small-0": FAIL, "small-1": FAIL, "big-0": FAIL}
    code, headers, body = await post(gw, **{"x-envoy-max-retries": "9"})
    assert (code, body) == (503, b'{"error":"busy"}')
    assert len(gw.pods.attempts) == 4
    assert headers["x-ralb-attempts"] == "4"


async def test_queued_stream_that_is_reset_is_served_by_the_next_pod(gw: Gateway) -> None:
    order(gw, (SMALL, "small-0"), (SMALL, "small-1"))
    gw.pods.scripts |= {"small-0": HEADERS_THEN_RESET, "small-1": STREAM}
    code, headers, body = await post(gw)
    assert code == 200
    assert body.count(b"data:") == 2
    assert headers["x-ralb-attempts"] == "2"
    assert [pod for pod, _ in gw.pods.served] == ["small-0", "small-1"]


async def test_queued_stream_that_is_reset_is_served_by_the_next_pool(gw: Gateway) -> None:
    order(gw, (SMALL, "small-0"), (BIG_REWRITTEN, "big-0"))
    gw.pods.scripts |= {"small-0": HEADERS_THEN_RESET, "big-0": STREAM}
    code, headers, body = await post(gw)
    assert (code, body.count(b"data:")) == (200, 2)
    assert gw.pods.served == [("small-0", "first"), ("big-0", "big-model")]
    assert headers["x-ralb-model"] == "big-model"
    assert headers["x-from-pod"] == "yes"


async def test_no_attempt_after_the_first_token(gw: Gateway) -> None:
    order(gw, (SMALL, "small-0"), (SMALL, "small-1"))
    first = events({"choices": [{"delta": {"content": "hi"}}]})[0]
    broken = asyncio.Event()
    gw.pods.scripts |= {"small-0": [SSE_HEAD, chunk(first), broken, ABORT], "small-1": STREAM}
    async with aiohttp.ClientSession() as session, session.post(gw.url + CHAT, data=b'{"model": "auto"}') as answer:
        assert answer.status == 200
        assert await answer.content.readany() == first
        broken.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    assert [pod for pod, _ in gw.pods.served] == ["small-0"]
    assert (
        await gw.processor.log(answer.headers["x-request-id"])
    ).common_properties.upstream_request_attempt_count == 1


async def test_stream_passes_event_by_event(gw: Gateway) -> None:
    order(gw, (SMALL, "small-0"))
    parts = events(*({"choices": [{"delta": {"content": str(number)}}]} for number in range(3)))
    gates = [asyncio.Event() for _ in parts]
    script = [SSE_HEAD]
    for part, gate in zip(parts, gates, strict=True):
        script += [gate, chunk(part)]
    gw.pods.scripts["small-0"] = [*script, chunk(b"")]
    async with aiohttp.ClientSession() as session:
        request = asyncio.create_task(session.post(gw.url + CHAT, data=b'{"model": "auto"}'))
        await wait_until(lambda: bool(gw.pods.attempts), what="request at the pod")
        gates[0].set()
        answer = await request
        for number, part in enumerate(parts):
            gates[number].set()
            assert await answer.content.readany() == part
        assert await answer.content.read() == b""
        answer.close()


async def test_answer_without_body_is_not_held_back(gw: Gateway) -> None:
    order(gw, (SMALL, "small-0"))
    gw.pods.scripts["small-0"] = response(200, b"")
    code, _, body = await post(gw)
    assert (code, body) == (200, b"")


async def test_large_body_survives_retry_and_rewriting(gw: Gateway) -> None:
    order(gw, (SMALL, "small-0"), (BIG_REWRITTEN, "big-0"))
    gw.pods.scripts["small-0"] = FAIL
    code, _, _ = await post(gw, {"model": "auto", "messages": "x" * 7_000_000})
    assert code == 200
    assert gw.pods.served == [("small-0", "first"), ("big-0", "big-model")]
    assert len(gw.pods.attempts[1].body) > 7_000_000


async def test_without_an_order_a_request_goes_nowhere(gw: Gateway) -> None:
    code, headers, body = await post(gw)
    assert code == 503
    assert json.loads(body)["error"]["code"] == "upstream_error"
    assert headers["content-type"] == "application/json"
    assert gw.pods.attempts == []


async def test_unknown_cluster_ends_the_request(gw: Gateway) -> None:
    # Not retried: this is why a cluster goes only after the snapshots that name it.
    order(gw, ("pool/default/gone", "10.0.0.1:1"), (SMALL, "small-0"))
    code, _, body = await post(gw)
    assert (code, json.loads(body)["error"]["code"]) == (503, "upstream_error")
    assert gw.pods.attempts == []


async def test_json_answer_larger_than_the_body_limit_passes(gw: Gateway) -> None:
    order(gw, (SMALL, "small-0"))
    gw.pods.scripts["small-0"] = json_response({"data": "x" * 20_000_000})
    code, _, body = await post(gw, path="/v1/embeddings")
    assert code == 200
    assert len(body) > 20_000_000
