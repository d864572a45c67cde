import asyncio
import contextlib
import socket
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from ralb.v1.snapshot_pb2 import ENGINE_GENERIC, ENGINE_SGLANG, ENGINE_VLLM, Endpoint, Pool
from ralb_extproc.metrics import FetchError, Kind, Scraper
from ralb_extproc.metrics.http import MAX_BODY, Connection
from ralb_extproc.place import PodTable
from ralb_extproc.place import columns as col

FILLER = b"".join(b'vllm:e2e_request_latency_seconds_bucket{le="%d"} 1.0\n' % i for i in range(600))


def page(waiting=1, running=2):
    return b"vllm:num_requests_waiting %d\nvllm:num_requests_running %d\nvllm:kv_cache_usage_perc 0.5\n" % (
        waiting,
        running,
    )


def http(body, *, status=b"200 OK", headers=b""):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)


class Server:
    """A tiny HTTP server; ``answer`` gives the raw bytes for a request target, None hangs, "" closes."""

    def __init__(self, answer: Callable[[str], bytes | None]):
        self.answer = answer
        self.targets = []
        self.connections = 0
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        await self.stop()

    async def stop(self):
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.targets.append(head.split(b" ", 2)[1].decode())
                answer = self.answer(self.targets[-1])
                if answer is None:
                    await asyncio.sleep(30)
                elif not answer:
                    break
                else:
                    writer.write(answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


async def until(condition, seconds=15.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is state, not an event
            await asyncio.sleep(0.01)


def pool(*addresses, engine=ENGINE_VLLM, path="/metrics"):
    return Pool(id="ns/p", engine=engine, metrics_path=path, endpoints=[Endpoint(address=a) for a in addresses])


@contextlib.asynccontextmanager
async def scraping(*pools, **options):
    pods = PodTable()
    pods.update(pools, 0.0)
    scraper = Scraper(pods, **options)
    scraper.update(pools)
    try:
        yield pods, scraper
    finally:
        await scraper.stop()
        assert len(scraper) == 0


def value(pods, address, column):
    return float(pods.data[column, pods.slot("ns/p", address)])


async def test_readings_reach_the_table_over_one_connection():
    async with Server(lambda _: http(page(3, 4))) as server, scraping(pool(server.address)) as (pods, scraper):
        await until(lambda: scraper.scrapes >= 3)
        assert value(pods, server.address, col.WAITING) == 3
        assert value(pods, server.address, col.RUNNING) == 4
        assert value(pods, server.address, col.SCRAPED_AT) > 0
        assert server.connections == 1
        assert not scraper.errors


def test_on_the_event_loop_of_production():
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_readings_reach_the_table_over_one_connection())
        runner.run(test_refused_connections_mark_the_pod_and_an_answer_clears_it())


async def test_only_the_needed_series_are_asked_for():
    def answer(target):
        names = parse_qs(urlsplit(target).query)["name[]"]
        assert "vllm:num_requests_waiting" in names
        return http(page())

    async with Server(answer) as server, scraping(pool(server.address)) as (_, scraper):
        await until(lambda: scraper.scrapes >= 2)
        assert all("name%5B%5D=vllm%3Anum_requests_waiting" in t for t in server.targets)


async def test_what_prometheus_client_filters_is_enough():
    registry = CollectorRegistry()
    for name, number in (("num_requests_waiting", 3), ("num_requests_running", 4), ("kv_cache_usage_perc", 0.5)):
        Gauge(f"vllm:{name}", "x", ["engine"], registry=registry).labels("0").set(number)
    Gauge("vllm:unwanted", "x", registry=registry)
    Counter("vllm:prefix_cache_queries", "x", ["engine"], registry=registry).labels("0").inc(100)
    Counter("vllm:prefix_cache_hits", "x", ["engine"], registry=registry).labels("0").inc(40)
    pages = []

    def answer(target):
        names = parse_qs(urlsplit(target).query)["name[]"]
        pages.append(generate_latest(registry.restricted_registry(names)))
        return http(pages[-1])

    async with Server(answer) as server, scraping(pool(server.address)) as (pods, scraper):
        await until(lambda: scraper.scrapes >= 2)
        assert all("?" in target for target in server.targets)
        assert b"unwanted" not in pages[0]
        assert value(pods, server.address, col.RUNNING) == 4
        assert value(pods, server.address, col.RUNNING) == 4


@pytest.mark.parametrize("refusal", [http(b"", status=b"400 Bad Request"), http(b"# nothing by these names\n")])
async def test_a_server_that_does_not_filter_is_asked_for_the_whole_page(refusal):
    async with (
        Server(lambda t: refusal if "?" in t else http(FILLER + page())) as server,
        scraping(pool(server.address)) as (_, scraper),
    ):
        await until(lambda: scraper.scrapes >= 3)
        assert sum("?" in t for t in server.targets) == 1
        assert not scraper.missing()


async def test_missing_series_are_visible():
    body = page().replace(b"num_requests_waiting", b"num_requests_queued")
    async with Server(lambda _: http(body)) as server, scraping(pool(server.address)) as (pods, scraper):
        await until(lambda: scraper.scrapes >= 1)
        assert dict(scraper.missing()) == {("ns/p", "vllm:num_requests_waiting"): 1}
        assert value(pods, server.address, col.SCRAPED_AT) == -float("inf")


async def test_refused_connections_mark_the_pod_and_an_answer_clears_it():
    async with Server(lambda _: http(page())) as server:
        address = server.address
        async with scraping(pool(address)) as (pods, scraper):
            await until(lambda: scraper.scrapes >= 1)
            await server.stop()
            await until(lambda: value(pods, address, col.UNREACHABLE) == 1)
            assert scraper.failing() == {("ns/p", "refused"): 1}
            revived = await asyncio.start_server(Server(lambda _: http(page()))._serve, *address.split(":"))
            await until(lambda: value(pods, address, col.UNREACHABLE) == 0)
            assert value(pods, address, col.FAILURES) == 0
            revived.close()
            assert not scraper.failing()


async def test_a_hanging_pod_times_out_and_is_asked_again_one_at_a_time():
    async with Server(lambda _: None) as server, scraping(pool(server.address), timeout=0.05) as (pods, scraper):
        await until(lambda: scraper.errors[Kind.TIMEOUT] >= 2)
        assert value(pods, server.address, col.FAILURES) == 0
        assert server.connections == len(server.targets)


async def test_a_server_that_closes_idle_connections_costs_no_error():
    async with Server(lambda _: http(page())) as server, scraping(pool(server.address)) as (_, scraper):
        await until(lambda: scraper.scrapes >= 1)
        for writer in list(server._writers):
            writer.close()
        seen = scraper.scrapes
        await until(lambda: scraper.scrapes >= seen + 2)
        assert not scraper.errors
        assert server.connections == 2


async def test_gone_pods_are_left_alone_and_new_ones_found():
    async with (
        Server(lambda _: http(page())) as a,
        Server(lambda _: http(page(9, 9))) as b,
        scraping(pool(a.address)) as (pods, scraper),
    ):
        await until(lambda: scraper.scrapes >= 1)
        pods.update([pool(b.address)], 1.0)
        scraper.update([pool(b.address)])
        assert len(scraper) == 1
        await until(lambda: value(pods, b.address, col.WAITING) == 9)
        asked = len(a.targets)
        seen = scraper.scrapes
        await until(lambda: scraper.scrapes >= seen + 3)
        assert len(a.targets) == asked


async def test_pools_without_metrics_are_not_scraped():
    async with scraping(pool("127.0.0.1:1", engine=ENGINE_GENERIC)) as (_, scraper):
        assert len(scraper) == 0
    async with scraping(pool("127.0.0.1:1", path="")) as (_, scraper):
        assert len(scraper) == 0


async def test_sglang_is_asked_for_the_whole_page():
    body = b"sglang:num_running_reqs 1\nsglang:num_queue_reqs 2\nsglang:token_usage 0.1\n"
    async with (
        Server(lambda _: http(body)) as server,
        scraping(pool(server.address, engine=ENGINE_SGLANG)) as (pods, scraper),
    ):
        await until(lambda: scraper.scrapes >= 1)
        assert server.targets[0] == "/metrics"
        assert value(pods, server.address, col.WAITING) == 2


@pytest.mark.parametrize(("address", "path"), [("nonsense", "/metrics"), ("127.0.0.1:1", "/a\r\nb: c"), ("h:x", "/")])
async def test_unusable_targets_are_an_error_not_a_crash(address, path):
    async with scraping(pool(address, path=path)) as (_, scraper):
        await until(lambda: scraper.errors[Kind.ADDRESS] == 1)
        assert scraper.failing() == {("ns/p", "address"): 1}


async def test_500_pods_are_kept_up_with():
    """Everyone is read several times; how fast depends on the machine, so only the count within a bound is asserted."""
    async with Server(lambda _: http(page(1, 1))) as server:
        pools = [
            Pool(
                id=f"ns/{i}", engine=ENGINE_VLLM, metrics_path="/metrics", endpoints=[Endpoint(address=server.address)]
            )
            for i in range(500)
        ]
        async with scraping(*pools) as (pods, scraper):
            await until(lambda: scraper.scrapes >= 2000, seconds=60)
            read = [pods.data[col.SCRAPED_AT, pods.slot(p.id, server.address)] > 0 for p in pools]
            assert all(read)
            assert not scraper.errors
            assert server.connections == 500


class TestConnection:
    async def get(self, server, limit=2.0):
        host, port = server.address.split(":")
        connection = Connection(host, int(port))
        try:
            return await connection.get(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", limit)
        finally:
            connection.close()

    async def body(self, raw):
        async with Server(lambda _: raw) as server:
            return await self.get(server)

    async def kind(self, raw, limit=2.0):
        async with Server(lambda _: raw) as server:
            with pytest.raises(FetchError) as caught:
                await self.get(server, limit)
            return caught.value.kind

    async def test_chunked(self):
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
        assert await self.body(raw) == b"abc0123456789"

    async def test_chunks_that_look_like_the_end(self):
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n"
        assert await self.body(raw) == b"\r\n\r\n"

    async def test_empty(self):
        assert await self.body(http(b"")) == b""

    @pytest.mark.parametrize(
        ("raw", "kind"),
        [
            (http(b"x", status=b"404 Not Found"), Kind.STATUS),
            (http(b"x", status=b"302 Found"), Kind.STATUS),
            (b"SSH-2.0-OpenSSH\r\n\r\n", Kind.PROTOCOL),
            (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000, Kind.PROTOCOL),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", Kind.PROTOCOL),
            (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), Kind.TOO_LARGE),
            (http(b"x", headers=b"Content-Encoding: gzip\r\n"), Kind.PROTOCOL),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Kind.PROTOCOL),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n\r\n", Kind.PROTOCOL),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n\r\n\r\n", Kind.TOO_LARGE),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 80 + b"\r\n\r\n", Kind.PROTOCOL),
            (b"HTTP/1.1 200 OK\r\n\r\n" + b"z" * (MAX_BODY + 100_000), Kind.TOO_LARGE),
            (b"", Kind.CLOSED),
        ],
    )
    async def test_hostile(self, raw, kind):
        assert await self.kind(raw) is kind

    async def test_cut_off(self):
        assert await self.kind(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc", limit=0.1) is Kind.TIMEOUT

    async def test_more_than_announced_is_not_kept_alive(self):
        async with Server(lambda _: http(b"ab") + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison") as server:
            host, port = server.address.split(":")
            connection = Connection(host, int(port))
            request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            assert await connection.get(request, 2.0) == b"ab"
            assert await connection.get(request, 2.0) == b"ab"
            connection.close()
            assert server.connections == 2

    async def test_nobody_there(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        with pytest.raises(FetchError) as caught:
            await Connection("127.0.0.1", port).get(b"GET / HTTP/1.1\r\n\r\n", 2.0)
        assert caught.value.kind is Kind.REFUSED
