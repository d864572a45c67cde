import contextlib

import aiohttp
import pytest

from ralb.v1.snapshot_pb2 import Endpoint, Pool
from ralb_extproc.admin import AdminServer, pod_rows
from ralb_extproc.place import PodSample, PodTable
from ralb_extproc.telemetry import Telemetry


@contextlib.asynccontextmanager
async def serving(not_ready=lambda: "", **options):
    pods = PodTable()
    pods.update(
        [Pool(id=f"ns/{n}", endpoints=[Endpoint(address=f"{n}:80"), Endpoint(address=f"{n}:81")]) for n in "ab"], 0.0
    )
    pods.observe(pods.slot("ns/a", "a:80"), PodSample(8.0, 3, 4, 0.5), 8.0)
    server = AdminServer(Telemetry(pods).page, pods, not_ready, lambda: 10.0, **options)
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
            yield server, client
    finally:
        await server.stop()


async def test_metrics_and_health():
    async with serving() as (_, client):
        async with client.get("/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert b'ralb_pod_waiting{pool="ns/a",endpoint="a:80"} 3.0' in await answer.read()
        async with client.get("/healthz") as answer:
            assert answer.status == 200


async def test_readiness_is_asked_each_time():
    reason = "no snapshot yet"
    async with serving(lambda: reason) as (_, client):
        async with client.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "no snapshot yet\n")
        reason = ""
        async with client.get("/readyz") as answer:
            assert answer.status == 200


async def test_pods():
    async with serving() as (_, client):
        async with client.get("/debug/pods") as answer:
            rows = (await answer.json())["pods"]
        async with client.get("/debug/pods", params={"pool": "ns/b"}) as answer:
            of_b = (await answer.json())["pods"]
    assert len(rows) == 4
    first = rows[0]
    assert (first["pool"], first["endpoint"], first["waiting"], first["running"], first["age_seconds"]) == (
        "ns/a",
        "a:80",
        3,
        4,
        2,
    )
    assert rows[1]["age_seconds"] is None
    assert {row["pool"] for row in of_b} == {"ns/b"}


def test_health_and_draining_in_rows():
    pods = PodTable()
    both = [Endpoint(address="a:80"), Endpoint(address="b:80")]
    pods.update([Pool(id="ns/a", endpoints=both)], 0.0)
    for _ in range(3):
        pods.fail(pods.slot("ns/a", "a:80"), 1.0)
    pods.begin("r", pods.slot("ns/a", "b:80"), 1, 1, 1.0)
    both[1].draining = True
    pods.update([Pool(id="ns/a", endpoints=both)], 2.0)
    failed, going = pod_rows(pods, 12.0)
    assert (failed["health"], failed["why"], failed["share"]) == ("Failed", "down", 1.0)
    assert going == {
        "pool": "ns/a",
        "endpoint": "b:80",
        "in_flight": 1.0,
        "health": "Draining",
        "drain_seconds": 50.0,
    }
    assert pod_rows(pods, 12.0, "ns/b") == []


async def test_unknown_paths_and_methods():
    async with serving() as (_, client):
        async with client.get("/") as answer:
            assert answer.status == 404
        async with client.post("/metrics", data=b"x") as answer:
            assert answer.status == 405


async def test_taken_port():
    async with serving() as (server, _):
        other = AdminServer(lambda: b"", PodTable(), lambda: "", lambda: 0.0, port=server.port)
        with pytest.raises(OSError, match=str(server.port)):
            await other.start()
        await other.stop()
