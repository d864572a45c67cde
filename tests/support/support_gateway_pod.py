"""A gateway as the chart's pod is: a real Envoy and a real processor as processes, which know only the operator's address."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from support_envoy import Envoy, running_envoy
from support_net import free_ports, wait_until

from ralb_cli.stack.processes import Child
from ralb_operator.bootstrap import bootstrap


@dataclass(slots=True)
class GatewayPod:
    """Both processes.

    Attributes:
        port: where clients come in (the operator must have been told the same).
        socket: where the processor listens (the operator must have been told the same).
    """

    port: int
    socket: Path
    admin_port: int
    envoy: Envoy
    processor: Child
    records: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def pods(self) -> list[dict[str, Any]]:
        """What the processor knows of every pod."""
        url = f"http://127.0.0.1:{self.admin_port}/debug/pods"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return list((await answer.json())["pods"])

    async def ready(self) -> bool:
        """The processor has a snapshot and Envoy its listener."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.admin_port}/readyz") as answer,
            ):
                if answer.status != 200:
                    return False
        except aiohttp.ClientError:
            return False
        listeners = await self.envoy.stats("listener_manager.total_listeners_active")
        return listeners.get("listener_manager.total_listeners_active", 0) > 0


@asynccontextmanager
async def running_gateway_pod(
    operator: str, port: int, socket: Path, *, node: str = "gateway-0", processor_arguments: Sequence[str] = ()
) -> AsyncIterator[GatewayPod]:
    """Start both; they wait for the operator by themselves. ``operator`` is its ``host:port``."""
    folder = Path(tempfile.mkdtemp(prefix="ralb-gw-"))
    (admin_port,) = free_ports(1)
    records = folder / "records.jsonl"
    command = [
        sys.executable,
        "-m",
        "ralb_extproc.main",
        *("--listen", f"unix:{socket}", "--operator", operator),
        *("--admin-port", str(admin_port), "--records", str(records)),
        *processor_arguments,
    ]
    processor = Child("processor", command, log=folder / "processor.log")
    await processor.start()
    try:
        await wait_until(socket.exists, 30, what="the processor's socket")
        async with running_envoy(bootstrap(node, operator), folder, wait_ready=False) as envoy:
            yield GatewayPod(port, socket, admin_port, envoy, processor, records)
    finally:
        await processor.stop()
        if os.environ.get("RALB_KEEP"):
            print(json.dumps({"gateway": str(folder)}))
        else:
            shutil.rmtree(folder, ignore_errors=True)
