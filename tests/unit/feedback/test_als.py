import asyncio

import grpc
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from ralb_extproc.feedback import AccessLogService
from ralb_extproc.wire import Server


def message(*ids):
    out = als_pb2.StreamAccessLogsMessage()
    for request_id in ids:
        entry = accesslog_pb2.HTTPAccessLogEntry()
        entry.request.request_id = request_id
        out.http_logs.log_entry.append(entry)
    return out


async def test_entries_reach_the_sink_and_a_failing_sink_does_not_end_the_stream():
    got = []
    done = asyncio.Event()

    def sink(outcome):
        if outcome.request_id == "bad":
            raise RuntimeError("sink")
        got.append(outcome.request_id)
        if outcome.request_id == "last":
            done.set()

    service = AccessLogService(sink)
    server = Server()
    service.add_to(server)
    address = await server.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            call = als_pb2_grpc.AccessLogServiceStub(channel).StreamAccessLogs()
            await call.write(message("a", "bad", "b"))
            await call.write(als_pb2.StreamAccessLogsMessage())
            await call.write(message(*[f"x{i}" for i in range(100)], "last"))
            await asyncio.wait_for(done.wait(), 10)
            assert service.streams == 1
            await call.done_writing()
            assert isinstance(await call, als_pb2.StreamAccessLogsResponse)
    finally:
        await server.stop(0)
    assert got == ["a", "b", *[f"x{i}" for i in range(100)], "last"]
    assert (service.received, service.skipped, service.streams) == (104, 1, 0)
