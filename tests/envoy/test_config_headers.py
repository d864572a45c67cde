"""What each side gets to see: clients, the processor, pods."""

import io
import json

import aiohttp
import pytest
from support_gateway import Gateway, events, json_response, sse_response

from ralb_api import headers as names

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

SMALL = "pool/default/small"
CREDENTIALS = {
    "authorization": "Bearer secret",
    "x-api-key": "secret",
    "api-key": "secret",
    "cookie": "a=secret",
    "proxy-authorization": "Basic secret",
}


async def post(gw: Gateway, **headers: str) -> tuple[int, dict[str, str], bytes]:
    gw.processor.order = [(SMALL, gw.pods.addresses["small-0"])]
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.post(gw.url + "/v1/chat/completions", data=io.BytesIO(b'{"model":"auto"}'), headers=headers) as answer,
    ):
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()


@pytest.mark.parametrize(
    "name",
    [
        "x-envoy-max-retries",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-original-path",
        "x-gateway-destination-endpoint",
        "x-gateway-model-name",
        names.TIER,
        names.POOL,
        names.MODEL,
        names.DECISION_ID,
        names.ATTEMPTS,
        names.EXPLANATION,
        "x-ralb-",
        "X-RALB-Tier",
    ],
)
async def test_headers_clients_may_not_set_are_taken_off(gw: Gateway, name: str) -> None:
    code, headers, _ = await post(gw, **{name: "evil"})
    assert code == 200
    assert "evil" not in gw.processor.headers.values()
    assert "evil" not in gw.pods.attempts[0].headers.values()
    assert "evil" not in headers.values()


@pytest.mark.parametrize("name", sorted({*names.CLIENT_HEADERS, *names.SESSION_HEADERS, "x-team", "x-ralphie"}))
async def test_headers_clients_may_set_arrive(gw: Gateway, name: str) -> None:
    code, _, _ = await post(gw, **{name: "mine"})
    assert code == 200
    assert gw.processor.headers[name] == "mine"


async def test_credentials_reach_the_pod_but_not_the_processor(gw: Gateway) -> None:
    code, _, _ = await post(gw, **CREDENTIALS)
    assert code == 200
    assert not set(CREDENTIALS) & set(gw.processor.headers)
    assert "secret" not in str(gw.processor.headers)
    assert {name: gw.pods.attempts[0].headers.get(name) for name in CREDENTIALS} == CREDENTIALS


async def test_answers_say_who_served(gw: Gateway) -> None:
    gw.processor.decision = {"id": "d-1", "tier": "easy", "explanation": "because"}
    gw.pods.scripts["small-0"] = json_response(
        {"ok": True},
        "x-ralb-pool: forged",
        "x-ralb-tier: forged",
        "endpoint-load-metrics: TEXT kv=1",
        "x-request-id: forged",
    )
    code, headers, _ = await post(gw, **{"x-request-id": "r-1"})
    assert code == 200
    assert headers[names.TIER] == "easy"
    assert headers[names.POOL] == "default/small"
    assert headers[names.MODEL] == "small-model"
    assert headers[names.DECISION_ID] == "d-1"
    assert headers[names.EXPLANATION] == "because"
    assert headers[names.ATTEMPTS] == "1"
    assert headers["x-request-id"] == "r-1"
    assert not {"x-envoy-upstream-service-time", "endpoint-load-metrics"} & set(headers)


async def test_what_was_not_decided_is_not_answered(gw: Gateway) -> None:
    _, headers, _ = await post(gw)
    assert not {names.TIER, names.DECISION_ID, names.EXPLANATION} & set(headers)


async def test_pods_cannot_forge_what_was_not_decided(gw: Gateway) -> None:
    forged = (names.TIER, names.DECISION_ID, names.EXPLANATION, names.POOL, names.MODEL, names.ATTEMPTS)
    gw.pods.scripts["small-0"] = json_response({}, *(f"{name}: forged" for name in forged))
    _, headers, _ = await post(gw)
    assert "forged" not in headers.values()


async def test_every_request_gets_an_id(gw: Gateway) -> None:
    _, headers, _ = await post(gw)
    assert len(headers["x-request-id"]) == 36
    assert gw.pods.attempts[0].headers["x-request-id"] == headers["x-request-id"]
    assert gw.processor.headers["x-request-id"] == headers["x-request-id"]


async def test_retry_controls_of_the_processor_are_obeyed(gw: Gateway) -> None:
    gw.processor.extra_headers = {"x-envoy-max-retries": "0"}
    gw.pods.scripts["small-0"] = [b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"]
    code, headers, _ = await post(gw)
    assert (code, headers[names.ATTEMPTS]) == (503, "1")


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_never_pass_through_the_processor(gw: Gateway, stream: bool) -> None:
    parts = events(*({"choices": [{"delta": {"content": "x" * 1000}}]} for _ in range(50)), "[DONE]")
    gw.pods.scripts["small-0"] = sse_response(parts) if stream else json_response({"text": "x" * 50_000})
    code, _, body = await post(gw)
    assert code == 200
    assert body == b"".join(parts) if stream else json.loads(body)["text"] == "x" * 50_000
    assert gw.processor.kinds == {"request_headers": 1, "request_body": 1}
