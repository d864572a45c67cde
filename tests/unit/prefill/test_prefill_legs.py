"""Prefill legs against pods that do well, badly, or nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiohttp import web
from support_net import free_port, wait_until

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.feedback import Failure, Outcome
from ralb_extproc.place import Ask, PodTable
from ralb_extproc.place import columns as col
from ralb_extproc.place.disaggregate import charge, leg_id
from ralb_extproc.prefill.body import MAX_ANSWER
from ralb_extproc.prefill.legs import Leg, Legs
from ralb_extproc.types import Attempt, Handoff, HandoffReason, Placement

PATH = "/v1/chat/completions"
PARAMS = {
    "do_remote_prefill": True,
    "remote_block_ids": [1, 2],
    "remote_engine_id": "e",
    "remote_host": "10.0.0.1",
    "remote_port": 5600,
}
USAGE = {"prompt_tokens": 4000, "prompt_tokens_details": {"cached_tokens": 0}}
ASK = Ask(input_tokens=4000)


class Pod:
    """A prefill pod that answers as it is told."""

    def __init__(self) -> None:
        self.how = "well"
        self.asked: list[tuple[dict[str, Any], Mapping[str, str]]] = []
        self.address = ""
        self.left = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((orjson.loads(await request.read()), request.headers))
        match self.how:
            case "hangs":
                try:
                    await asyncio.Event().wait()
                finally:
                    self.left += 1
            case "resets":
                assert request.transport is not None
                request.transport.abort()
            case "floods":
                return web.Response(body=b" " * (MAX_ANSWER + 1))
            case "drips":
                answer = web.StreamResponse()
                await answer.prepare(request)
                while True:
                    await answer.write(b" ")
                    await asyncio.sleep(0.01)
            case "redirects":
                raise web.HTTPFound(f"http://{self.address}/elsewhere")
            case "compresses":
                answer = web.json_response({"kv_transfer_params": PARAMS})
                answer.enable_compression(web.ContentCoding.gzip)
                answer.headers["content-encoding"] = "gzip"
                return answer
            case "talks":
                return web.Response(body=b"hello")
            case "500" | "503" | "400" | "404" | "429" as status:
                return web.Response(status=int(status))
        return web.json_response({"kv_transfer_params": PARAMS, "usage": USAGE})


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    made = Pod()
    app = web.Application()
    app.router.add_post(PATH, made.serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.address = f"127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


class World:
    def __init__(self, address: str, limit: int = 10) -> None:
        self.pods = PodTable()
        self.pods.update([pb.Pool(id="ns/p", endpoints=[pb.Endpoint(address=address)])], 0.0)
        self.legs = Legs(self.pods, limit=limit)
        self.address = address
        slot = self.pods.slot("ns/p", address)
        assert slot is not None
        self.slot = slot
        self.results: list[tuple[HandoffReason, Any]] = []

    def charged(self, request_id: str = "r", *, sidecar: bool = False, timeout: float = 5.0) -> Handoff:
        handoff = Handoff(HandoffReason.REMOTE, "ns/p", self.address, sidecar, 4000, 0.4, timeout)
        placement = Placement((Attempt("ns/d", "c", "d:1", "m"),), handoff=handoff)
        charge(self.pods, request_id, placement, ASK, asyncio.get_running_loop().time())
        return handoff

    def start(self, request_id: str = "r", **options: Any) -> "asyncio.Task[None]":
        handoff = self.charged(request_id, **options)
        leg = Leg(request_id, handoff, PATH, {"model": "m", "messages": [], "stream": True}, "id-1")
        return self.legs.start(leg, lambda reason, params, _: self.results.append((reason, params)))

    @property
    def failures(self) -> float:
        return float(self.pods.data[col.FAILURES, self.slot])

    @property
    def idle(self) -> bool:
        return not self.pods.ledger and not self.legs.running and not self.legs.tokens


@pytest.fixture
async def world(pod: Pod) -> AsyncIterator[World]:
    made = World(pod.address)
    yield made
    await made.legs.close()
    assert made.idle


async def test_it_goes_well(world: World, pod: Pod) -> None:
    world.pods.data[col.FAILURES, world.slot] = 1.0
    rate = world.pods.data[col.PREFILL_RATE, world.slot]
    task = world.start()
    assert world.pods.data[col.PREFILL, world.slot] == 4000
    await task
    assert world.results == [(HandoffReason.REMOTE, PARAMS)]
    assert world.idle
    assert world.failures == 0
    assert world.pods.data[col.PREFILL_RATE, world.slot] != rate, "nothing was learned"
    ((body, headers),) = pod.asked
    assert (body["max_tokens"], body["stream"]) == (1, False)
    assert headers["x-request-id"] == "id-1"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("how", "reason", "blamed"),
    [
        ("resets", "failed-connect", True),
        ("500", "failed-status", True),
        ("503", "failed-status", True),
        ("400", "failed-status", False),
        ("404", "failed-status", False),
        ("429", "failed-status", False),
        ("redirects", "failed-status", False),
        ("talks", "failed-answer", True),
        ("compresses", "failed-answer", True),
        ("floods", "failed-answer", True),
        ("drips", "failed-timeout", True),
        ("hangs", "failed-timeout", True),
    ],
)
async def test_it_goes_badly(world: World, pod: Pod, how: str, reason: str, blamed: bool) -> None:
    pod.how = how
    await world.start(timeout=0.3)
    assert world.results == [(HandoffReason(reason), None)]
    assert bool(world.failures) == blamed
    assert len(pod.asked) == 1


async def test_nobody_listens() -> None:
    world = World(f"127.0.0.1:{free_port()}")
    await world.start()
    await world.legs.close()
    assert world.results == [(HandoffReason.CONNECT, None)]
    assert world.failures
    assert world.idle


async def test_the_client_goes_away(world: World, pod: Pod) -> None:
    pod.how = "hangs"
    task = world.start()
    await wait_until(lambda: pod.asked, 5, what="the pod asked")
    assert world.legs.running == {"ns/p": 1}
    assert world.legs.tokens == {"ns/p": 4000}
    task.cancel()
    await wait_until(lambda: pod.left, 5, what="the pod let go")
    assert world.idle
    assert not world.results
    assert not world.failures


async def test_the_client_goes_away_before_anything_happened(world: World) -> None:
    world.start().cancel()
    await wait_until(lambda: world.idle, 5, what="the load released")


async def test_they_are_bounded(world: World, pod: Pod) -> None:
    pod.how = "hangs"
    tasks = []
    for number in range(10):
        assert not world.legs.full
        tasks.append(world.start(f"r{number}"))
    assert world.legs.full
    tasks[3].cancel()
    await wait_until(lambda: not world.legs.full, 5, what="room again")


async def test_a_pod_that_left_meanwhile(world: World, pod: Pod) -> None:
    pod.how = "hangs"
    task = world.start(timeout=0.3)
    world.pods.update([pb.Pool(id="ns/p", endpoints=[pb.Endpoint(address="10.9.9.9:1")])], 1.0)
    await task
    assert world.results == [(HandoffReason.TIMEOUT, None)]
    assert not world.pods.data[col.FAILURES].any(), "its successor in the table was blamed"


# ---- sidecars ----


async def test_a_sidecars_leg_counts_for_its_expected_time(world: World) -> None:
    handoff = replace(world.charged(sidecar=True), expected=0.02)
    world.legs.told("r", handoff)
    assert world.pods.ledger.get(leg_id("r")) is not None
    await wait_until(lambda: world.idle, 5, what="the load released")


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        (Outcome("r", status=200, attempts=1), 0),
        (Outcome("r", status=200, attempts=2), 2),
        (Outcome("r", status=502, attempts=1, failure=Failure.STATUS), 2),
        (Outcome("r", status=0, attempts=1, failure=Failure.RESET, aborted=True), 1),
        (Outcome("r", status=400, attempts=1), 1),
        (Outcome("another", status=502, attempts=1, failure=Failure.STATUS), 1),
    ],
)
async def test_a_sidecars_prefill_pod_is_judged_by_the_outcome(world: World, outcome: Outcome, failures: int) -> None:
    world.pods.data[col.FAILURES, world.slot] = 1.0
    world.legs.told("r", world.charged(sidecar=True))
    world.legs.settled(outcome)
    assert world.failures == failures
    world.legs.settled(outcome)
    assert world.failures == failures, "judged twice"
    world.legs.release("r")
