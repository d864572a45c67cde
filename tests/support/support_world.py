"""A whole installation on one machine: control plane, operators behind a Service-like relay, a gateway pod, simulated model pods.

Everything is a process of its own and real but the kubelet. What tests do here users do with kubectl.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from support_cluster import ControlPlane
from support_gateway_pod import GatewayPod, running_gateway_pod
from support_kubelet import FakeKubelet, running_kubelet
from support_net import free_port, wait_until
from support_process import Daemon
from support_relay import Relay, running_relay
from support_simulators import Simulators, running_simulators

OWN = "ralb-system"
_PLURALS = {"ModelPool": "modelpools", "ModelTier": "modeltiers", "RoutingPolicy": "routingpolicies"}


@dataclass(slots=True)
class Replica:
    """One operator process."""

    name: str
    port: int
    admin_port: int
    process: Daemon

    async def ready(self) -> bool:
        """What its readiness probe says."""
        try:
            return (await _get(f"http://127.0.0.1:{self.admin_port}/readyz"))[0] == 200
        except aiohttp.ClientError:
            return False

    async def metrics(self) -> dict[str, float]:
        """Its metrics page, series with labels -> value."""
        _, text = await _get(f"http://127.0.0.1:{self.admin_port}/metrics")
        rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}


@dataclass(slots=True)
class World:
    """What runs.

    Attributes:
        relay: the operators' one address, as a Service is.
        line: what the operators reach the API server through.
        models: pool id -> model name, as ``support_stack.Load`` wants it.
    """

    plane: ControlPlane
    namespace: str
    folder: Path
    kubelet: FakeKubelet
    simulators: Simulators
    relay: Relay
    line: Relay
    gateway_port: int
    socket: Path
    replicas: list[Replica] = field(default_factory=list)
    gateway: GatewayPod | None = None
    models: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def operator(self) -> str:
        """The operators' address as the gateway knows it."""
        return f"127.0.0.1:{self.relay.port}"

    def add_replica(self, arguments: Sequence[str] = ()) -> Replica:
        """Start one more operator; use ``ready`` to wait for it."""
        name, port, admin_port = f"operator-{len(self.replicas)}", free_port(), free_port()
        command = [
            *(sys.executable, "-m", "ralb_operator.main", "run"),
            *("--listen", f"127.0.0.1:{port}", "--admin-port", str(admin_port), "--identity", name),
            *("--own-namespace", OWN, "--kubeconfig", str(self._kubeconfig())),
            *("--gateway-address", "127.0.0.1", "--gateway-port", str(self.gateway_port)),
            *("--processor-socket", f"unix:{self.socket}", *arguments),
        ]
        process = Daemon(name, command, self.folder / f"{name}.log")
        replica = Replica(name, port, admin_port, process)
        self.replicas.append(replica)
        self.relay.backends.append(("127.0.0.1", port))
        process.start()
        return replica

    def _kubeconfig(self) -> Path:
        path = self.folder / "kubeconfig.json"
        if not path.exists():
            config = json.loads(self.plane.kubeconfig_file.read_text())
            config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.line.port}"
            path.write_text(json.dumps(config))
        return path

    async def all_ready(self) -> None:
        """Wait for every operator that runs."""
        for replica in self.replicas:
            if replica.process.pid:
                try:
                    await wait_until(replica.ready, 60, interval=0.05, what=f"{replica.name} ready")
                except AssertionError as error:
                    raise AssertionError(f"{error}\n{replica.process.tail()}") from error

    async def leader(self) -> Replica:
        """The replica that holds the Lease now; raises KeyError while none does."""
        lease = await self.get(f"/apis/coordination.k8s.io/v1/namespaces/{OWN}/leases/ralb-operator")
        holder, _, _ = lease["spec"]["holderIdentity"].partition("_")
        return {replica.name: replica for replica in self.replicas}[holder]

    async def pod_pool(self, name: str, model: str, count: int, **options: Any) -> list[str]:
        """Simulated pods labelled ``pool: <name>``, ready; returns their addresses. Options are those of ``ralb-sim``."""
        self.models[f"{self.namespace}/{name}"] = model
        found = await asyncio.gather(*(self.simulators.start(model, **options) for _ in range(count)))
        for number, ip in enumerate(found):
            await self.kubelet.pod(self.namespace, f"{name}-{number}", ip=ip, labels={"pool": name})
        return list(found)

    async def served_by(self, ip: str) -> float:
        """Requests that a simulated pod has answered so far."""
        _, text = await _get(f"http://{ip}:8000/metrics")
        rows = [line.rpartition(" ") for line in text.splitlines() if line.startswith("vllm:request_success_total")]
        assert rows
        return sum(float(value) for _, _, value in rows)

    async def apply(self, *objects: Mapping[str, Any]) -> None:
        """Server-side apply of objects of ours into the namespace."""
        for each in objects:
            wanted = {**each, "metadata": {**each["metadata"], "namespace": self.namespace}}
            await asyncio.to_thread(self.plane.api.apply, self.path(each["kind"], each["metadata"]["name"]), wanted)

    async def delete(self, kind: str, name: str) -> None:
        """Delete one object of ours."""
        await asyncio.to_thread(self.plane.api.request, "DELETE", self.path(kind, name))

    def path(self, kind: str, name: str) -> str:
        return f"/apis/ralb.dev/v1alpha1/namespaces/{self.namespace}/{_PLURALS[kind]}/{name}"

    async def get(self, path: str) -> Any:
        """An object."""
        return await asyncio.to_thread(self.plane.api.request, "GET", path)

    async def conditions(self, kind: str, name: str) -> dict[str, str]:
        """Type -> status, of those that were judged at the present generation."""
        found = await self.get(self.path(kind, name))
        generation = found["metadata"]["generation"]
        conditions = found.get("status", {}).get("conditions", [])
        return {each["type"]: each["status"] for each in conditions if each.get("observedGeneration") == generation}

    async def programmed(self, kind: str, name: str, limit: float = 30.0) -> None:
        """Wait until the object's present generation is in force at the gateways."""

        async def is_so() -> bool:
            return (await self.conditions(kind, name)).get("Programmed") == "True"

        await wait_until(is_so, limit, interval=0.05, what=f"{kind} {name} programmed")


