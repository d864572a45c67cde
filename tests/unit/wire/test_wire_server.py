"""The server against gRPC's own client (C core), over a Unix socket and over TCP."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from ralb_extproc.wire import Call, Limits, Server, Status
from ralb_extproc.wire import server as server_module

MIB = 1024 * 1024
KEEPALIVE = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
OPTIONS = [("grpc.max_receive_message_length", 64 * MIB), ("grpc.max_send_message_length", 64 * MIB)]


class Echo:
    """Sends everything back and remembers what it was told."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.said: list[bytes] = []
        self.ended = self.was_lost = 0

    def message(self, data: bytes) -> None:
        self.said.append(data)
        if data == b"raise":
            raise RuntimeError("on purpose")
        if data == b"refuse":
            self.call.finish(Status.INVALID_ARGUMENT, "100% no: \N{SNOWMAN}")
        self.call.send(data)

    def end(self) -> None:
        self.ended += 1
        if self.said[-1:] == [b"raise at end"]:
            raise RuntimeError("on purpose")
        if self.said[-1:] != [b"stay"]:
            self.call.finish()

    def lost(self) -> None:
        self.was_lost += 1
        if self.said[-1:] == [b"raise when lost"]:
            raise RuntimeError("on purpose")


class Served:
    def __init__(self, limits: Limits) -> None:
        self.calls: list[Echo] = []
        self.server = Server(limits)
        self.server.add("/test.Echo/Talk", self._open)

    def _open(self, call: Call) -> Echo:
        if call.metadata.get("x-raise"):
            raise RuntimeError("on purpose")
        self.calls.append(Echo(call))
        return self.calls[-1]


@contextlib.asynccontextmanager
async def serve(address: str, limits: Limits | None = None) -> AsyncIterator[tuple[Served, grpc.aio.Channel]]:
    served = Served(limits or Limits())
    real = await served.server.start(address)
    try:
        async with grpc.aio.insecure_channel(real, options=OPTIONS) as channel:
            yield served, channel
    finally:
        await served.server.stop(0)


def talk(channel: grpc.aio.Channel, **options: object) -> grpc.aio.StreamStreamCall:
    return channel.stream_stream("/test.Echo/Talk")(**options)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s" if request.param == "unix" else "127.0.0.1:0"


async def test_many_calls_at_once_each_get_their_own_answers(address: str) -> None:
    async def one(channel: grpc.aio.Channel, i: int) -> None:
        call = talk(channel, metadata=(("x-number", str(i)),))
        for j in range(3):
            data = f"{i}.{j}".encode() * (1 + i * 37 % 5000)
            await call.write(data)
            assert await call.read() == data
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK

    async with serve(address) as (served, channel):
        await asyncio.gather(*(one(channel, i) for i in range(300)))
        assert sorted(int(echo.call.metadata["x-number"]) for echo in served.calls) == list(range(300))
        assert {(echo.ended, echo.was_lost) for echo in served.calls} == {(1, 0)}
        assert all(peer.connection.calls == 0 for peer in served.server.peers)


async def test_large_messages_both_ways(address: str) -> None:
    data = bytes(range(256)) * (16 * MIB // 256)
    async with serve(address) as (served, channel):
        call = talk(channel)
        for _ in range(2):
            await call.write(data)
            assert await call.read() == data
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
        assert [len(said) for said in served.calls[0].said] == [len(data)] * 2


async def test_more_large_messages_at_once_than_fit_the_windows_do_not_stall_each_other() -> None:
    async def one(channel: grpc.aio.Channel) -> grpc.StatusCode:
        call = channel.stream_stream("/test.Echo/Talk")(iter([bytes(2 * MIB)]))
        try:
            async for data in call:
                assert len(data) == 2 * MIB
        except grpc.aio.AioRpcError:
            pass
        return await call.code()

    async with serve("127.0.0.1:0", Limits(buffered=5 * MIB)) as (served, channel):
        codes = await asyncio.wait_for(asyncio.gather(*(one(channel) for _ in range(12))), 60)
        assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert grpc.StatusCode.OK in codes
        (peer,) = served.server.peers
        assert (peer.connection.calls, peer.connection.kept) == (0, 0)


async def test_a_clients_cancel_is_told_once(address: str) -> None:
    async with serve(address) as (served, channel):
        call = talk(channel)
        await call.write(b"x")
        assert await call.read() == b"x"
        call.cancel()
        await until(lambda: served.calls[0].was_lost == 1)
        assert served.calls[0].ended == 0
        served.calls[0].call.send(b"to nobody")
        served.calls[0].call.finish()
        await still_serves(channel)


async def test_a_passed_deadline_is_told_once(address: str) -> None:
    async with serve(address) as (served, channel):
        call = talk(channel, timeout=0.3)
        await call.write(b"stay")
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: served.calls[0].was_lost == 1)


