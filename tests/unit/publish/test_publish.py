import asyncio
import contextlib

import pytest
from support_ads import AdsClient, ModelClient, resource
from support_net import wait_until
from support_snapshots import SnapshotClient, snapshot

from ralb_operator.publish import Outcome
from ralb_operator.snapshots import MAX_SNAPSHOT_BYTES
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ORDER, ROUTES, Resources

SHORT = {CLUSTER: "clusters", ENDPOINTS: "endpoints", LISTENER: "listeners", ROUTES: "routes"}


def config(*pools, endpoints=None, cluster="", routes=""):
    """A listener ``main`` whose routes use the pools, each with a cluster and endpoints of its name."""
    each = [resource(CLUSTER, pool, f"{pool} {cluster}") for pool in pools]
    each += [resource(ENDPOINTS, pool, (endpoints or {}).get(pool, f"{pool} endpoints")) for pool in pools]
    each += [resource(LISTENER, "main", "listener"), resource(ROUTES, "main", f"routes to {' '.join(pools)} {routes}")]
    return Resources.of(each)


def shown(log):
    """The log of all peers in short form, like ``["+clusters a b", "-endpoints a", "snapshot v1"]``."""
    out = []
    for _, *what in log:
        if what[0] == "snapshot":
            out.append(f"snapshot {what[1]}")
        else:
            type_url, names, removed = what
            out += [f"+{SHORT[type_url]} {' '.join(names)}"] if names else []
            out += [f"-{SHORT[type_url]} {' '.join(removed)}"] if removed else []
    return out


@contextlib.asynccontextmanager
async def peers(plane, bad=()):
    """One Envoy and one processor connected, with a common log of what they get."""
    log = []
    model = ModelClient(bad=bad)
    async with AdsClient(plane.address, model, log) as envoy, SnapshotClient(plane.address, log=log) as processor:
        await wait_until(lambda: plane.ads.nodes() and plane.snapshots.processors())
        await wait_until(lambda: LISTENER in plane.ads.nodes()[0].types)
        yield envoy, processor, log


async def test_new_config_goes_out_in_order_and_old_goes_last(plane):
    publisher = plane.publisher()
    async with peers(plane) as (envoy, _, log):
        report = await publisher.publish(config("a", "b"), snapshot("v1"))
        assert report.complete
        assert (report.outcome, report.retired) == (Outcome.PUBLISHED, 0)
        assert shown(log) == ["+clusters a b", "+endpoints a b", "+listeners main", "+routes main", "snapshot v1"]
        await publisher.settle()
        log.clear()
        report = await publisher.publish(config("b", "c"), snapshot("v2"))
        assert report.complete
        assert report.retired == 2
        assert shown(log) == ["+clusters c", "+endpoints c", "+routes main", "snapshot v2"]
        assert set(envoy.model.held[CLUSTER]) == {"a", "b", "c"}
        log.clear()
        await publisher.settle()
        assert await plane.ads.wait_acked(ORDER, 5) == ()
        assert shown(log) == ["-endpoints a", "-clusters a"]
        assert publisher.removed == 2
        assert (publisher.publishes, publisher.last_duration_s > 0) == (2, True)


async def test_removal_waits_for_the_grace(plane):
    now = 0.0
    publisher = plane.publisher(grace=0.2, clock=lambda: now)
    async with peers(plane) as (envoy, _, _):
        await publisher.publish(config("a", "b"), snapshot("v1"))
        await publisher.publish(config("b"), snapshot("v2"))
        # By this clock the grace never ends: the remover looks again, again and again, and removes nothing.
        await asyncio.sleep(0.5)
        assert set(envoy.model.held[CLUSTER]) == {"a", "b"}
        now = 1.0
        await publisher.settle()
        await wait_until(lambda: set(envoy.model.held[CLUSTER]) == {"b"})


async def test_endpoints_alone_take_one_response_and_one_snapshot(plane):
    publisher = plane.publisher()
    async with peers(plane) as (_, _, log):
        await publisher.publish(config("a", "b"), snapshot("v1"))
        await publisher.settle()
        log.clear()
        report = await publisher.publish(config("a", "b", endpoints={"a": "new"}), snapshot("v2"))
        assert report.complete
        assert shown(log) == ["+endpoints a", "snapshot v2"]


