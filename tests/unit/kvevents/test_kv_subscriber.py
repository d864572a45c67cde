"""Streams from a publisher made by hand: order, gaps, replays, restarts, strangers, and which pods are listened to."""

import asyncio
import time
from contextlib import asynccontextmanager

import msgpack
import pytest
import zmq
import zmq.asyncio
from support_net import free_ports, wait_until

from ralb.v1.snapshot_pb2 import Endpoint, KvEvents, Pool
from ralb_extproc.kvevents import KvView, Subscriber
from ralb_extproc.kvevents.wire import END_OF_REPLAY, MAX_PAYLOAD, Batch, Cleared
from ralb_extproc.place import PodTable, hash_blocks

HOST = "127.0.0.1"


class Engine:
    """A publisher whose messages, and what it replays, are given one by one."""

    def __init__(self, port: int, replay_port: int = 0):
        self._context = zmq.asyncio.Context()
        self.asked: list[int] = []
        self.kept: list[tuple[int, bytes]] = []
        self._task = None
        self._port = port
        self._open()
        if replay_port:
            router = self._context.socket(zmq.ROUTER)
            router.bind(f"tcp://{HOST}:{replay_port}")
            self._task = asyncio.create_task(self._replay(router))

    async def subscribed(self):
        """Wait for the next subscription."""
        async with asyncio.timeout(10):
            while await self._pub.recv() != b"\1":
                pass

    def _open(self):
        # Like PUB, but it tells of subscribers: what is sent before they are there is lost.
        self._pub = self._context.socket(zmq.XPUB)
        self._pub.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._pub.bind(f"tcp://{HOST}:{self._port}")

    async def send(self, number: int, *events, payload: bytes | None = None, keep: bool = True, publish: bool = True):
        payload = msgpack.packb([time.time(), list(events), 0]) if payload is None else payload
        if keep:
            self.kept.append((number, payload))
        if publish:
            await self._pub.send_multipart((b"", number.to_bytes(8, "big"), payload))

    async def _replay(self, router):
        while True:
            client, _, start = await router.recv_multipart()
            self.asked.append(int.from_bytes(start, "big"))
            for number, payload in self.kept:
                if number >= self.asked[-1]:
                    await router.send_multipart((client, b"", number.to_bytes(8, "big"), payload))
            await router.send_multipart((client, b"", END_OF_REPLAY, b""))

    def close(self):
        if self._task is not None:
            self._task.cancel()
        self._context.destroy(linger=0)


def stored(*hashes, parent=None):
    return ["BlockStored", list(hashes), parent, [0] * 16 * len(hashes), 16, None, "GPU"]


class World:
    def __init__(self, port, replay_port=0):
        self.port, self.replay_port = port, replay_port
        self.pods = PodTable()
        self.view = KvView(self.pods)
        self.subscriber = Subscriber(self.pods, self.view, idle=0.1)

    def follow(self, *addresses, events=True):
        pool = Pool(id="p", endpoints=[Endpoint(address=address) for address in addresses])
        if events:
            pool.kv_events.CopyFrom(KvEvents(port=self.port, replay_port=self.replay_port))
        self.pods.update([pool], 0.0)
        self.subscriber.update([pool])

    @property
    def stream(self):
        (stream,) = self.subscriber.streams
        return stream

    @property
    def chains(self):
        (view,) = self.view.views
        return view.chains

    async def connected(self, engine, number=0):
        """Wait for the subscriber, and send it a first batch."""
        await engine.subscribed()
        await engine.send(number, stored(1), keep=False)
        await wait_until(lambda: self.stream.expected == number + 1)


@asynccontextmanager
async def world(*, replay=False):
    port, replay_port = free_ports(2)
    made = World(port, replay_port if replay else 0)
    engine = Engine(port, made.replay_port)
    made.follow(f"{HOST}:8000")
    try:
        yield made, engine
    finally:
        engine.close()
        await made.subscriber.stop()


async def test_batches_reach_the_view_in_order():
    async with world() as (w, engine):
        await w.connected(engine)
        await engine.send(1, stored(2, 3, parent=1))
        await engine.send(2, ["BlockRemoved", [3], "GPU"])
        await wait_until(lambda: w.stream.expected == 3)
        assert 2 in w.chains
        assert 3 not in w.chains
        assert w.view.blocks["removed"] == 1
        assert not w.subscriber.errors


async def test_a_gap_without_replay_makes_what_the_pod_holds_unknown_until_its_cache_turns_over():
    async with world() as (w, engine):
        await w.connected(engine)
        await engine.send(1, stored(2, 3))
        await engine.send(5, stored(7))
        await wait_until(lambda: 7 in w.chains)
        assert w.subscriber.gaps == {"lost": 1}
        assert not w.chains.whole
        assert 2 not in w.chains
        await engine.send(6, ["BlockRemoved", [7], "GPU"])
        await wait_until(lambda: w.chains.whole)


