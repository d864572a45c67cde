"""An operator inside the test, on a cluster, with short waits; and objects to give it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support_cluster import ControlPlane
from support_net import wait_until

from ralb.v1.snapshot_pb2 import Snapshot
from ralb_operator.cluster.app import Operator, Options
from ralb_operator.cluster.listwatch import Times
from ralb_operator.control import Applied
from ralb_operator.view import View

API = "ralb.dev/v1alpha1"
QUICK = Times(first=0.05, most=1.0, slow=0.5)


@dataclass
class Running:
    """A running operator.

    Attributes:
        operator: itself.
        applied: all publications so far.
        stop: ends it.
        task: its ``run``.
    """

    operator: Operator
    applied: list[tuple[Applied, View]] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    @property
    def view(self) -> View:
        return self.applied[-1][1]

    @property
    def snapshot(self) -> Snapshot:
        return self.applied[-1][0].result.snapshot

    def pods_of(self, pool: str) -> set[str]:
        """Names of the pods of a pool, given as ``namespace/name``, in what is served."""
        return {pod.name for each in self.snapshot.pools if each.id == pool for pod in each.endpoints}

    async def serving(self) -> None:
        await self.until(lambda: not self.operator.not_ready(), "the operator is ready")

    async def until(self, condition: Callable[[], object], what: str = "", seconds: float = 60.0) -> None:
        """Wait for a condition; an operator that ends meanwhile fails the test with its reason."""

        def check() -> object:
            if self.task is not None and self.task.done():
                self.task.result()
                raise AssertionError("the operator has ended")
            return condition()

        try:
            await wait_until(check, seconds, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}; not ready: {self.operator.not_ready()}") from (error.__cause__ or error)


@asynccontextmanager
async def running_operator(
    plane: ControlPlane,
    listen: str,
    namespaces: Sequence[str] = (),
    *,
    kubeconfig: Path | str | None = None,
    times: Times = QUICK,
) -> AsyncIterator[Running]:
    """An operator as admin, or with another kubeconfig; it is being started, see ``Running.serving``."""
    options = Options(
        listen=listen,
        kubeconfig=str(kubeconfig or plane.kubeconfig_file),
        namespaces=tuple(namespaces),
        identity="operator-1",
        own_namespace="default",
        times=times,
    )
    running = Running(Operator(options))
    running.operator.on_applied.append(lambda applied, view: running.applied.append((applied, view)))
    running.task = asyncio.create_task(running.operator.run(running.stop))
    try:
        yield running
    finally:
        running.stop.set()
        with contextlib.suppress(RuntimeError):
            await running.task


def kubeconfig_through(plane: ControlPlane, port: int, file: Path) -> Path:
    """The administrator's kubeconfig, by way of another port of this machine."""
    config = json.loads(plane.kubeconfig_file.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    file.write_text(json.dumps(config))
    return file


def pool(name: str, labels: Mapping[str, str] | None = None, **backend: Any) -> dict[str, Any]:
    """A ModelPool of the pods with these labels (``app: <name>`` by default), or of another backend."""
    pods = {"selector": {"matchLabels": dict(labels or {"app": name})}, "port": 8000, "engine": "vLLM"}
    spec = {"model": {"name": name, "contextWindow": 8192}, "backend": backend or {"pods": pods}}
    return {"apiVersion": API, "kind": "ModelPool", "metadata": {"name": name}, "spec": spec}


def collection(plural: str, namespace: str) -> str:
    return f"/apis/{API}/namespaces/{namespace}/{plural}"
