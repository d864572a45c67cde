"""``ralb-sim`` processes at chosen loopback addresses: what stands behind the addresses of a fake kubelet's Pods."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support_kubelet import address
from support_net import wait_until
from support_process import Daemon


class Simulators:
    """Simulated servers of a test; ended with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, Daemon] = {}

    async def start(self, model: str, *, ip: str = "", port: int = 8000, **options: str | float) -> str:
        """Start one and wait until it listens; returns its address, ``127.x.y.z``.

        Options are those of ``ralb-sim`` with underscores: ``time_scale=0.01``.
        """
        ip = ip or address()
        where = f"{ip}:{port}"
        ready_file = self._folder / f"{where.replace(':', '_')}.ready"
        command = [sys.executable, "-m", "ralb_sim.main", "--host", ip, "--port", str(port), "--model", model]
        command += ["--ready-file", str(ready_file)]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        daemon = Daemon(f"ralb-sim {where}", command, ready_file.with_suffix(".log"))
        self._running[where] = daemon
        await self._start(daemon, ready_file)
        return ip

    async def restart(self, ip: str, port: int = 8000) -> None:
        """Start one again that was stopped, at its address."""
        where = f"{ip}:{port}"
        await self._start(self._running[where], self._folder / f"{where.replace(':', '_')}.ready")

    def stop(self, ip: str, port: int = 8000, **options: int) -> None:
        """End one; ``signum`` and ``grace`` as in Daemon.stop."""
        self._running[f"{ip}:{port}"].stop(**options)

    def log(self, ip: str, port: int = 8000) -> str:
        """The end of its log."""
        return self._running[f"{ip}:{port}"].tail()

    def close(self) -> None:
        """End all."""
        for daemon in self._running.values():
            daemon.stop(grace=3)

    async def _start(self, daemon: Daemon, ready_file: Path) -> None:
        await asyncio.to_thread(ready_file.unlink, missing_ok=True)
        daemon.start()

        def listening() -> bool:
            return not daemon.pid or (ready_file.exists() and bool(json.loads(ready_file.read_bytes())))

        await wait_until(listening, 60, interval=0.02, what=f"{daemon.name}:\n{daemon.tail()}")
        assert daemon.pid, f"{daemon.name} ended with code {daemon.exit_code}:\n{daemon.tail()}"


@asynccontextmanager
async def running_simulators(folder: Path) -> AsyncIterator[Simulators]:
    """Simulators with their files in this folder, ended with the block."""
    simulators = Simulators(folder)
    try:
        yield simulators
    finally:
        simulators.close()
