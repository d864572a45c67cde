"""The answer's side of the protocol, for any picker."""

import json

import pytest
from support_epp import CHAT, Caller, Exchange, play, request_headers, response_body, response_headers, trailers

EVENTS = [
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"b"}}]}\n\ndata: {"choices":[{"del',
    b'ta":{"content":"c"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n',
    b"data: [DONE]\n\n",
]
JSON = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()


async def headers(exchange: Exchange, status: int = 200, **options: object) -> None:
    """Send response headers and read their reply."""
    await exchange.send(response_headers(status, **options))
    reply = await exchange.reply()
    assert reply.WhichOneof("response") == "response_headers", reply


async def test_an_answer_in_one_part(caller: Caller) -> None:
    async with caller.exchange() as exchange:
        pick = await play(exchange, CHAT)
        await headers(exchange, served=pick.endpoints[0], headers={"content-type": "application/json"})
        assert await exchange.echo(JSON, last=True) == JSON
        await exchange.finish()


async def test_parts_of_a_json_answer_all_come_back(caller: Caller) -> None:
    async with caller.exchange() as exchange:
        await play(exchange, CHAT)
        await headers(exchange, headers={"content-type": "application/json"})
        # A picker may keep parts of a JSON answer until its end; what matters is what there is then.
        await exchange.send(*(response_body(JSON[i : i + 10], last=False) for i in range(0, len(JSON), 10)))
        await exchange.send(response_body(b"", last=True))
        back = b""
        while True:
            part = exchange.piece(await exchange.reply(), "response_body")
            back += part.body
            if part.end_of_stream:
                break
        assert back == JSON
        await exchange.finish()


async def test_each_event_of_a_stream_comes_back_before_the_next(caller: Caller) -> None:
    async with caller.exchange() as exchange:
        pick = await play(exchange, {**CHAT, "stream": True})
        await headers(exchange, served=pick.endpoints[0], headers={"content-type": "text/event-stream"})
        for event in EVENTS:
            assert await exchange.echo(event, last=False) == event
        assert await exchange.echo(b"", last=True) == b""
        await exchange.finish()


async def test_large_parts_come_back_in_pieces(caller: Caller) -> None:
    async with caller.exchange() as exchange:
        await play(exchange, {**CHAT, "stream": True})
        await headers(exchange, headers={"content-type": "text/event-stream"})
        part = b"data: " + b"x" * 500_000 + b"\n\n"
        assert await exchange.echo(part, last=False) == part
        assert await exchange.echo(part, last=True) == part
        await exchange.finish()


async def test_a_repeated_last_part_is_passed_over(caller: Caller) -> None:
    async with caller.exchange() as exchange:
        await play(exchange, CHAT)
        await headers(exchange)
        assert await exchange.echo(JSON, last=True) == JSON
        await exchange.send(response_body(JSON, last=True), response_body(b"", last=True))
        await exchange.finish()


@pytest.mark.parametrize("body", [JSON, b""])
async def test_trailers_are_answered(caller: Caller, body: bytes) -> None:
    async with caller.exchange() as exchange:
        await play(exchange, CHAT)
        await headers(exchange, headers={"content-type": "text/event-stream"})
        if body:
            assert await exchange.echo(body, last=False) == body
        await exchange.send(trailers("response_trailers"))
        assert (await exchange.reply()).WhichOneof("response") == "response_trailers"
        await exchange.finish()


@pytest.mark.parametrize("status", [204, 404, 429, 503])
async def test_an_answer_without_a_body(caller: Caller, status: int) -> None:
    async with caller.exchange() as exchange:
        await play(exchange, CHAT)
        await headers(exchange, status, last=True)
        await exchange.finish()


async def test_an_answer_to_headers_alone(caller: Caller) -> None:
    async with caller.exchange() as exchange:
        await play(exchange, path="/v1/models", method="GET")
        await headers(exchange)
        assert await exchange.echo(b"{}", last=True) == b"{}"
        await exchange.finish()


async def test_a_gateway_may_answer_before_the_request_is_complete(caller: Caller) -> None:
    """Its own refusals pass by too: too slow, too large, no route."""
    async with caller.exchange() as exchange:
        await exchange.send(request_headers())
        await headers(exchange, 408)
        assert await exchange.echo(b"too slow", last=True) == b"too slow"
        await exchange.finish()


@pytest.mark.parametrize("served", ["", "10.99.0.1:1", "not an address", "127.0.0.1"])
async def test_whoever_served_it_is_fine(caller: Caller, served: str) -> None:
    async with caller.exchange() as exchange:
        await play(exchange, CHAT)
        await headers(exchange, served=served)
        assert await exchange.echo(JSON, last=True) == JSON
        await exchange.finish()