async def test_the_same_again_does_nothing(plane):
    publisher = plane.publisher()
    async with peers(plane) as (_, _, log):
        await publisher.publish(config("a"), snapshot("v1"))
        count = len(log)
        report = await publisher.publish(config("a"), snapshot("v1"))
        assert report.outcome is Outcome.UNCHANGED
        assert report.complete
        assert len(log) == count
        assert (publisher.publishes, publisher.unchanged) == (1, 1)


async def test_with_nobody_connected_it_does_not_wait_and_late_comers_get_it_all(plane):
    publisher = plane.publisher()
    report = await publisher.publish(config("a"), snapshot("v1"))
    assert report.complete
    assert report.duration_s < 1
    async with peers(plane) as (envoy, processor, _):
        await wait_until(lambda: ROUTES in envoy.model.held and processor.received == ["v1"])


async def test_a_peer_that_does_not_answer_is_reported_and_waited_for_once(plane):
    publisher = plane.publisher(ack_timeout=0.3)
    async with peers(plane) as (envoy, processor, _):
        await publisher.publish(config("a"), snapshot("v1"))
        envoy.hold = processor.hold = True
        report = await publisher.publish(config("a", cluster="2"), snapshot("v2"))
        assert report.outcome is Outcome.PUBLISHED
        assert not report.complete
        assert (report.late_envoys, report.late_processors) == (("envoy-1",), ("processor-1",))
        assert report.duration_s >= 0.6
        report = await publisher.publish(config("a", cluster="3"), snapshot("v3"))
        assert (report.late_envoys, report.late_processors) == (("envoy-1",), ("processor-1",))
        assert report.duration_s < 0.3
        await envoy.release()
        await processor.release()
        await wait_until(lambda: not plane.ads.late(ORDER) and not plane.snapshots.late("v3"))
        report = await publisher.publish(config("a", cluster="4"), snapshot("v4"))
        assert report.complete
        assert envoy.model.held[CLUSTER] == {"a": b"a 4"}
        assert processor.version == "v4"


async def test_a_late_envoy_still_gets_clusters_before_routes_and_removals_last(plane):
    publisher = plane.publisher(ack_timeout=0.05, grace=0.0)
    async with peers(plane) as (envoy, _, log):
        await publisher.publish(config("a"), snapshot("v1"))
        await publisher.settle()
        envoy.hold = True
        await publisher.publish(config("a", cluster="in flight"), snapshot("v2"))
        await publisher.publish(config("b"), snapshot("v3"))
        await publisher.settle()
        log.clear()
        await envoy.release()
        assert await plane.ads.wait_acked(ORDER, 5) == ()
        assert shown(log) == [
            "+clusters a",
            "+clusters b",
            "+endpoints b",
            "+routes main",
            "-endpoints a",
            "-clusters a",
        ]


async def test_newer_supersedes_what_waits(plane):
    publisher = plane.publisher()
    async with peers(plane) as (envoy, processor, log):
        envoy.hold = True
        tasks = [asyncio.create_task(publisher.publish(config("a"), snapshot("v1")))]
        await wait_until(lambda: envoy._unanswered)
        tasks += [
            asyncio.create_task(publisher.publish(config("a", routes=version), snapshot(version)))
            for version in ("v2", "v3", "v4")
        ]
        await asyncio.sleep(0)
        await envoy.release()
        outcomes = [report.outcome for report in await asyncio.gather(*tasks)]
        assert outcomes == [Outcome.PUBLISHED, Outcome.SUPERSEDED, Outcome.SUPERSEDED, Outcome.PUBLISHED]
        assert processor.received == ["v1", "v4"]
        assert [got for got in shown(log) if "routes" in got] == ["+routes main", "+routes main"]
        assert publisher.superseded == 2


async def test_a_cancelled_publication_is_completed_by_the_next(plane):
    publisher = plane.publisher()
    async with peers(plane) as (envoy, processor, _):
        await publisher.publish(config("a"), snapshot("v1"))
        await publisher.settle()
        envoy.hold = True
        task = asyncio.create_task(publisher.publish(config("b"), snapshot("v2")))
        await wait_until(lambda: envoy._unanswered)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert processor.received == ["v1"]
        await envoy.release()
        assert set(plane.ads.get(CLUSTER)) == {"a", "b"}
        assert (await publisher.publish(config("b"), snapshot("v2"))).complete
        await publisher.settle()
        await wait_until(lambda: set(envoy.model.held[CLUSTER]) == {"b"})
        assert processor.received == ["v1", "v2"]


