"""Simulated engines as the processor's scraper reads them, over HTTP: what placement learns of each."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support_net import wait_until

from ralb.v1.snapshot_pb2 import Endpoint, Engine, Model, Pool
from ralb_extproc.metrics import Pace, Scraper
from ralb_extproc.place import PodTable
from ralb_extproc.place import columns as col
from ralb_sim.config import MetricsDialect

from .conftest import Pod, StartPod

CHAT = "/v1/chat/completions"
ENGINES = [
    (Engine.ENGINE_VLLM, MetricsDialect.VLLM, "/metrics"),
    (Engine.ENGINE_VLLM, MetricsDialect.VLLM_OLD, "/metrics"),
    (Engine.ENGINE_SGLANG, MetricsDialect.SGLANG, "/metrics"),
    (Engine.ENGINE_TENSORRT_LLM, MetricsDialect.TENSORRT_LLM, "/prometheus/metrics"),
]


@contextlib.asynccontextmanager
async def scraped(pod: Pod, engine: Engine, path: str, **more: Any) -> AsyncIterator[tuple[PodTable, Scraper, int]]:
    endpoint = Endpoint(address=f"127.0.0.1:{pod.port}", name="pod-0")
    pool = Pool(id="ns/p", engine=engine, metrics_path=path, endpoints=[endpoint], model=Model(name="m"), **more)
    pods = PodTable()
    pods.update([pool], 0.0)
    scraper = Scraper(pods, Pace(budget=10.0, late=10.0))
    scraper.update([pool])
    slot = pods.slot("ns/p", endpoint.address)
    assert slot is not None
    try:
        yield pods, scraper, slot
    finally:
        await scraper.stop()


@contextlib.asynccontextmanager
async def busy(pod: Pod, sequences: int) -> AsyncIterator[None]:
    """So many requests under way all the time."""

    async def client(number: int) -> None:
        while True:
            body = {"messages": [{"role": "user", "content": f"{number}"}], "max_tokens": 40, "ignore_eos": True}
            await pod.post(CHAT, body)

    clients = [asyncio.create_task(client(number)) for number in range(sequences)]
    try:
        yield
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


@pytest.mark.parametrize(("engine", "dialect", "path"), ENGINES)
async def test_each_engine_is_understood(
    start_pod: StartPod, engine: Engine, dialect: MetricsDialect, path: str
) -> None:
    pod = await start_pod(metrics=dialect, speculative=3, acceptance=0.8, time_scale=1.0)
    async with scraped(pod, engine, path, speculative_tokens=3) as (pods, scraper, slot), busy(pod, 4):

        def state(column: int) -> float:
            return float(pods.data[column, slot])

        await wait_until(lambda: state(col.ITL) and state(col.GENERATION_RATE) and state(col.PROMPT_RATE), 30)
        await wait_until(lambda: state(col.RUNNING) == 4 and state(col.KV_USAGE) > 0, 30)
        assert state(col.KV_CAPACITY) == pod.service.config.engine.kv_tokens // 16 * 16
        # A step gives 1 + 0.8 + 0.64 + 0.512 tokens.
        await wait_until(lambda: state(col.ACCEPTANCE) == pytest.approx(2.95, rel=0.15), 30)

        def true() -> float:
            totals = pod.service.metrics.totals()
            return totals.gaps / (totals.generated - totals.first_tokens)

        await wait_until(lambda: state(col.ITL) == pytest.approx(true(), rel=0.2), 30)
        assert not scraper.missing()
        assert not scraper.errors


async def test_a_pool_said_to_speculate_that_does_not_tell_is_noticed(start_pod: StartPod) -> None:
    pod = await start_pod()
    async with scraped(pod, Engine.ENGINE_VLLM, "/metrics", speculative_tokens=3) as (pods, scraper, slot):
        await wait_until(lambda: scraper.scrapes >= 2)
        assert {series for _, series in scraper.missing()} == {
            "vllm:spec_decode_num_drafts_total",
            "vllm:spec_decode_num_accepted_tokens_total",
        }
        assert pods.data[col.ACCEPTANCE, slot] == 1.0


async def test_another_engine_than_was_said(start_pod: StartPod) -> None:
    pod = await start_pod(metrics=MetricsDialect.SGLANG)
    async with scraped(pod, Engine.ENGINE_VLLM, "/metrics") as (_, scraper, _slot):
        await wait_until(lambda: len(scraper.missing()) == 3)


async def test_generic_pods_are_not_asked(start_pod: StartPod) -> None:
    pod = await start_pod()
    async with scraped(pod, Engine.ENGINE_GENERIC, "/metrics") as (_, scraper, _slot):
        assert len(scraper) == 0
        assert not scraper.missing()
        assert scraper.report() is None