async def still_serves(channel: grpc.aio.Channel) -> None:
    call = talk(channel, wait_for_ready=True)
    await call.write(b"still there?")
    assert await asyncio.wait_for(call.read(), 20) == b"still there?"
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


async def test_an_unknown_method_is_unimplemented(address: str) -> None:
    async with serve(address) as (_, channel):
        call = channel.stream_stream("/test.Echo/Other")()
        assert await call.code() == grpc.StatusCode.UNIMPLEMENTED
        assert await call.details() == "there is no /test.Echo/Other"
        await still_serves(channel)


async def test_a_message_over_the_limit_fails_that_call_alone(address: str) -> None:
    async with serve(address, Limits(message=1000)) as (served, channel):
        other = talk(channel)
        await other.write(bytes(1000))
        assert await other.read() == bytes(1000)
        call = talk(channel)
        await call.write(bytes(1001))
        assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await call.details() == "a message of 1001 bytes; 1000 are allowed"
        big = talk(channel)
        await big.write(bytes(3 * MIB))
        assert await big.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert [echo.was_lost for echo in served.calls] == [0, 1, 1]
        # Far more than a stream's window in small messages: it is given back.
        for _ in range(300):
            await other.write(bytes(1000))
            assert await other.read() == bytes(1000)
        await other.done_writing()
        assert await other.code() == grpc.StatusCode.OK


async def test_status_text_and_metadata_arrive(address: str) -> None:
    async with serve(address) as (served, channel):
        call = talk(channel, metadata=(("x-one", "1"), ("x-two", "a, b"), ("x-two", "c")))
        await call.write(b"refuse")
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == "100? no: ?"
        got = served.calls[0].call.metadata
        assert (got["x-one"], got["x-two"], served.calls[0].call.path) == ("1", "c", "/test.Echo/Talk")
        assert (served.calls[0].ended, served.calls[0].was_lost) == (0, 0)