@asynccontextmanager
async def running_world(
    plane: ControlPlane, *, replicas: int = 1, arguments: Sequence[str] = ()
) -> AsyncIterator[World]:
    """Operators and the gateway's address book; add pods and objects, then ``start_gateway``."""
    namespace = f"world-{time.monotonic_ns() % 1_000_000}"
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ralb-w-")))
        for name in (namespace, OWN):
            if not await asyncio.to_thread(plane.api.exists, f"/api/v1/namespaces/{name}"):
                await asyncio.to_thread(plane.api.create_namespace, name)
        world = World(
            plane,
            namespace,
            folder,
            await stack.enter_async_context(running_kubelet(plane)),
            await stack.enter_async_context(running_simulators(folder)),
            await stack.enter_async_context(running_relay()),
            await stack.enter_async_context(running_relay(("127.0.0.1", urlsplit(plane.url).port or 443))),
            free_port(),
            folder / "extproc.sock",
        )
        try:
            for _ in range(replicas):
                world.add_replica(arguments=arguments)
            yield world
        finally:
            for replica in world.replicas:
                await asyncio.to_thread(replica.process.stop)


@asynccontextmanager
async def running_gateway(world: World, node: str = "gateway-0") -> AsyncIterator[GatewayPod]:
    """Envoy and processor of the world, ready."""
    async with running_gateway_pod(world.operator, world.gateway_port, world.socket, node=node) as gateway:
        world.gateway = gateway
        await wait_until(gateway.ready, 30, interval=0.05, what="gateway ready")
        yield gateway


async def _get(url: str) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
        return answer.status, await answer.text()
