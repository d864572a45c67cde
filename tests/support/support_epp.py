"""The gateway's side of the Endpoint Picker Protocol: one stream played message by message, every reply checked as it comes."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ep
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as ep_grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

DESTINATION = "x-gateway-destination-endpoint"
SUBSET = ("envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset")
SERVED = ("envoy.lb", "x-gateway-destination-endpoint-served")
MAX_PIECE = 62_000
LIMIT = 20.0
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
CHAT = {"model": "base", "messages": [{"role": "user", "content": "hello"}]}


@dataclass(frozen=True)
class Target:
    """A picker: where it is, and the endpoints it is known to pick from."""

    address: str
    tls: bool
    endpoints: tuple[str, ...]
    health: str = ""


@dataclass
class Pick:
    """What a picker said to a request.

    Attributes:
        status: of an immediate response; 0 if the request was placed.
        endpoints: in order.
        headers: set on the request (or on the immediate response).
        removed: request headers removed.
        body: given back; None if none was.
        pieces: sizes of its parts.
        trailers: whether request trailers were answered.
    """

    status: int = 0
    endpoints: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    body: bytes | None = None
    pieces: list[int] = field(default_factory=list)
    trailers: bool = False

    @property
    def code(self) -> str:
        assert self.body is not None
        return str(json.loads(self.body)["error"]["code"])


def request_headers(
    path: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    last: bool = False,
    subset: object = None,
    modes: tuple[int, int] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ep.ProcessingRequest:
    message = ep.ProcessingRequest()
    said = {":method": method, ":path": path, ":authority": "models.example.com", ":scheme": "http"}
    if method == "POST":
        said["content-type"] = "application/json"
    add_headers(message.request_headers, {**said, **(headers or {})})
    message.request_headers.end_of_stream = last
    if subset is not None:
        message.metadata_context.filter_metadata[SUBSET[0]].update({SUBSET[1]: subset})
    if modes is not None:
        message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = modes
    return message


def request_body(data: bytes, *, last: bool) -> ep.ProcessingRequest:
    return ep.ProcessingRequest(request_body=ep.HttpBody(body=data, end_of_stream=last))


def response_headers(
    status: int = 200, *, served: str = "", last: bool = False, headers: Mapping[str, str] | None = None
) -> ep.ProcessingRequest:
    message = ep.ProcessingRequest()
    add_headers(message.response_headers, {":status": str(status), **(headers or {})})
    message.response_headers.end_of_stream = last
    if served:
        message.metadata_context.filter_metadata[SERVED[0]].update({SERVED[1]: served})
    return message


def response_body(data: bytes, *, last: bool) -> ep.ProcessingRequest:
    return ep.ProcessingRequest(response_body=ep.HttpBody(body=data, end_of_stream=last))


def trailers(kind: str) -> ep.ProcessingRequest:
    message = ep.ProcessingRequest()
    header = getattr(message, kind).trailers.headers.add()
    header.key, header.raw_value = "x-checksum", b"1"
    return message


def add_headers(message: Any, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        header = message.headers.headers.add()
        header.key, header.raw_value = name, value.encode()


def set_headers(mutation: Any) -> dict[str, str]:
    return {
        option.header.key.lower(): (option.header.raw_value or option.header.value.encode()).decode()
        for option in mutation.set_headers
    }


class Exchange:
    """One stream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, *messages: ep.ProcessingRequest) -> None:
        for message in messages:
            await asyncio.wait_for(self._call.write(message), LIMIT)

    async def reply(self) -> ep.ProcessingResponse:
        """The next message of the picker."""
        message = await self._read()
        assert message is not grpc.aio.EOF, f"the picker ended the stream: {await self._call.code()}"
        return message

    async def _read(self) -> Any:
        try:
            return await asyncio.wait_for(self._call.read(), LIMIT)
        except grpc.aio.AioRpcError:
            return grpc.aio.EOF

    async def over(self) -> grpc.StatusCode:
        """The status, after making sure that the picker says nothing more."""
        message = await self._read()
        assert message is grpc.aio.EOF, f"unexpected {message}"
        return await asyncio.wait_for(self._call.code(), LIMIT)

    async def finish(self) -> None:
        """End it as a gateway does when all is said; the picker must end it too, and well."""
        await self._call.done_writing()
        assert await self.over() is grpc.StatusCode.OK

    def cancel(self) -> None:
        self._call.cancel()

    async def placed(self, *, body: bool) -> Pick:
        """Read the replies to a whole request in full duplex and check their order; ``body``: one was sent."""
        first = await self.reply()
        if first.WhichOneof("response") == "immediate_response":
            return refusal(first)
        assert first.WhichOneof("response") == "request_headers", f"first of all the headers are answered: {first}"
        pick = picked(first, first.request_headers.response)
        while body:
            message = await self.reply()
            if message.WhichOneof("response") == "request_trailers":
                pick.trailers = True
                break
            part = self.piece(message, "request_body")
            pick.body = (pick.body or b"") + part.body
            pick.pieces.append(len(part.body))
            if part.end_of_stream:
                break
        return pick

    async def echo(self, data: bytes, *, last: bool) -> bytes:
        """Send a part of the answer and read what is given back for it."""
        await self.send(response_body(data, last=last))
        back, ended = b"", False
        while len(back) < len(data) or (last and not ended):
            part = self.piece(await self.reply(), "response_body")
            assert not ended
            back += part.body
            ended = part.end_of_stream
            assert last or not ended, "the end comes only with the end"
        return back

    @staticmethod
    def piece(message: ep.ProcessingResponse, kind: str) -> Any:
        """The streamed part in a reply to a body."""
        assert message.WhichOneof("response") == kind, f"expected {kind}: {message}"
        mutation = getattr(message, kind).response.body_mutation
        # Anything else in reply to a body is an error in full duplex.
        assert mutation.WhichOneof("mutation") == "streamed_response", message
        assert len(mutation.streamed_response.body) <= MAX_PIECE
        return mutation.streamed_response


