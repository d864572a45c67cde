"""The control plane against a real Envoy."""

import asyncio
import contextlib
import time

import aiohttp
import pytest
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401  # known to Any
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from support_ads_world import World, base, cluster, endpoints, listener, made, only_b, routes, upstream
from support_envoy import running_envoy, validate
from support_net import wait_until

from ralb_operator.bootstrap import bootstrap
from ralb_operator.publish import Outcome, Publisher
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ORDER, ROUTES, Resource

pytestmark = pytest.mark.envoy


@pytest.fixture
async def world(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        world = World(tmp_path)
        for name in ("one", "two", "three"):
            world.upstreams[name] = await stack.enter_async_context(upstream(name))
        world.session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)))
        await world.control_plane()
        start = bootstrap("envoy-under-test", world.address)
        world.envoy = await stack.enter_async_context(running_envoy(start, tmp_path, wait_ready=False))
        yield world
        await world.stop_control_plane()


async def test_first_config_reaches_traffic(world):
    await world.connected()
    report = await world.publish(*base(world))
    assert report.complete
    await wait_until(world.envoy.ready)
    await world.answers("/a", "one")
    await world.answers("/b", "two")
    (node,) = world.ads.nodes()
    assert node.node == "envoy-under-test"
    for type_url in (CLUSTER, ENDPOINTS, LISTENER, ROUTES):
        assert node.types[type_url].acked == {n: r.version for n, r in world.ads.get(type_url).items()}
    assert await world.envoy.stats("control_plane.connected_state") == {"control_plane.connected_state": 1}


async def test_empty_config_makes_envoy_ready_and_a_published_one_is_served_on_connecting(world, tmp_path):
    await world.connected()
    assert (await world.publish()).complete
    await wait_until(world.envoy.ready, 5)  # not after the 15 s Envoy waits for a silent server
    await world.publish(*base(world))
    folder = tmp_path / "second"
    folder.mkdir()
    async with running_envoy(bootstrap("second", world.address), folder, ready_timeout=10) as second:
        assert len(world.ads.nodes()) == 2
        assert "a::127.0.0.1" in await second.get("/clusters")


async def test_change_of_endpoints_reaches_traffic_at_once(world):
    await world.connected()
    await world.publish(*base(world))
    await world.answers("/a", "one")
    took = []
    for name in ("two", "three", "one", "two"):
        start = time.monotonic()
        report = await world.publish(*base(world, endpoints("a", world.upstreams[name])))
        assert report.complete
        await world.answers("/a", name)
        took.append(time.monotonic() - start)
    assert min(took) < 0.5, took


async def test_no_request_fails_while_everything_changes(world):
    await world.connected()
    await world.publish(*base(world))
    await world.answers("/a", "one")
    statuses, stop = [], asyncio.Event()

    async def ask():
        while not stop.is_set():
            statuses.append((await world.get("/"))[0])

    clients = [asyncio.create_task(ask()) for _ in range(4)]
    up = world.upstreams
    longest, deadline, rounds = 0.0, time.monotonic() + 3.0, 0
    while time.monotonic() < deadline:
        rounds += 1
        name = f"c{rounds}"
        new_pool = (cluster(name), endpoints(name, up["three"]))
        for change in (
            base(world, endpoints("a", up["three"], up["two"])),
            base(world, cluster("a", connect_timeout=f"{2 + rounds % 7}s")),
            base(world, *new_pool, default=name),
            base(world, listener(world.port, stat_prefix=f"l{rounds}"), default="b"),
            base(world, default="b"),
        ):
            report = await world.publish(*change)
            assert report.complete, report
            longest = max(longest, report.duration_s)
    stop.set()
    await asyncio.gather(*clients)
    await world.publisher.settle()
    assert set(statuses) == {200}
    assert len(statuses) > 100
    assert rounds >= 2
    # A changed cluster warms with the endpoints Envoy has; waiting for them would take its 15 s.
    assert longest < 3
    await wait_until(lambda: set(world.ads.nodes()[0].types[CLUSTER].acked) == {"a", "b"})


async def test_removed_pool_is_gone_after_the_grace_and_not_before(world):
    await world.connected()
    await world.publisher.close()
    world.publisher = Publisher(world.ads, world.snapshots, grace=0.5)
    await world.publish(*base(world))
    await world.publisher.settle()
    report = await world.publish(*only_b(world))
    assert report.complete
    assert report.retired == 2
    assert "a::127.0.0.1" in await world.envoy.get("/clusters")
    await world.answers("/a", "two")
    await world.publisher.settle()
    await wait_until(lambda: world.ads.late(ORDER) == ())
    clusters = await world.envoy.get("/clusters")
    assert "a::127.0.0.1" not in clusters
    assert "b::127.0.0.1" in clusters


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: made(CLUSTER, {"name": "bad", "type": "EDS", "connect_timeout": "1s"}), "EDS"),
        (lambda: cluster("bad", connect_timeout="-1s"), "positive duration"),
        (lambda: Resource.of(CLUSTER, "bad", b"\xff\xff\xff"), ""),
    ],
    ids=["senseless", "out-of-bounds", "not-a-message"],
)
async def test_a_bad_cluster_is_refused_alone_and_reported(world, bad, says):
    await world.connected()
    await world.publish(*base(world))
    await world.answers("/a", "one")
    up = world.upstreams
    report = await world.publish(
        *base(world, bad(), cluster("c"), endpoints("c", up["three"]), cluster("a", connect_timeout="3s"), c="c")
    )
    assert report.outcome is Outcome.HELD  # no Envoy has any version of it
    (nack,) = report.nacks
    assert (nack.node, nack.type_url, nack.name) == ("envoy-under-test", CLUSTER, "bad")
    assert nack.message
    assert says in nack.message
    assert report.late_envoys == ()
    await world.answers("/c", "three")
    await world.answers("/a", "one")
    report = await world.publish(*base(world, cluster("c"), endpoints("c", up["three"]), c="c"))
    assert report.complete


