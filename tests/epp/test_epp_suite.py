"""The suite itself: pickers that break a rule do not pass it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ep
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as ep_grpc
from support_epp import CHAT, MAX_PIECE, OPTIONS, Caller, Target, calling, play, response_headers

from ralb_extproc.epp import replies

PICK = "127.0.0.11:8000"
Replies = Iterator[ep.ProcessingResponse]


def right(body: bytes) -> Replies:
    yield replies.headers_reply(PICK, (), len(body))
    yield from replies.pieces(body, answer=False, last=True)


def no_metadata(body: bytes) -> Replies:
    first, *rest = right(body)
    first.ClearField("dynamic_metadata")
    yield from (first, *rest)


def other_metadata(body: bytes) -> Replies:
    first, *rest = right(body)
    first.dynamic_metadata.fields["envoy.lb"].struct_value.update({"x-gateway-destination-endpoint": "127.0.0.12:8000"})
    yield from (first, *rest)


def no_header(body: bytes) -> Replies:
    first, *rest = right(body)
    first.request_headers.response.ClearField("header_mutation")
    yield from (first, *rest)


def route_kept(body: bytes) -> Replies:
    first, *rest = right(body)
    first.request_headers.response.clear_route_cache = False
    yield from (first, *rest)


def body_first(body: bytes) -> Replies:
    first, *rest = right(body)
    yield from (*rest, first)


def empty_headers_first(body: bytes) -> Replies:
    yield ep.ProcessingResponse(request_headers=ep.HeadersResponse())
    yield from right(body)


def empty_body_reply(body: bytes) -> Replies:
    yield next(right(body))
    yield ep.ProcessingResponse(request_body=ep.BodyResponse(response=ep.CommonResponse()))


def whole_body_reply(body: bytes) -> Replies:
    yield next(right(body))
    message = ep.ProcessingResponse()
    message.request_body.response.body_mutation.body = body
    yield message


def too_large_pieces(body: bytes) -> Replies:
    yield next(right(body))
    message = ep.ProcessingResponse()
    streamed = message.request_body.response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = body, True
    yield message


def ends_early(body: bytes) -> Replies:
    yield next(right(body))


BROKEN = [
    no_metadata,
    other_metadata,
    no_header,
    route_kept,
    body_first,
    empty_headers_first,
    empty_body_reply,
    whole_body_reply,
    too_large_pieces,
    ends_early,
]


class Scripted(ep_grpc.ExternalProcessorServicer):
    def __init__(self, script: Callable[[bytes], Replies]) -> None:
        self._script = script

    async def Process(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        body = b""
        async for request in requests:
            if request.WhichOneof("request") == "request_body":
                body += request.request_body.body
                if request.request_body.end_of_stream:
                    for reply in self._script(body):
                        yield reply
                    if self._script is ends_early:
                        return
            elif request.WhichOneof("request") == "response_headers":
                yield ep.ProcessingResponse(response_headers=ep.HeadersResponse())


@asynccontextmanager
async def scripted(script: Callable[[bytes], Replies]) -> AsyncIterator[Caller]:
    server = grpc.aio.server(options=OPTIONS)
    ep_grpc.add_ExternalProcessorServicer_to_server(Scripted(script), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with calling(Target(f"127.0.0.1:{port}", False, (PICK,))) as caller:
            yield caller
    finally:
        await server.stop(0)


BODY = CHAT | {"user": "x" * (2 * MAX_PIECE)}


async def test_a_picker_that_keeps_the_rules_passes() -> None:
    async with scripted(right) as caller, caller.exchange() as exchange:
        assert (await play(exchange, BODY)).endpoints == [PICK]
        await exchange.send(response_headers(200))
        await exchange.reply()


@pytest.mark.parametrize("script", BROKEN, ids=lambda script: script.__name__)
async def test_one_that_breaks_a_rule_does_not(script: Callable[[bytes], Replies]) -> None:
    async with scripted(script) as caller, caller.exchange() as exchange:
        with pytest.raises(AssertionError):
            await play(exchange, BODY)
