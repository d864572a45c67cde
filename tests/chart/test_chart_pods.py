"""The chart's pods as processes: they find and trust each other, serve, and a drained gateway loses no request."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest
from support_chart import container
from support_chart_pods import ChartPods, chart_pods
from support_cluster import ControlPlane
from support_kubelet import FakeKubelet
from support_net import wait_until
from support_simulators import Simulators

pytestmark = [pytest.mark.envoy, pytest.mark.usefixtures("crds", "foreign_crds")]

OBJECTS = "/apis/ralb.dev/v1alpha1/namespaces"
MODEL = "some/model"


def values(namespace: str, tls: str) -> dict[str, Any]:
    return {
        "watch": {"namespaces": [namespace]},
        "tls": {"mode": tls},
        "gateway": {"drainSeconds": 30, "drainMinSeconds": 1},
    }


def pool(namespace: str) -> dict[str, Any]:
    spec = {"model": {"name": MODEL}, "backend": {"pods": {"selector": {"matchLabels": {"app": "vllm"}}, "port": 8000}}}
    meta = {"name": "pool", "namespace": namespace}
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "ModelPool", "metadata": meta, "spec": spec}


def chat(tokens: int) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": tokens,
        "min_tokens": tokens,
    }


async def start_gateway(pods: ChartPods) -> None:
    """In the kubelet's order: volumes, init containers one after the other, then the rest."""
    if "tls" in {volume["name"] for volume in pods.template("gateway")["spec"]["volumes"]}:
        await wait_until(pods.mount_certificates, 60, what="the gateway's certificate")
    pod = pods.make_pod("gateway")
    pods.run_bootstrap(pod)
    pods.start("gateway", "processor", pod)
    await pods.until("gateway", "processor", "startupProbe")
    pods.start("gateway", "envoy", pod)
    await pods.until("gateway", "envoy")
    await pods.until("gateway", "processor")


@pytest.mark.parametrize("tls", ["Bootstrap", "Off"])
async def test_pods_serve_and_drain(
    control_plane: ControlPlane,
    namespace: str,
    fake_kubelet: FakeKubelet,
    simulators: Simulators,
    tls: str,
) -> None:
    async with chart_pods(control_plane, namespace, values(namespace, tls)) as pods, aiohttp.ClientSession() as session:
        pods.start_operator()
        await pods.until("operator", "operator")
        # Ready without any object, or `helm install --wait` would never end.
        await start_gateway(pods)
        for port, path in ((9301, "/metrics"), (9400, "/metrics"), (9902, "/stats/prometheus"), (9902, "/ready")):
            assert await pods.status(port, path) == 200, path
        for path in ("/config_dump", "/quitquitquit"):
            assert await pods.status(9902, path) == 404, path

        ip = await simulators.start(MODEL, time_scale=0.2)
        await fake_kubelet.pod(namespace, "vllm-0", ip=ip, labels={"app": "vllm"})
        control_plane.api.request("POST", f"{OBJECTS}/{namespace}/modelpools", pool(namespace))

        async def answered() -> bool:
            async with session.post(f"{pods.gateway}/v1/chat/completions", json=chat(2)) as answer:
                return answer.status == 200

        await wait_until(answered, 60, interval=0.1, what=f"an answer through the gateway\n{pods.logs()}")

        def ready() -> bool:
            got = control_plane.api.request("GET", f"{OBJECTS}/{namespace}/modelpools/pool").get("status", {})
            found = {each["type"]: each["status"] for each in got.get("conditions", ())}
            return all(found.get(name) == "True" for name in ("Accepted", "ResolvedRefs", "Programmed", "Ready"))

        await wait_until(ready, 60, interval=0.1, what="all conditions")
        await drain(pods, session)


async def drain(pods: ChartPods, session: aiohttp.ClientSession) -> None:
    """As the kubelet ends the pod: hook, Envoy, and then the processor."""
    began = asyncio.Event()
    ended: list[float] = []

    async def stream() -> list[bytes]:
        body = chat(200) | {"stream": True}
        async with session.post(f"{pods.gateway}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            lines = []
            async for line in answer.content:
                began.set()
                lines.append(line)
        ended.append(time.monotonic())
        return lines

    request = asyncio.create_task(stream())
    await asyncio.wait_for(began.wait(), 30)
    hook = container(pods.template("gateway"), "envoy")["lifecycle"]["preStop"]["httpGet"]
    url = f"http://127.0.0.1:{pods.ports[hook['port']]}{hook['path']}"
    async with session.get(url) as answer:
        said = json.loads(await answer.read())
    assert ended, "the hook was answered while a request was running"
    assert (await request)[-2].strip() == b"data: [DONE]"
    assert said["result"] == "drained"
    processor, envoy = pods.daemons[-2:]
    assert await asyncio.to_thread(envoy.stop) == 0
    assert processor.pid
    assert await asyncio.to_thread(processor.stop) == 0
