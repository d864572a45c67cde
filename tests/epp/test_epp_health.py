"""Health checks, for any picker; what they depend on, for ours."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from support_epp import Caller, Target, calling
from support_net import wait_until
from support_picker import ENDPOINTS, own_picker, pool

from ralb_extproc.epp.health import Serving

EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"


@pytest.fixture
async def health(target: Target) -> AsyncIterator[Caller]:
    if target.health:
        async with calling(Target(target.health, False, target.endpoints)) as caller:
            yield caller
        return
    async with calling(target) as caller:
        yield caller


@pytest.mark.parametrize("service", ["", "liveness", "readiness", EXT_PROC])
async def test_a_picker_that_can_pick_is_serving(health: Caller, service: str) -> None:
    assert await health.health(service) == Serving.SERVING


async def test_unknown_services_are_not_found(health: Caller) -> None:
    assert await health.health("nothing.like.that") is grpc.StatusCode.NOT_FOUND


async def test_ours_is_ready_with_its_pool_and_alive_before(tmp_path: Path) -> None:
    async with own_picker(tmp_path, start_with_snapshot=False) as own:
        assert own.processor.pickers is not None
        plain_address = own.processor.pickers.health_address
        async with (
            calling(Target(own.address, False, ENDPOINTS)) as here,
            calling(Target(plain_address, False, ENDPOINTS)) as there,
        ):
            watch = here.watch(EXT_PROC)
            said = asyncio.create_task(_values(watch, 4))
            for caller in (here, there):
                assert await caller.health("liveness") == Serving.SERVING
                for service in ("", "readiness", EXT_PROC):
                    assert await caller.health(service) == Serving.NOT_SERVING
            # The watch hears of changes only, and of each: wait for one before making the next.
            await own.apply(pool(name="models/other"))
            assert await there.health("readiness") == Serving.NOT_SERVING
            await own.apply(pool())
            await wait_until(lambda: _serving(there), what="readiness")
            assert await here.health("") == Serving.SERVING
            await own.apply(pool(()))
            assert await here.health("readiness") == Serving.SERVING, "a pool without pods answers 503 by itself"
            await own.apply(pool(name="models/other"))
            assert await here.health("readiness") == Serving.NOT_SERVING
            await own.apply(pool())
            await wait_until(lambda: said.done() or _serving(here))
            watch.cancel()
            assert (await said)[:3] == [Serving.NOT_SERVING, Serving.SERVING, Serving.NOT_SERVING]


async def _serving(caller: Caller) -> bool:
    return await caller.health("readiness") == Serving.SERVING


async def _values(watch: object, count: int) -> list[int]:
    values: list[int] = []
    try:
        async for message in watch:  # type: ignore[attr-defined]
            values.append(message.value)
            if len(values) == count:
                break
    except asyncio.CancelledError:
        pass
    return values


async def test_a_watch_of_an_unknown_service_stays(health: Caller) -> None:
    watch = health.watch("nothing.like.that")
    assert (await watch.read()).value == Serving.SERVICE_UNKNOWN
    assert not watch.done()
    watch.cancel()


async def test_watches_end_when_ours_stops(tmp_path: Path) -> None:
    async with own_picker(tmp_path) as own, calling(Target(own.address, False, ENDPOINTS)) as caller:
        watch = caller.watch("readiness")
        assert (await watch.read()).value == Serving.SERVING
        assert own.processor.pickers is not None
        await own.processor.pickers.stop()
        assert (await watch.read()).value == Serving.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