def picked(message: ep.ProcessingResponse, common: Any) -> Pick:
    headers = set_headers(common.header_mutation)
    said = message.dynamic_metadata.fields["envoy.lb"].struct_value.fields[DESTINATION].string_value
    assert said, f"the pick is not in the metadata: {message}"
    assert headers.get(DESTINATION) == said, "header and metadata say the same"
    assert common.clear_route_cache, "without clearing the route cache the pick comes too late"
    return Pick(
        endpoints=said.split(","),
        headers=headers,
        removed=[name.lower() for name in common.header_mutation.remove_headers],
    )


def refusal(message: ep.ProcessingResponse) -> Pick:
    answer = message.immediate_response
    return Pick(status=int(answer.status.code), headers=set_headers(answer.headers), body=answer.body)


class Caller:
    """A gateway's channel to a picker."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._stub = ep_grpc.ExternalProcessorStub(channel)

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[Exchange]:
        """A stream, cancelled at the end if it still runs."""
        call = self._stub.Process()
        try:
            yield Exchange(call)
        finally:
            call.cancel()

    async def ask(
        self, body: bytes | Mapping[str, Any] | None = None, *, chunks: Sequence[bytes] = (), **headers: Any
    ) -> Pick:
        """A request up to its pick; the stream is ended then. Without body and chunks, one of headers alone."""
        async with self.exchange() as exchange:
            pick = await play(exchange, body, chunks=chunks, **headers)
            if pick.status:
                assert await exchange.over() is grpc.StatusCode.OK
            else:
                await exchange.finish()
            return pick

    async def health(self, service: str) -> int | grpc.StatusCode:
        """``Check``: 1 serving, 2 not serving, or the error's code."""
        check = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        try:
            return int((await check(StringValue(value=service), timeout=LIMIT)).value)
        except grpc.aio.AioRpcError as error:
            return error.code()

    def watch(self, service: str) -> Any:
        """``Watch``: a call whose messages have ``value``."""
        stream = self.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        return stream(StringValue(value=service))


async def play(
    exchange: Exchange,
    body: bytes | Mapping[str, Any] | None = None,
    *,
    chunks: Sequence[bytes] = (),
    **headers: Any,
) -> Pick:
    """A request up to its pick, on an open stream."""
    if body is not None:
        chunks = [body if isinstance(body, bytes) else json.dumps(body).encode()]
    if not chunks:
        await exchange.send(request_headers(last=True, **headers))
        return await exchange.placed(body=False)
    await exchange.send(request_headers(**headers))
    writing = asyncio.create_task(_write(exchange, chunks))
    try:
        return await exchange.placed(body=True)
    finally:
        # After a refusal the picker ends the stream, and what is still to be written has nowhere to go.
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _write(exchange: Exchange, chunks: Iterable[bytes]) -> None:
    parts = list(chunks)
    for position, part in enumerate(parts):
        await exchange.send(request_body(part, last=position == len(parts) - 1))


@asynccontextmanager
async def calling(target: Target, address: str = "") -> AsyncIterator[Caller]:
    """A channel to a picker; of TLS nothing is verified, as gateways do."""
    async with (
        plain(address or target.address, tls=target.tls) as where,
        grpc.aio.insecure_channel(where, options=OPTIONS) as channel,
    ):
        yield Caller(channel)


@asynccontextmanager
async def plain(address: str, *, tls: bool) -> AsyncIterator[str]:
    """An address without TLS for one that may have it. gRPC's own client cannot leave certificates unverified."""
    if not tls:
        yield address
        return
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    open_now: dict[asyncio.StreamWriter, None] = {}
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers = [writer]
        open_now[writer] = None
        try:
            there_reader, there_writer = await asyncio.open_connection(host, int(port), ssl=context)
            writers.append(there_writer)
            open_now[there_writer] = None
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        except OSError:
            pass  # the picker is not there: the gateway's connection is closed
        finally:
            for one in writers:
                one.transport.abort()
                open_now.pop(one, None)
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in tuple(open_now):
            writer.transport.abort()
        # Copying ends when connections do.
        await asyncio.gather(*tuple(tasks), return_exceptions=True)
        await server.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
