"""The command as it is deployed: ``ralb-extproc`` as a picker, simulated vLLM pods, Envoy as the gateway."""

import asyncio
import json
import signal
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from support_envoy import running_envoy
from support_epp import CHAT, Target, calling
from support_epp_envoy import gateway_config
from support_net import free_ports, wait_until
from support_picker import POOL, picker_process, pool

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.epp.health import Serving
from ralb_operator.serving import serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.server import AdsServer
from ralb_sim.config import ServerConfig
from ralb_sim.engine import EngineConfig
from ralb_sim.profiles import get_profile
from ralb_sim.server.app import build_app

PROFILE = get_profile("llama-3-8b-h100")


async def sim_pod() -> tuple[str, web.AppRunner]:
    engine = EngineConfig.of(PROFILE)
    config = ServerConfig(
        profile=PROFILE, engine=engine, names=("base",), max_model_len=4096, time_scale=0.02, output_median=12
    )
    runner = web.AppRunner(build_app(config, []), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return f"{host}:{port}", runner


@pytest.mark.envoy
async def test_pods_die_and_clients_do_not_notice(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        pods = dict([await sim_pod() for _ in range(3)])
        for runner in pods.values():
            stack.push_async_callback(runner.cleanup)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ralb-epp-")))
        snapshots = SnapshotServer()
        serving = await serve(f"unix:{folder}/s", AdsServer(), snapshots)
        stack.push_async_callback(serving.stop, 0)
        pool = pb.Pool(
            id=POOL, cluster="pool", model=pb.Model(name="base"), engine=pb.ENGINE_VLLM, metrics_path="/metrics"
        )
        pool.endpoints.extend(pb.Endpoint(address=address) for address in sorted(pods))
        snapshots.set(pb.Snapshot(version="1", pools=[pool]))
        running = await stack.enter_async_context(picker_process(serving.address, tmp_path))
        await running.serving()
        (port,) = free_ports(1)
        config = gateway_config(port, running.picker, sorted(pods))
        envoy = await stack.enter_async_context(running_envoy(config, tmp_path, log_level="warning"))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)))
        await wait_until(lambda: _seen_healthy(envoy), what="Envoy sees the picker")

        async def stream() -> str:
            body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            async with session.post(url, json=body) as answer:
                text = await answer.text()
                assert answer.status == 200, text
                assert text.endswith("data: [DONE]\n\n")
                return answer.headers["x-ralb-decision-id"]

        before = [await stream() for _ in range(6)]
        dead = sorted(pods)[0]
        await pods[dead].cleanup()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(stream()) for _ in range(20)]
        after = [task.result() for task in tasks]

        def written() -> dict[str, Any]:
            lines = running.records.read_bytes().split(b"\n")[:-1] if running.records.exists() else []
            return {record["id"]: record for record in map(json.loads, lines)}

        await wait_until(lambda: written().keys() >= {*before, *after}, what="records")
        outcomes = [written()[one]["outcome"] for one in (*before, *after)]
        assert all(one["status"] == 200 and not one["tokens"]["estimated"] for one in outcomes)
        assert all(one["endpoint"] in pods and one["ttft_s"] > 0 for one in outcomes)
        assert all(written()[one]["outcome"]["endpoint"] != dead for one in after)
        page = await (await session.get(f"{running.admin}/metrics")).text()
        assert 'ralb_requests_total{api="chat",code="200"} 26.0' in page
        assert f'ralb_decisions_total{{policy="",pool="{POOL}",rule="",tier=""}} 26.0' in page
        assert "ralb_pod_running" in page
        assert (await session.get(f"{running.admin}/readyz")).status == 200
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.process.wait(), 30) == 0, running.log.read_text()


async def test_calls_are_taken_until_gateways_have_noticed_the_end(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ralb-epp-"))
        snapshots = SnapshotServer()
        serving = await serve(f"unix:{folder}/s", AdsServer(), snapshots)
        stack.push_async_callback(serving.stop, 0)
        snapshots.set(pb.Snapshot(version="1", pools=[pool()]))
        async with picker_process(serving.address, tmp_path, "--epp-drain-min", "100") as running:
            await running.serving()
            running.process.send_signal(signal.SIGTERM)

            async def noticed() -> bool:
                async with calling(Target(running.health, False, ())) as caller:
                    return await caller.health("readiness") == Serving.NOT_SERVING

            await wait_until(noticed, what="the picker says that it ends")
            async with calling(Target(running.picker, True, ())) as caller:
                watch = caller.watch("readiness")
                assert (await watch.read()).value == Serving.NOT_SERVING
                assert await watch.read() is grpc.aio.EOF, "a watch does not keep it from ending"
                assert (await caller.ask(CHAT)).endpoints
                assert await caller.health("liveness") == Serving.SERVING


async def _seen_healthy(envoy: Any) -> bool:
    stats = await envoy.stats("cluster.picker.health_check.success")
    return any(stats.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epp-pool", "a/b"], "its own --epp-listen"),
        (["--epp-pool", POOL, "--epp-listen", "127.0.0.1:1"], "twice"),
        (["--epp-tls", "on"], "off, self-signed or dir:PATH"),
        (["--epp-tls", "dir:/nonexistent"], "/nonexistent"),
        (["--epp-pool", "nonsense", "--epp-listen", "127.0.0.1:1"], "NAMESPACE/NAME"),
        (["--epp-pool", "a/b", "--epp-listen", "nowhere"], "host:port"),
        (
            ["--epp-drain-min", "7", "--epp-drain-timeout", "6"],
            "--epp-drain-min (7) must be 0 to --epp-drain-timeout (6)",
        ),
    ],
)
async def test_wrong_flags_say_what_to_do(tmp_path: Path, arguments: list[str], said: str) -> None:
    async with picker_process("127.0.0.1:1", tmp_path, *arguments) as running:
        assert await asyncio.wait_for(running.process.wait(), 30) in (1, 2)
        text = running.log.read_text()
        assert said in text
        assert "Traceback" not in text
