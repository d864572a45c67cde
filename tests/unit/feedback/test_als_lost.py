import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from ralb_extproc.feedback import AccessLogService
from ralb_extproc.wire import Server


async def _until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
async def service() -> AsyncIterator[tuple[AccessLogService, grpc.aio.Channel, Server]]:
    service, server = AccessLogService(lambda _: None), Server()
    service.add_to(server)
    address = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(address) as channel:
        yield service, channel, server
    await server.stop(0)


async def test_it_is_known_when_the_last_stream_ended(
    service: tuple[AccessLogService, grpc.aio.Channel, Server],
) -> None:
    log, channel, _ = service
    stub = als_pb2_grpc.AccessLogServiceStub(channel)
    calls = [stub.StreamAccessLogs(), stub.StreamAccessLogs()]
    for call in calls:
        await call.write(als_pb2.StreamAccessLogsMessage())
    await _until(lambda: log.streams == 2)
    await calls[0].done_writing()
    await calls[0]
    assert (log.streams, log.lost_at) == (1, None)
    calls[1].cancel()
    await _until(lambda: log.streams == 0)
    first = log.lost_at
    assert first is not None
    # A new one does not bring back what the old ones might have said.
    await stub.StreamAccessLogs().write(als_pb2.StreamAccessLogsMessage())
    await _until(lambda: log.streams == 1)
    assert log.lost_at == first


@pytest.mark.parametrize("how", ["not a message", "connection", "stop"])
async def test_however_a_stream_ends_it_is_counted_once(
    service: tuple[AccessLogService, grpc.aio.Channel, Server], how: str
) -> None:
    log, channel, server = service
    call = channel.stream_unary("/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs")()
    await call.write(b"")
    await _until(lambda: log.streams == 1)
    if how == "not a message":
        await call.write(b"\xff\xff")
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
    elif how == "connection":
        await channel.close()
    else:
        await server.stop(0)
    await _until(lambda: log.streams == 0)
    assert log.lost_at is not None
