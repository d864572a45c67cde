"""``ralb-operator`` as a process: it starts, ends when told, and says why when it cannot."""

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support_cluster import ControlPlane
from support_net import free_port, wait_until
from support_snapshots import SnapshotClient


@asynccontextmanager
async def operator(*arguments: str) -> AsyncIterator[tuple[Process, list[str]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ralb_operator.main", *arguments, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
    )
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            lines.append(line.decode().rstrip())

    reading = asyncio.create_task(read())
    try:
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


@pytest.mark.usefixtures("crds")
async def test_it_serves_and_ends_when_told(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/grpc.sock"
    config = str(control_plane.kubeconfig_file)
    flags = ("--namespace", namespace, "--kubeconfig", config, "--admin-port", str(free_port()))
    async with operator("--listen", listen, *flags) as (process, lines):
        await wait_until(lambda: any("serving" in line for line in lines), 60, what="it serves")
        async with SnapshotClient(listen) as processor:
            await wait_until(lambda: processor.received)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert not [line for line in lines if "Traceback" in line or " error " in line], lines


@pytest.mark.usefixtures("crds")
async def test_a_taken_address_ends_it(control_plane: ControlPlane, namespace: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        config = str(control_plane.kubeconfig_file)
        flags = ("--namespace", namespace, "--kubeconfig", config, "--admin-port", str(free_port()))
        async with operator("--listen", listen, *flags) as (process, lines):
            assert await asyncio.wait_for(process.wait(), 60) == 1
    assert any("ralb-operator ends: cannot listen on" in line for line in lines), lines
