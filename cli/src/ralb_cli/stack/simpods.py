"""Simulated pods for pools that ask for them by annotation.

``sim.ralb.dev/replicas`` says how many; every other ``sim.ralb.dev/<option>`` is passed to ``ralb-sim`` as ``--<option>``. A pod
is a process on a loopback port; it is Ready while it listens. One that dies is started again on its port, as a kubelet would.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ralb_api.objects import ModelPool
from ralb_operator.view import Pod

from ralb_cli.stack.processes import Child

_LOG = logging.getLogger(__name__)
PREFIX = "sim.ralb.dev/"
_REPLICAS = PREFIX + "replicas"
_MAX_REPLICAS = 64
_START_S = 60.0
# Options a pool may set; anything else is a mistake worth saying.
OPTIONS = frozenset(
    {
        "profile",
        "time-scale",
        "reasoning-share",
        "output-median",
        "output-sigma",
        "tool-call-probability",
        "max-num-seqs",
        "max-num-batched-tokens",
        "max-model-len",
        "kv-tokens",
        "startup-delay",
        "faults",
        "seed",
    }
)


@dataclass(frozen=True, slots=True)
class SimPod:
    """A pod as wanted: equal ones are left running across reloads."""

    namespace: str
    name: str
    labels: tuple[tuple[str, str], ...]
    arguments: tuple[str, ...]


def wanted(pools: Iterable[ModelPool]) -> tuple[list[SimPod], list[str]]:
    """The pods that pools ask for, and complaints about annotations that make no sense."""
    pods: list[SimPod] = []
    complaints: list[str] = []
    for pool in pools:
        annotations = {k: v for k, v in pool.metadata.annotations.items() if k.startswith(PREFIX)}
        backend = pool.spec.backend.pods
        if _REPLICAS not in annotations or backend is None:
            continue
        text = annotations.pop(_REPLICAS)
        if not text.isdecimal() or int(text) > _MAX_REPLICAS:
            complaints.append(f"{pool.key}: {_REPLICAS} must be 0 to {_MAX_REPLICAS}, not {text!r}")
            continue
        arguments = ["--model", pool.spec.model.name]
        for name in (*pool.spec.model.aliases, *pool.spec.model.adapters):
            arguments += ["--alias", name]
        for key, value in sorted(annotations.items()):
            option = key.removeprefix(PREFIX)
            if option in OPTIONS:
                arguments += [f"--{option}", value]
            else:
                complaints.append(f"{pool.key}: {key} is not known; there are: {', '.join(sorted(OPTIONS))}")
        if pool.spec.model.context_window and PREFIX + "max-model-len" not in annotations:
            arguments += ["--max-model-len", str(pool.spec.model.context_window)]
        pods += [
            SimPod(
                pool.metadata.namespace,
                f"{pool.metadata.name}-{index}",
                tuple(sorted(backend.selector.match_labels.items())),
                tuple(arguments),
            )
            for index in range(int(text))
        ]
    return pods, complaints


class _Running:
    """One pod's process and where it listens."""

    def __init__(self, child: Child, ready_file: Path) -> None:
        self.child = child
        self.ready_file = ready_file
        self.port = 0
        self.ready = False


class SimPods:
    """Keeps the wanted pods running.

    Args:
        folder: for ready-files and logs.
        on_change: called whenever a pod became ready or stopped being it.
    """

    def __init__(self, folder: Path, on_change: Callable[[], Awaitable[None]]) -> None:
        self._folder = folder
        self._on_change = on_change
        self._running: dict[SimPod, _Running] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    def pods(self) -> list[Pod]:
        """The pods as ``compile`` sees them."""
        return [
            Pod(spec.namespace, spec.name, dict(spec.labels), "127.0.0.1", ready=running.ready, port=running.port)
            for spec, running in self._running.items()
            if running.port
        ]

    def table(self) -> list[dict[str, object]]:
        """Name, address and process of every pod, for the ready-file."""
        return [
            {
                "pod": f"{spec.namespace}/{spec.name}",
                "address": f"127.0.0.1:{running.port}",
                "pid": running.child.pid,
                "ready": running.ready,
            }
            for spec, running in self._running.items()
        ]

    async def apply(self, specs: Iterable[SimPod], *, drain: float = 0.0) -> None:
        """Start what is missing and wait until it listens; end what is no longer wanted after ``drain`` seconds."""
        wanted_set = set(specs)
        for spec in [spec for spec in self._running if spec not in wanted_set]:
            running = self._running.pop(spec)
            task = asyncio.create_task(self._retire(running, drain))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
        missing = [spec for spec in sorted(wanted_set, key=_order) if spec not in self._running]
        await asyncio.gather(*(self._start(spec) for spec in missing))

    async def stop(self) -> None:
        """End all pods."""
        for task in self._stopping:
            task.cancel()
        await asyncio.gather(
            *self._stopping,
            *(running.child.stop(grace=3) for running in self._running.values()),
            return_exceptions=True,
        )
        self._running.clear()

    async def _start(self, spec: SimPod) -> None:
        name = f"{spec.namespace}.{spec.name}"
        ready_file = self._folder / f"{name}.ready"
        ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "ralb_sim.main", *spec.arguments, "--ready-file", str(ready_file)]

        async def gone(_: int) -> None:
            running.ready = False
            ready_file.unlink(missing_ok=True)
            # The same address again, as the simulated pod keeps its IP.
            running.child.command = [*command, "--port", str(running.port)]
            await self._on_change()

        async def back() -> None:
            await self._wait_ready(running)
            await self._on_change()

        running = _Running(
            Child(f"pod {name}", command, log=self._folder / f"{name}.log", on_exit=gone, on_start=back), ready_file
        )
        self._running[spec] = running
        await running.child.start()
        await self._wait_ready(running)
        if not running.ready:
            _LOG.error("simulated pod %s did not start; its log is %s", name, self._folder / f"{name}.log")

    async def _wait_ready(self, running: _Running) -> None:
        """Poll for the ready-file: the child writes it when it listens."""
        deadline = asyncio.get_running_loop().time() + _START_S
        while asyncio.get_running_loop().time() < deadline:
            try:
                running.port = int(json.loads(running.ready_file.read_bytes())["port"])
            except (OSError, ValueError, KeyError):
                await asyncio.sleep(0.02)
                continue
            running.ready = True
            return

    async def _retire(self, running: _Running, drain: float) -> None:
        await asyncio.sleep(drain)
        await running.child.stop(grace=30)


def _order(spec: SimPod) -> tuple[str, str]:
    return (spec.namespace, spec.name)