async def test_what_comes_back_within_the_grace_is_never_removed(plane):
    publisher = plane.publisher(grace=0.2)
    async with peers(plane) as (_, _, log):
        await publisher.publish(config("a", "b"), snapshot("v1"))
        await publisher.publish(config("b"), snapshot("v2"))
        report = await publisher.publish(config("a", "b"), snapshot("v3"))
        assert report.retired == 0
        await publisher.settle()
        await plane.ads.wait_acked(ORDER, 5)
        assert not [got for got in shown(log) if got.startswith("-")]
        assert publisher.removed == 0


async def test_constant_change_does_not_put_removals_off(plane):
    publisher = plane.publisher(grace=0.05)
    async with peers(plane) as (envoy, _, _):
        for i in range(40):
            await publisher.publish(config(f"pool{i}"), snapshot(f"v{i}"))
            await asyncio.sleep(0.01)
        assert publisher.removed > 20
        await publisher.settle()
        await wait_until(lambda: set(envoy.model.held[CLUSTER]) == {"pool39"})


async def test_a_refused_new_cluster_holds_the_snapshot_back_until_mended(plane):
    publisher = plane.publisher()
    async with peers(plane, bad=[b"b "]) as (envoy, processor, _):
        await publisher.publish(config("a"), snapshot("v1"))
        report = await publisher.publish(config("a", "b"), snapshot("v2"))
        assert report.outcome is Outcome.HELD
        assert not report.complete
        ((nack),) = report.nacks
        assert (nack.name, nack.message) == ("b", "cannot use b")
        assert processor.received == ["v1"]
        # Envoy got everything else all the same, and the repeated publication does not bother it again.
        assert envoy.model.held[ROUTES]["main"] == b"routes to a b "
        count = len(envoy.model.received)
        assert (await publisher.publish(config("a", "b"), snapshot("v2"))).outcome is Outcome.HELD
        assert len(envoy.model.received) == count
        report = await publisher.publish(config("a", "b", cluster="mended"), snapshot("v3"))
        assert report.complete
        assert processor.received == ["v1", "v3"]
        assert publisher.held == 2


async def test_a_refused_cluster_that_is_taken_back_no_longer_counts(plane):
    publisher = plane.publisher()
    async with peers(plane, bad=[b"b "]) as (envoy, processor, _):
        await publisher.publish(config("a"), snapshot("v1"))
        assert (await publisher.publish(config("a", "b"), snapshot("v2"))).outcome is Outcome.HELD
        report = await publisher.publish(config("a"), snapshot("v3"))
        assert report.complete
        assert processor.received == ["v1", "v3"]
        await publisher.settle()
        await wait_until(lambda: not plane.ads.nacks() and set(envoy.model.held[CLUSTER]) == {"a"})


async def test_a_refused_change_of_a_cluster_holds_nothing_back(plane):
    publisher = plane.publisher()
    async with peers(plane, bad=[b"a broken"]) as (envoy, processor, _):
        await publisher.publish(config("a"), snapshot("v1"))
        report = await publisher.publish(config("a", cluster="broken"), snapshot("v2"))
        assert report.outcome is Outcome.PUBLISHED
        assert [nack.name for nack in report.nacks] == ["a"]
        assert envoy.model.held[CLUSTER]["a"] == b"a "
        assert processor.received == ["v1", "v2"]


async def test_refused_routes_keep_the_old_config_whole(plane):
    publisher = plane.publisher(grace=0.0)
    async with peers(plane, bad=[b"routes to b bad"]) as (envoy, processor, _):
        await publisher.publish(config("a"), snapshot("v1"))
        await publisher.settle()
        report = await publisher.publish(config("b", routes="bad"), snapshot("v2"))
        assert report.outcome is Outcome.HELD
        await publisher.settle()
        assert set(envoy.model.held[CLUSTER]) == {"a", "b"}  # the routes in use still need a
        assert processor.received == ["v1"]
        assert (await publisher.publish(config("b"), snapshot("v3"))).complete
        await publisher.settle()
        await wait_until(lambda: set(envoy.model.held[CLUSTER]) == {"b"})


