"""The stack: load, compile, publish; start everything; load again when files change; drain and stop."""

import asyncio
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ralb_api.problems import Severity
from ralb_cli.stack.envoy import EnvoyAdmin, envoy_binary
from ralb_cli.stack.last_good import keep_last_good
from ralb_cli.stack.processes import Child, tail
from ralb_cli.stack.simpods import SimPods, wanted
from ralb_operator.bootstrap import bootstrap
from ralb_operator.compile import Result
from ralb_operator.control import ControlPlane
from ralb_operator.files import load
from ralb_operator.view import Gateway, View

_LOG = logging.getLogger(__name__)
_READY_S = 60.0
_DRAIN_S = 30.0
# How long Envoy still accepts after it was told to drain, so that clients learn of it from an answer.
_ACCEPT_S = 1
# A pod that is no longer wanted is told to end only after nobody can send requests to it any more.
_POD_LEAVES_S = 5.0


@dataclass(frozen=True, slots=True)
class StackOptions:
    """How to run.

    Attributes:
        source: folder or file with objects.
        port: client-facing port; 0 = any free one.
        address: client-facing address.
        admin_port: the processor's metrics port; 0 = any free one.
        sim: start simulated pods for pools that ask for them.
        records: where decision records go: "-" for stdout, "" for nowhere, else a file.
        json_logs: the processor's log lines as JSON.
        concurrency: Envoy's worker threads.
    """

    source: str
    port: int = 8080
    address: str = "127.0.0.1"
    admin_port: int = 0
    sim: bool = False
    records: str = "-"
    json_logs: bool = False
    concurrency: int = 2


class StackError(Exception):
    """The stack cannot start; the text says why and what to do."""