async def test_bad_endpoints_among_good_ones_are_found(world):
    await world.connected()
    up = world.upstreams
    pools = [f"p{i}" for i in range(9)]
    await world.publish(
        *base(world, *(cluster(pool) for pool in pools), *(endpoints(pool, up["one"]) for pool in pools))
    )
    bad = endpoints("p4", 80, host="not-an-address")
    new = [endpoints(pool, up["two"]) for pool in pools]
    report = await world.publish(
        *base(world, *(cluster(pool) for pool in pools), *new, bad, **{pool: pool for pool in pools})
    )
    assert report.outcome is Outcome.PUBLISHED
    assert [(nack.type_url, nack.name) for nack in report.nacks] == [(ENDPOINTS, "p4")]
    for pool in pools:
        await world.answers(f"/{pool}", "one" if pool == "p4" else "two")


async def test_routes_to_nowhere_are_refused_and_the_old_ones_serve(world):
    await world.connected()
    await world.publish(*base(world))
    await world.answers("/a", "one")
    report = await world.publish(*base(world, x="nowhere", default="b"))
    assert report.outcome is Outcome.HELD
    (nack,) = report.nacks
    assert (nack.type_url, nack.name) == (ROUTES, "main")
    assert "nowhere" in nack.message
    await world.answers("/", "one")
    assert (await world.publish(*base(world, default="b"))).complete
    await world.answers("/", "two")


async def test_a_restarted_control_plane_sends_nothing_that_is_there_already(world):
    await world.connected()
    await world.publish(*base(world))
    await world.answers("/a", "one")
    await world.publisher.settle()
    before = await world.envoy.stats("update_success")
    await world.stop_control_plane()
    assert await world.get("/a") == (200, "one")
    await world.control_plane()
    await wait_until(lambda: world.ads.nodes() and len(world.ads.nodes()[0].types) == 4, 20, what="reconnected")
    assert await world.get("/a") == (200, "one")  # a server that has nothing yet takes nothing away
    report = await world.publish(*base(world))
    assert report.complete
    await world.publisher.settle()
    assert await world.ads.wait_acked(ORDER, 5) == ()
    assert world.ads.responses == 0
    assert await world.envoy.stats("update_success") == before
    # What was left over from before goes, after what is new has come.
    report = await world.publish(*base(world, endpoints("a", world.upstreams["three"])))
    assert report.complete
    await world.answers("/a", "three")
    assert world.ads.responses == 1


async def test_leftovers_of_an_earlier_control_plane_are_removed_last(world):
    await world.connected()
    await world.publish(*base(world))
    await world.answers("/a", "one")
    await world.stop_control_plane()
    await world.control_plane(grace=0.5)
    await wait_until(lambda: world.ads.nodes() and len(world.ads.nodes()[0].types) == 4, 20, what="reconnected")
    report = await world.publish(*only_b(world))
    assert report.complete
    await world.answers("/a", "two")
    assert "a::127.0.0.1" in await world.envoy.get("/clusters")
    await world.publisher.settle()
    await wait_until(lambda: world.ads.late(ORDER) == ())
    assert "a::127.0.0.1" not in await world.envoy.get("/clusters")


async def test_bootstrap_is_valid_for_every_kind_of_address(tmp_path):
    for ads in ("unix:/run/ralb/xds.sock", "127.0.0.1:18000", "[::1]:18000", "control-plane.ralb.svc:18000"):
        result = validate(bootstrap("n", ads, admin_port=9901), tmp_path)
        assert result.returncode == 0, (ads, result.stderr)


async def test_bootstrap_limits_connections_and_lets_the_admin_set_runtime(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        world = World(tmp_path)
        await world.control_plane()
        stack.push_async_callback(world.stop_control_plane)
        port = await stack.enter_async_context(upstream("one"))
        await world.publish(cluster("a"), endpoints("a", port), listener(world.port), routes(default="a"))
        start = bootstrap("n", world.address, max_connections=2)
        envoy = await stack.enter_async_context(running_envoy(start, tmp_path))
        await envoy.post("/runtime_modify?some.key=7")
        assert (await envoy.get_json("/runtime"))["entries"]["some.key"]["final_value"] == "7"
        for _ in range(2):
            _, writer = await asyncio.open_connection("127.0.0.1", world.port)
            stack.callback(writer.close)
        await wait_until(lambda: _total(envoy, "listener.*downstream_cx_active", 2))
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        stack.callback(writer.close)
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def _total(envoy, pattern, least):
    return sum(v for n, v in (await envoy.stats(pattern)).items() if "main" not in n and "worker" not in n) >= least
