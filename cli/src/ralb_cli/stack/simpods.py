"""Simulated pods for pools that ask for them by annotation.

``sim.ralb.dev/replicas`` says how many; every other ``sim.ralb.dev/<option>`` is passed to ``ralb-sim`` as ``--<option>``. A pod
is a process on a loopback port; it is Ready while it listens. One that dies is started again on its port, as a kubelet would. One
whose options change is replaced once its successor is ready, as a rolling update would.
"""

import asyncio
import itertools
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ralb_api.objects import Engine, ModelPool
from ralb_cli.stack.processes import Child, tail
from ralb_operator.view import Pod

_LOG = logging.getLogger(__name__)
PREFIX = "sim.ralb.dev/"
_REPLICAS = PREFIX + "replicas"
_MAX_REPLICAS = 64
_START_S = 60.0
# What open requests get once a pod was told to end; one that is idle ends at once.
_POD_DRAIN_S = 30.0
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
        "sidecar",
        "seed",
        "speculative",
        "acceptance",
        "max-loras",
        "metrics-dialect",
    }
)
# Engines whose pages the simulated pods show instead of vLLM's.
_PAGES = {Engine.SGLANG: "sglang", Engine.TENSORRT_LLM: "tensorrt-llm"}


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
        for name in pool.spec.model.aliases:
            arguments += ["--alias", name]
        for name in pool.spec.model.adapters:
            arguments += ["--lora", name]
        if backend.engine in _PAGES and PREFIX + "metrics-dialect" not in annotations:
            arguments += ["--metrics-dialect", _PAGES[backend.engine]]
        if pool.spec.speculative is not None and PREFIX + "speculative" not in annotations:
            arguments += ["--speculative", str(pool.spec.speculative.draft_tokens)]
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
        self.watch: asyncio.Task[None] | None = None

    def unwatch(self) -> None:
        """Give up waiting for the process to be ready."""
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None


class SimPods:
    """Keeps the wanted pods running.

    Args:
        folder: for ready-files and logs.
        on_change: called whenever a pod became ready or stopped being it.
    """

    def __init__(self, folder: Path, on_change: Callable[[], Awaitable[None]]) -> None:
        self._folder = folder
        self._on_change = on_change
        self._wanted: frozenset[SimPod] = frozenset()
        self._running: dict[SimPod, _Running] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._drain = 0.0
        self._count = itertools.count()

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
        """Start what is missing and end what is no longer wanted; neither is waited for, ``on_change`` tells of it.

        Args:
            specs: the pods that should run.
            drain: seconds between a pod's leaving and its being told to end, so that nobody sends requests there any more.

        Raises:
            OSError: a process cannot be started.
        """
        self._wanted = frozenset(specs)
        self._drain = drain
        self._retire_unwanted()
        for spec in sorted(self._wanted, key=_order):
            if spec not in self._running:
                await self._start(spec)

    async def started(self, limit: float = _START_S) -> None:
        """Wait until all wanted pods are ready, for at most ``limit`` seconds; the others are named in the log."""
        deadline = asyncio.get_running_loop().time() + limit
        while missing := [spec for spec in self._wanted if spec in self._running and not self._running[spec].ready]:
            if asyncio.get_running_loop().time() > deadline:
                for spec in sorted(missing, key=_order):
                    log = tail(_log(self._running[spec]))
                    _LOG.error("simulated pod %s is not ready yet; its log ends with:\n%s", spec.name, log)
                return
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End all pods."""
        for task in self._retiring:
            task.cancel()
        for running in self._running.values():
            running.unwatch()
        stops = (running.child.stop(grace=3) for running in self._running.values())
        await asyncio.gather(*self._retiring, *stops, return_exceptions=True)
        self._running.clear()

    def _retire_unwanted(self) -> bool:
        """End unwanted pods, except those whose successor (same name, other options) is not ready yet."""
        coming = {(s.namespace, s.name) for s in self._wanted if s not in self._running or not self._running[s].ready}
        left = False
        for spec in [spec for spec in self._running if spec not in self._wanted]:
            running = self._running[spec]
            if running.ready and (spec.namespace, spec.name) in coming:
                continue
            del self._running[spec]
            running.unwatch()
            task = asyncio.create_task(_retire(running, self._drain))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            left = True
        return left

    async def _start(self, spec: SimPod) -> None:
        name = f"{spec.namespace}.{spec.name}"
        ready_file = self._folder / f"{name}.{next(self._count)}.ready"
        command = [sys.executable, "-m", "ralb_sim.main", *spec.arguments, "--drain-timeout", str(_POD_DRAIN_S)]
        command += ["--ready-file", str(ready_file)]

        async def gone(_: int) -> None:
            running.unwatch()
            # The same address again, as the simulated pod keeps its IP; unless that is what it failed on.
            running.child.command = [*command, "--port", str(running.port)] if running.ready else command
            running.ready = False
            ready_file.unlink(missing_ok=True)
            await self._on_change()

        async def back() -> None:
            running.watch = asyncio.create_task(self._watch(running))

        running = _Running(Child(f"pod {name}", command, on_exit=gone, on_start=back), ready_file)
        running.child.log = _log(running)
        await running.child.start()
        self._running[spec] = running
        await back()

    async def _watch(self, running: _Running) -> None:
        """Poll for the ready-file, which the process writes when it listens; then tell."""
        while not running.ready:
            try:
                running.port = int(json.loads(running.ready_file.read_bytes())["port"])
                running.ready = True
            except (OSError, ValueError, KeyError):
                await asyncio.sleep(0.02)
        running.watch = None
        await self._on_change()
        if self._retire_unwanted():
            await self._on_change()


async def _retire(running: _Running, drain: float) -> None:
    """End a pod that nobody is sent to any more; its open requests may finish."""
    grace = _POD_DRAIN_S + 5
    try:
        await asyncio.sleep(drain)
    except asyncio.CancelledError:
        grace = 3
        raise
    finally:
        await running.child.stop(grace=grace)


def _log(running: _Running) -> Path:
    return running.ready_file.with_suffix(".log")


def _order(spec: SimPod) -> tuple[str, str]:
    return (spec.namespace, spec.name)