async def test_a_gap_is_replayed():
    async with world(replay=True) as (w, engine):
        await w.connected(engine)
        await engine.send(1, stored(2))
        await engine.send(2, stored(3), publish=False)
        await engine.send(3, ["BlockRemoved", [2], "GPU"], publish=False)
        await engine.send(4, stored(4))
        await wait_until(lambda: w.stream.expected == 5)
        assert engine.asked == [2]
        assert w.subscriber.gaps == {"replayed": 1}
        assert [block in w.chains for block in (1, 2, 3, 4)] == [True, False, True, True]
        assert w.chains.whole


async def test_a_replay_that_lacks_a_batch_is_not_used():
    async with world(replay=True) as (w, engine):
        await w.connected(engine)
        await engine.send(1, stored(2), publish=False, keep=False)
        await engine.send(2, stored(3), publish=False)
        await engine.send(3, stored(4))
        await wait_until(lambda: w.stream.expected == 4)
        assert w.subscriber.gaps == {"lost": 1}
        assert [block in w.chains for block in (1, 3, 4)] == [False, False, True]


async def test_a_late_listener_asks_for_all_from_the_start():
    async with world(replay=True) as (w, engine):
        for number in range(3):
            await engine.send(number, stored(100 + number), publish=False)
        await w.connected(engine, 3)
        assert engine.asked == [0]
        assert [block in w.chains for block in (100, 102, 1)] == [True, True, True]
        assert w.chains.whole
        assert not w.subscriber.gaps


async def test_a_number_that_falls_is_a_restart_and_its_cache_empty():
    async with world() as (w, engine):
        await w.connected(engine, 7)
        sent = hash_blocks(b"x" * 1024)
        w.pods.record_prefix(sent, w.stream.slot)
        assert w.pods.prefix_hits(sent, w.pods.view("p"), 256) is not None
        await engine.send(0, stored(9))
        await wait_until(lambda: w.stream.expected == 1)
        assert w.subscriber.restarts == 1
        assert 1 not in w.chains
        assert 9 in w.chains
        assert w.chains.whole
        assert w.pods.prefix_hits(sent, w.pods.view("p"), 256) is None


@pytest.mark.parametrize(
    ("payload", "kind"),
    [(b"\xc1", "msgpack"), (msgpack.packb({"a": 1}), "shape")],
)
async def test_a_batch_that_cannot_be_read_is_counted_and_what_was_known_is_given_up(payload, kind, caplog):
    async with world() as (w, engine):
        await w.connected(engine)
        for number in (1, 2):
            await engine.send(number, payload=payload)
        await engine.send(3, stored(5))
        await wait_until(lambda: w.stream.expected == 4)
        assert w.subscriber.errors == {kind: 2}
        assert 1 not in w.chains
        assert 5 in w.chains
        assert len([r for r in caplog.records if "cannot be used" in r.message]) == 1


async def test_frames_of_strangers_are_counted():
    async with world() as (w, engine):
        await w.connected(engine)
        await engine._pub.send_multipart((b"", b"short", b"x"))
        await engine._pub.send(b"alone")
        await engine.send(1, stored(5))
        await wait_until(lambda: 5 in w.chains)
        assert w.subscriber.errors == {"frames": 2}


async def test_too_large_a_message_is_never_taken_in():
    async with world() as (w, engine):
        await w.connected(engine)
        await engine.send(1, payload=b"\0" * (MAX_PAYLOAD * 2))
        (view,) = w.view.views
        view.unheard = 1  # as requests are served
        await engine.subscribed()
        await engine.send(2, stored(5))
        await wait_until(lambda: 5 in w.chains)
        assert w.subscriber.gaps == {"lost": 1}


async def test_only_pods_of_pools_with_events_are_listened_to():
    async with world() as (w, _):
        first = w.stream
        w.follow(f"{HOST}:8000", f"{HOST}:8001")
        assert len(w.subscriber) == 2
        assert first in list(w.subscriber.streams)
        w.follow(f"{HOST}:8001")
        assert w.stream.address == f"{HOST}:8001"
        assert [view.generation for view in w.view.views] == [w.stream.generation]
        w.follow(f"{HOST}:8001", events=False)
        assert len(w.subscriber) == 0
        w.follow("not an address", "[::1]:8000", "10.0.0.1;x:8000")
        assert w.stream.url == f"tcp://[::1]:{w.port}"


async def test_news_of_a_pod_that_left_change_nothing():
    async with world() as (w, engine):
        await w.connected(engine)
        generation = w.stream.generation
        w.follow()
        w.view.apply(generation, Batch(0.0, (Cleared(),)), 1.0, 1.0)
        w.view.emptied(generation)
        w.view.lost(generation)
        assert not w.view.counts["cleared"]
        assert not list(w.view.views)