async def test_one_odd_envoy_does_not_hold_the_snapshot_back_but_keeps_the_old_alive(plane):
    publisher = plane.publisher(grace=0.0)
    async with peers(plane) as (envoy, processor, _):
        async with AdsClient(plane.address, ModelClient("odd", bad=[b"routes to b "])) as odd:
            await publisher.publish(config("a"), snapshot("v1"))
            await wait_until(lambda: ROUTES in odd.model.held)
            await publisher.settle()
            report = await publisher.publish(config("b"), snapshot("v2"))
            assert report.outcome is Outcome.PUBLISHED
            assert [nack.node for nack in report.nacks] == ["odd"]
            await publisher.settle()
            assert set(odd.model.held[CLUSTER]) == set(envoy.model.held[CLUSTER]) == {"a", "b"}
        await wait_until(lambda: len(plane.ads.nodes()) == 1)
        # Without it nobody needs the old any more; even an unchanged publication notices.
        assert (await publisher.publish(config("b"), snapshot("v2"))).outcome is Outcome.UNCHANGED
        await publisher.settle()
        await wait_until(lambda: set(envoy.model.held[CLUSTER]) == {"b"})
        assert processor.received == ["v1", "v2"]


async def test_a_refused_snapshot_is_reported_and_keeps_the_old_clusters(plane):
    publisher = plane.publisher(grace=0.0)
    async with peers(plane) as (envoy, processor, _):
        await publisher.publish(config("a"), snapshot("v1"))
        await publisher.settle()
        processor.bad["v2"] = "too new for me"
        report = await publisher.publish(config("b"), snapshot("v2"))
        assert report.refusals == (("processor-1", "too new for me"),)
        assert not report.complete
        await publisher.settle()
        assert set(envoy.model.held[CLUSTER]) == {"a", "b"}
        assert (await publisher.publish(config("b"), snapshot("v3"))).complete
        await publisher.settle()
        await wait_until(lambda: set(envoy.model.held[CLUSTER]) == {"b"})


async def test_an_envoy_that_comes_in_the_middle_gets_old_and_new_clusters(plane):
    publisher = plane.publisher()
    async with peers(plane) as (envoy, _, _):
        await publisher.publish(config("a"), snapshot("v1"))
        await publisher.settle()
        envoy.hold = True
        task = asyncio.create_task(publisher.publish(config("b"), snapshot("v2")))
        await wait_until(lambda: envoy._unanswered)
        async with AdsClient(plane.address, ModelClient("newcomer")) as newcomer:
            await wait_until(lambda: ROUTES in newcomer.model.held)
            assert set(newcomer.model.held[CLUSTER]) == {"a", "b"}
            assert newcomer.model.held[ROUTES]["main"] == b"routes to a "
            await envoy.release()
            await task
            await wait_until(lambda: newcomer.model.held[ROUTES]["main"] == b"routes to b ")


async def test_after_a_restart_what_envoy_has_from_before_goes_last(plane):
    publisher = plane.publisher()
    async with peers(plane) as (envoy, _, _):
        await publisher.publish(config("a", "b"), snapshot("v1"))
    await wait_until(lambda: not plane.ads.nodes())
    model = envoy.model
    plane.ads._published.clear()  # as in a new process
    publisher, log = plane.publisher(), []
    async with AdsClient(plane.address, model, log) as envoy:
        await wait_until(lambda: plane.ads.nodes())
        report = await publisher.publish(config("b", "c"), snapshot("v2"))
        assert report.complete
        assert shown(log) == ["+clusters c", "+endpoints c", "+routes main"]
        log.clear()
        await publisher.settle()
        assert await plane.ads.wait_acked(ORDER, 5) == ()
        assert shown(log) == ["-endpoints a", "-clusters a"]


async def test_retired_resources_are_bounded(plane):
    publisher = plane.publisher(max_retired=4)
    async with peers(plane, bad=[b"routes to p%d bad" % i for i in range(1, 10)]) as (_, _, _):
        await publisher.publish(config("p0"), snapshot("v0"))
        for i in range(1, 10):
            await publisher.publish(config(f"p{i}", routes="bad"), snapshot(f"v{i}"))
        assert len(plane.ads.get(CLUSTER)) + len(plane.ads.get(ENDPOINTS)) == 4 + 2


async def test_what_cannot_be_published_changes_nothing(plane):
    publisher = plane.publisher()
    await publisher.publish(config("a"), snapshot("v1"))
    large = snapshot("v2")
    large.pools.add(id="x" * MAX_SNAPSHOT_BYTES)
    with pytest.raises(ValueError, match="at most"):
        await publisher.publish(config("b"), large)
    with pytest.raises(ValueError, match=r"type some\.Type"):
        await publisher.publish(Resources.of([resource("some.Type", "x")]), snapshot("v2"))
    assert set(plane.ads.get(CLUSTER)) == {"a"}
    assert plane.snapshots.version == "v1"
