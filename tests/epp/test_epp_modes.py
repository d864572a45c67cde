"""What our picker refuses, and what it does for gateways that send bodies in another mode."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from support_epp import (
    CHAT,
    Caller,
    Target,
    calling,
    picked,
    play,
    refusal,
    request_body,
    request_headers,
    response_body,
    response_headers,
    trailers,
)
from support_picker import ENDPOINTS, Own, own_picker, pool

BODY = json.dumps(CHAT).encode()
NONE, STREAMED, BUFFERED, PARTIAL = (
    ProcessingMode.NONE,
    ProcessingMode.STREAMED,
    ProcessingMode.BUFFERED,
    ProcessingMode.BUFFERED_PARTIAL,
)
# ---- refusals ----


async def test_larger_than_allowed_is_413(tmp_path: Path) -> None:
    async with own_picker(tmp_path, max_body_bytes=1000) as own, calling(Target(own.address, False, ())) as caller:
        pick = await caller.ask(chunks=[b"x" * 600, b"x" * 600])
        assert (pick.status, pick.code) == (413, "request_too_large")
        assert own.records[0]["error"]["code"] == "request_too_large"
        await own.idle()
        assert 'ralb_requests_total{api="chat",code="413"} 1.0' in own.processor.telemetry.page().decode()


async def test_too_much_at_once_is_429_until_there_is_room(own: Own, own_caller: Caller) -> None:
    assert own.processor.pickers is not None
    room = own.processor.pickers.room
    everything = 512 * 1024 * 1024 - 10
    assert room.take(everything)
    pick = await own_caller.ask(CHAT)
    assert (pick.status, pick.code, pick.headers["retry-after"]) == (429, "overloaded", "1")
    room.give(everything)
    assert (await own_caller.ask(CHAT)).status == 0
    await own.idle()


async def test_no_snapshot_no_pool_and_no_pods_are_503(tmp_path: Path) -> None:
    async with (
        own_picker(tmp_path, start_with_snapshot=False) as own,
        calling(Target(own.address, False, ())) as caller,
    ):
        for code, pools in (("not_ready", None), ("no_endpoint", pool(name="models/other")), ("no_endpoint", pool(()))):
            if pools is not None:
                await own.apply(pools)
            for pick in (await caller.ask(CHAT), await caller.ask(path="/v1/models", method="GET")):
                assert (pick.status, pick.code, pick.headers["retry-after"]) == (503, code, "1")


async def test_errors_have_the_shape_of_the_api(own_caller: Caller) -> None:
    pick = await own_caller.ask(b"{", path="/v1/messages")
    assert pick.body is not None
    assert json.loads(pick.body)["type"] == "error"
    assert pick.code == "invalid_json"


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("x-llm-d-inference-objective", "batch", 429),
        ("x-gateway-inference-objective", "batch", 429),
        ("x-ralb-workload-class", "batch", 429),
        ("x-ralb-workload-class", "chat", 0),
        ("x-other", "batch", 0),
    ],
)
async def test_only_what_may_wait_is_turned_away_from_a_full_pool(
    tmp_path: Path, header: str, value: str, status: int
) -> None:
    full = pool(concurrency_per_replica=1)
    async with (
        own_picker(tmp_path, full, sheddable=frozenset({"batch"})) as own,
        calling(Target(own.address, False, ())) as caller,
        asyncio.timeout(20),
    ):
        assert (await caller.ask(CHAT, headers={header: value})).status == 0, "there is room"
        held = [caller.exchange() for _ in ENDPOINTS]
        for one in held:
            await play(await one.__aenter__(), CHAT)
        pick = await caller.ask(CHAT, headers={header: value})
        assert pick.status == status
        if status:
            assert pick.code == "overloaded"
        assert (await caller.ask(CHAT)).status == 0, "what may not wait is placed all the same"
        for one in held:
            await one.__aexit__(None, None, None)
        await own.idle()
        assert (await caller.ask(CHAT, headers={header: value})).status == 0


# ---- other body modes ----


@pytest.mark.parametrize("last", [True, False])  # False where trailers follow
async def test_buffered_bodies(own: Own, own_caller: Caller, last: bool) -> None:
    async with own_caller.exchange() as exchange:
        await exchange.send(request_headers(modes=(BUFFERED, NONE)))
        assert (await exchange.reply()).WhichOneof("response") == "request_headers"
        await exchange.send(request_body(BODY, last=last))
        message = await exchange.reply()
        pick = picked(message, message.request_body.response)
        assert not message.request_body.response.HasField("body_mutation")
        assert pick.endpoints[0] in ENDPOINTS
        if not last:
            await exchange.send(trailers("request_trailers"))
            assert (await exchange.reply()).WhichOneof("response") == "request_trailers"
        await exchange.send(response_headers(200, served=pick.endpoints[0]))
        await exchange.reply()
        await exchange.finish()
    await own.idle()
    assert not own.settled[0].outcome.aborted, "the answer's body is not shown in this mode"
    assert own.records[0]["request"]["model"] == "base", "understood"


async def test_a_buffered_part_of_a_body_is_placed_without_being_understood(own: Own, own_caller: Caller) -> None:
    async with own_caller.exchange() as exchange:
        await exchange.send(request_headers(modes=(PARTIAL, STREAMED)), request_body(BODY[:20], last=False))
        await exchange.reply()
        message = await exchange.reply()
        assert picked(message, message.request_body.response).endpoints[0] in ENDPOINTS
        await exchange.finish()
    assert own.records[0].get("understanding") is None


@pytest.mark.parametrize("mode", [STREAMED, NONE])
async def test_streamed_bodies_are_placed_by_their_headers(own: Own, own_caller: Caller, mode: int) -> None:
    async with own_caller.exchange() as exchange:
        await exchange.send(request_headers(modes=(mode, STREAMED)))
        message = await exchange.reply()
        pick = picked(message, message.request_headers.response)
        assert "content-length" not in pick.headers
        if mode == STREAMED:
            for part, last in ((BODY[:9], False), (BODY[9:], True)):
                await exchange.send(request_body(part, last=last))
                reply = await exchange.reply()
                assert reply.WhichOneof("response") == "request_body"
                assert not reply.request_body.response.HasField("body_mutation")
        await exchange.send(response_headers(200), response_body(b"{}", last=True))
        assert (await exchange.reply()).WhichOneof("response") == "response_headers"
        reply = await exchange.reply()
        assert reply.WhichOneof("response") == "response_body"
        assert not reply.response_body.response.HasField("body_mutation")
        await exchange.finish()
    await own.idle()
    assert not own.settled[0].outcome.aborted


async def test_a_refusal_in_buffered_mode(own_caller: Caller) -> None:
    async with own_caller.exchange() as exchange:
        await exchange.send(request_headers(modes=(BUFFERED, NONE)))
        await exchange.reply()
        await exchange.send(request_body(b"{", last=True))
        assert refusal(await exchange.reply()).status == 400
        assert await exchange.over() is grpc.StatusCode.OK