class Stack:
    """One running RALB.

    Args:
        options: how.
        on_change: called whenever what ``describe`` gives has changed, once everything is up.
    """

    def __init__(self, options: StackOptions, on_change: Callable[[], None] | None = None) -> None:
        self.options = options
        self._on_change = on_change
        self.port = options.port or free_port(options.address)
        self.admin_port = options.admin_port or free_port("127.0.0.1")
        self._envoy_admin_port = free_port("127.0.0.1")
        # Short: a Unix socket's path may have little more than 100 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="ralb-"))
        self._gateway = Gateway(
            address=options.address, port=self.port, processor=f"unix:{self.folder / 'extproc.sock'}"
        )
        self._control_address = f"unix:{self.folder / 'control.sock'}"
        self.control = ControlPlane(self._control_address)
        self.admin = EnvoyAdmin(self._envoy_admin_port)
        self.pods = SimPods(self.folder, self._pods_changed)
        self._children: list[Child] = []
        self._view: View | None = None
        self._reloading = asyncio.Lock()
        self._up = False
        self._said: set[str] = set()

    @property
    def url(self) -> str:
        """Base URL for clients."""
        return f"http://{self.options.address}:{self.port}"

    async def start(self) -> None:
        """Start everything and wait until requests are served.

        Raises:
            StackError: something essential is missing or does not start.
        """
        try:
            envoy = envoy_binary()
            _check_port(self.options.address, self.port)
            await self.control.start()
            await self._start_processor()
            await self.reload()
            await self.pods.started()
            await self._start_envoy(envoy)
            await self._wait_ready()
            self._up = True
        except OSError as error:
            raise StackError(str(error)) from error

    async def reload(self) -> None:
        """Read the objects again and publish what changed.

        What can no longer be read stays as it was. Pods that are no longer wanted drain first; new ones join when they are
        ready.
        """
        async with self._reloading:
            try:
                view = await asyncio.to_thread(load, self.options.source, self._gateway)
            except OSError as error:
                if self._view is None:
                    raise
                _LOG.error("%s; the last good configuration stays in use", error)
                return
            if self._view is not None:
                view, kept = keep_last_good(self._view, view)
                for key in kept:
                    _LOG.error("%s: the last good version stays in use", key)
            self._view = view
            if self.options.sim:
                specs, complaints = wanted(view.pools.values())
                for text in complaints:
                    self._say(text, Severity.ERROR)
                await self.pods.apply(specs, drain=_POD_LEAVES_S)
            await self._pods_changed()

    async def publish(self) -> None:
        """Publish the objects with the pods as they are now."""
        if self._view is None:
            return
        applied = await self.control.apply(replace(self._view, pods=(*self._view.pods, *self.pods.pods())))
        self._report(applied.result)
        for nack in applied.report.nacks:
            _LOG.error("Envoy refuses part of the configuration: %s: %s", nack.name, nack.message)
        for node, text in applied.report.refusals:
            _LOG.error("processor %s refuses the snapshot: %s", node, text)

    async def stop(self, *, drain: float = _DRAIN_S, hurry: asyncio.Event | None = None) -> None:
        """Let open requests end, then stop Envoy first and the rest after it.

        Args:
            drain: most seconds open requests get.
            hurry: ends the waiting early.
        """
        self._up = False
        if self._children:
            await self._drain(drain, hurry or asyncio.Event())
        for child in reversed(self._children):
            await child.stop()
        await self.control.stop()
        await self.pods.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _drain(self, limit: float, hurry: asyncio.Event) -> None:
        """Until the listener is closed new requests still come in, so nobody open before that proves nothing."""
        await self.admin.drain()
        deadline = asyncio.get_running_loop().time() + limit
        while asyncio.get_running_loop().time() < deadline and not hurry.is_set():
            if not await self._accepting() and not await self.admin.active_requests():
                return
            # Envoy has to be asked; nothing tells us.
            await asyncio.sleep(0.1)
        open_requests = await self.admin.active_requests()
        if open_requests:
            _LOG.warning("%d requests were still open and are broken off", open_requests)

    async def _accepting(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(self.options.address, self.port)
        except OSError:
            return False
        writer.close()
        return True

    def describe(self) -> dict[str, Any]:
        """What the ready-file holds."""
        return {
            "url": self.url,
            "port": self.port,
            "metrics": f"http://127.0.0.1:{self.admin_port}/metrics",
            "admin_port": self.admin_port,
            "envoy_admin_port": self._envoy_admin_port,
            "pid": os.getpid(),
            "processes": {child.name: child.pid for child in self._children},
            "pods": self.pods.table(),
            "folder": str(self.folder),
        }

    async def _start_processor(self) -> None:
        command = [
            sys.executable,
            "-m",
            "ralb_extproc.main",
            *("--listen", self._gateway.processor),
            *("--operator", self._control_address),
            *("--admin-port", str(self.admin_port)),
            *("--records", self.options.records),
            *("--max-body-bytes", str(self._gateway.max_body_bytes)),
        ]
        if self.options.json_logs:
            command.append("--json-logs")
        child = Child("processor", command, on_exit=self._child_gone, on_start=self._child_back)
        self._children.append(child)
        await child.start()

    async def _start_envoy(self, binary: str) -> None:
        # JSON, because Envoy's YAML takes unquoted n and y for booleans.
        config = self.folder / "envoy.json"
        config.write_text(json.dumps(bootstrap("ralb-up", self._control_address, admin_port=self._envoy_admin_port)))
        command = [binary, "-c", str(config), "--use-dynamic-base-id", "--log-level", "warning"]
        command += ["--concurrency", str(self.options.concurrency), "--drain-time-s", str(_ACCEPT_S)]
        command += ["--drain-strategy", "immediate"]
        log = self.folder / "envoy.log"
        child = Child("envoy", command, log=log, on_exit=self._child_gone, on_start=self._child_back)
        self._children.append(child)
        await child.start()

    async def _child_gone(self, _: int) -> None:
        self._changed()

    async def _child_back(self) -> None:
        self._changed()

    async def _pods_changed(self) -> None:
        self._changed()
        await self.publish()

    def _changed(self) -> None:
        if self._up and self._on_change is not None:
            self._on_change()

    async def _wait_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + _READY_S
        while True:
            if await self._serving():
                return
            if any(child.restarts >= 3 for child in self._children):
                raise StackError(f"Envoy or the processor does not stay up:\n{tail(self.folder / 'envoy.log')}")
            if asyncio.get_running_loop().time() > deadline:
                log = tail(self.folder / "envoy.log")
                raise StackError(f"not ready after {_READY_S:.0f} s; Envoy's log ends with:\n{log}")
            await asyncio.sleep(0.05)

    async def _serving(self) -> bool:
        """Ready means that a request goes all the way: client port, Envoy, processor, snapshot."""
        try:
            reader, writer = await asyncio.open_connection(self.options.address, self.port)
        except OSError:
            return False
        try:
            writer.write(b"GET /v1/models HTTP/1.1\r\nhost: ralb\r\nconnection: close\r\n\r\n")
            line = await asyncio.wait_for(reader.readline(), 5)
            return b" 200 " in line
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()

    def _report(self, result: Result) -> None:
        current = {str(problem): problem for problem in result.problems}
        for text, problem in current.items():
            if text not in self._said:
                self._say(str(problem), problem.severity)
        self._said = set(current)

    def _say(self, text: str, severity: Severity) -> None:
        _LOG.log(logging.ERROR if severity is Severity.ERROR else logging.WARNING, "%s", text)


def write_ready_file(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader sees all of it or nothing."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def free_port(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _check_port(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise StackError(
                f"cannot listen on {address}:{port}: {error.strerror}; choose another with --port"
            ) from error


__all__ = ["Stack", "StackError", "StackOptions", "write_ready_file"]