@pytest.mark.parametrize("when", ["open", "message", "end", "lost"])
async def test_a_handler_that_raises_fails_its_own_call_alone(when: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serve("127.0.0.1:0") as (served, channel):
        other = talk(channel)
        await other.write(b"before")
        assert await other.read() == b"before"
        caplog.set_level(logging.ERROR, "ralb_extproc.wire")
        bad = talk(channel, metadata=(("x-raise", "1"),) if when == "open" else ())
        if when == "lost":
            await bad.write(b"raise when lost")
            await bad.read()
            bad.cancel()
        else:
            if when != "open":
                await bad.write(b"raise" if when == "message" else b"raise at end")
                await bad.done_writing()
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await bad.read():  # the status comes after what was sent
                    pass
            assert await bad.code() == grpc.StatusCode.INTERNAL
        await until(lambda: any("/test.Echo/Talk" in record.message for record in caplog.records))
        assert all(record.exc_info for record in caplog.records)
        if when != "open":
            assert served.calls[-1].was_lost == 1
        await other.write(b"after")
        assert await other.read() == b"after"
        await other.done_writing()
        assert await other.code() == grpc.StatusCode.OK
        assert len(served.server.peers) == 1


async def test_stop_lets_open_calls_end_and_takes_no_new_ones(address: str) -> None:
    async with serve(address) as (served, channel):
        call = talk(channel)
        await call.write(b"a")
        assert await call.read() == b"a"
        stop = asyncio.create_task(served.server.stop(20))
        await until(lambda: served.server.stopping)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk(channel, timeout=10).read()
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not stop.done()
        await call.write(b"b")
        assert await call.read() == b"b"
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
        await asyncio.wait_for(stop, 10)
        assert (len(served.calls), served.calls[0].was_lost, served.server.peers) == (1, 0, set())


async def test_stop_ends_what_is_open_after_the_grace(address: str) -> None:
    async with serve(address) as (served, channel):
        call = talk(channel)
        await call.write(b"stay")
        await call.read()
        await asyncio.wait_for(served.server.stop(0.05), 10)
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
        assert (served.calls[0].was_lost, served.server.peers) == (1, set())


async def test_a_client_comes_back_after_a_restart_on_the_same_path(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/s"
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(path, options=options) as channel:
        for _ in range(2):
            served = Served(Limits())
            await served.server.start(path)
            await still_serves(channel)
            await served.server.stop(0)


async def test_keepalive_pings_are_answered() -> None:
    options = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_timeout_ms", 500),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    served = Served(Limits())
    real = await served.server.start("127.0.0.1:0")
    pings = 0
    async with grpc.aio.insecure_channel(real, options=options) as channel:
        call = talk(channel)
        await call.write(b"stay")
        await call.read()
        (peer,) = served.server.peers
        receive = peer.connection.receive

        def counted(data: bytes) -> None:
            nonlocal pings
            pings += data[3] == 6 and not data[4] & 1
            receive(data)

        peer.connection.receive = counted  # type: ignore[method-assign]
        await until(lambda: pings >= 3)
        await call.write(b"alive")
        assert await call.read() == b"alive"
        assert served.calls[0].was_lost == 0
    await served.server.stop(0)


async def test_a_peer_that_breaks_the_protocol_is_cut_off_and_others_go_on(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(Limits())
    real = await served.server.start(address)
    if real.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(real.removeprefix("unix:"))
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(real.rpartition(":")[2]))
    async with grpc.aio.insecure_channel(real) as channel:
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        said = await asyncio.wait_for(reader.read(), 10)
        assert said[-17 + 3] == 7  # GOAWAY is the last frame
        assert "not HTTP/2" in caplog.text
        writer.close()
        await still_serves(channel)
    await served.server.stop(0)


async def test_a_peer_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_MAX_UNSENT", 4 * MIB)
    served = Served(Limits())
    real = await served.server.start("127.0.0.1:0")
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", int(real.rpartition(":")[2]))) as client:
        client.setblocking(False)
        ping = bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + bytes(8)
        await loop.sock_sendall(client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        sent = 0
        with pytest.raises(ConnectionError):  # noqa: PT012
            while sent < 256 * MIB:
                await asyncio.wait_for(loop.sock_sendall(client, ping * 10_000), 10)
                sent += len(ping) * 10_000
    await until(lambda: not served.server.peers)
    await served.server.stop(0)


@pytest.mark.parametrize("address", ["127.0.0.1:x", "nonsense"])
async def test_a_bad_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError):
        await Server().start(address)


async def test_ipv6_addresses_stay_usable() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 here")
    async with serve("[::1]:0") as (_, channel):
        await still_serves(channel)


async def test_peers_that_fall_silent_are_asked_whether_they_live() -> None:
    server = Server()
    address = await server.start("127.0.0.1:0")
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    try:
        await until(lambda: bool(server.peers))
        (peer,) = server.peers
        assert peer._transport is not None
        connection = peer._transport.get_extra_info("socket")
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
            asked = [connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in KEEPALIVE]
            assert asked[0] + asked[1] * asked[2] <= 60
    finally:
        writer.close()
        await server.stop(0)
