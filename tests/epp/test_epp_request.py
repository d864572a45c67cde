"""The request's side of the protocol, for any picker."""

import asyncio
import json
import random

import grpc
import pytest
from support_epp import CHAT, Caller, Target, play, request_body, request_headers, response_headers, trailers

KIB = 1024


def chat(size: int) -> bytes:
    """A chat body of exactly so many bytes."""
    frame = {"model": "base", "messages": [{"role": "user", "content": ""}]}
    empty = len(json.dumps(frame))
    words = "".join(random.Random(size).choices("abcdefgh ", k=size - empty))
    frame["messages"] = [{"role": "user", "content": words}]
    body = json.dumps(frame).encode()
    assert len(body) == size
    return body


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def check_endpoints(target: Target, endpoints: list[str]) -> None:
    assert endpoints
    assert set(endpoints) <= set(target.endpoints)
    assert len(set(endpoints)) == len(endpoints), "no endpoint twice"


async def test_headers_alone_are_answered_at_once(caller: Caller, target: Target) -> None:
    pick = await caller.ask(path="/v1/models", method="GET")
    assert pick.status == 0
    check_endpoints(target, pick.endpoints)
    assert "content-length" not in pick.headers


async def test_a_body_is_given_back_after_the_headers(caller: Caller, target: Target) -> None:
    pick = await caller.ask(CHAT)
    assert pick.status == 0
    check_endpoints(target, pick.endpoints)
    assert pick.body is not None
    assert json.loads(pick.body) == CHAT
    assert pick.headers["content-length"] == str(len(pick.body))


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        (300, 1),
        (61_999, 16 * KIB),
        (62_000, 62_000),
        (62_001, 62_001),
        (124_000, 16 * KIB),
        (1_048_577, 65_536),
        (3_000_000, 3_000_000),
        (10_000_000, 128 * KIB),
    ],
)
async def test_bodies_of_all_sizes_come_back_whole(caller: Caller, size: int, chunk: int) -> None:
    body = chat(size)
    pick = await caller.ask(chunks=cut(body, chunk))
    assert pick.status == 0
    assert pick.body is not None
    assert json.loads(pick.body) == json.loads(body)
    assert pick.headers["content-length"] == str(len(pick.body))
    assert all(pick.pieces[:-1]), "no empty piece but the last"


async def test_the_end_may_come_by_itself(caller: Caller) -> None:
    body = json.dumps(CHAT).encode()
    pick = await caller.ask(chunks=[body[:10], b"", body[10:], b""])
    assert pick.body is not None
    assert json.loads(pick.body) == CHAT


async def test_a_repeated_last_chunk_is_passed_over(caller: Caller) -> None:
    body = json.dumps(CHAT).encode()
    async with caller.exchange() as exchange:
        await exchange.send(request_headers(), request_body(body, last=True), request_body(body, last=True))
        pick = await exchange.placed(body=True)
        assert pick.body is not None
        assert json.loads(pick.body) == CHAT
        await exchange.send(request_body(b"", last=True), response_headers(200))
        assert (await exchange.reply()).WhichOneof("response") == "response_headers"


async def test_trailers_end_a_request_too(caller: Caller) -> None:
    async with caller.exchange() as exchange:
        await exchange.send(
            request_headers(), request_body(json.dumps(CHAT).encode(), last=False), trailers("request_trailers")
        )
        pick = await exchange.placed(body=True)
        assert pick.trailers
        assert pick.body is not None
        assert json.loads(pick.body) == CHAT


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"model": "base", "messages"', b'{"messages": []}', b"\xff\xfe", b"null"]
)
async def test_a_body_that_cannot_be_read_is_answered_with_400(caller: Caller, body: bytes) -> None:
    pick = await caller.ask(chunks=[body])
    assert pick.status == 400
    assert pick.body


async def test_many_streams_at_once_on_one_connection(caller: Caller, target: Target) -> None:
    bodies = [chat(200 + 997 * number) for number in range(60)]

    async def one(body: bytes) -> None:
        pick = await caller.ask(chunks=cut(body, 4096))
        check_endpoints(target, pick.endpoints)
        assert pick.body is not None
        assert json.loads(pick.body) == json.loads(body)

    async with asyncio.TaskGroup() as group:
        for body in bodies:
            group.create_task(one(body))


async def test_a_slow_request_holds_up_nobody(caller: Caller) -> None:
    async with caller.exchange() as slow:
        body = json.dumps(CHAT).encode()
        await slow.send(request_headers(), request_body(body[:5], last=False))
        assert (await caller.ask(CHAT)).status == 0
        await slow.send(request_body(body[5:], last=True))
        assert (await slow.placed(body=True)).status == 0


@pytest.mark.parametrize("after", ["headers", "part", "pick", "response"])
async def test_aborted_requests_leave_the_picker_well(caller: Caller, after: str) -> None:
    for _ in range(20):
        async with caller.exchange() as exchange:
            if after in ("pick", "response"):
                assert (await play(exchange, CHAT)).status == 0
                if after == "response":
                    await exchange.send(response_headers(200))
                    await exchange.reply()
            else:
                await exchange.send(request_headers())
                if after == "part":
                    await exchange.send(request_body(b'{"model":', last=False))
            exchange.cancel()
    assert (await caller.ask(CHAT)).status == 0


async def test_a_gateway_that_gives_up_is_let_go(caller: Caller) -> None:
    async with caller.exchange() as exchange:
        await exchange.send(request_headers(), request_body(b"{", last=False))
        await exchange.finish()


async def test_the_method_is_where_gateways_look_for_it(caller: Caller) -> None:
    call = caller.channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Nothing")()
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
