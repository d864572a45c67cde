"""A kubelet without containers: Pods get addresses and become Ready because a test says so.

Addresses are of 127.0.0.0/8, where tests can listen; each test run has a range of its own (``addresses``), so that a fixed port,
such as 8000, is free on them. The trap: two Pods of one address look like one to whoever routes by address.
"""

import asyncio
import itertools
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from weakref import WeakSet

import aiohttp
from support_cluster import NODE, ControlPlane
from support_cluster_api import MERGE, ApiProblem
from support_net import wait_until

_BASE = 127 << 24 | (64 + os.getpid() % 128) << 16
_NUMBERS = itertools.count(1)


def addresses(count: int) -> list[str]:
    """Loopback addresses that nobody else in this test run was given: 127.x.y.z, z neither 0 nor 255."""
    found: list[str] = []
    while len(found) < count:
        number = (_BASE + next(_NUMBERS)) & 0x7FFFFFFF
        if number & 255 not in (0, 255):
            found.append(".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0)))
    return found


def address() -> str:
    """One more loopback address."""
    return addresses(1)[0]


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A Pod to be made.

    Attributes:
        ip: its address; "" for a new one of this test run.
        ports: container ports by name.
        ready: whether its Ready condition is True.
        phase: Running, Pending, Succeeded or Failed.
    """

    name: str
    ip: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    ready: bool = True
    phase: str = "Running"


class FakeKubelet:
    """Makes, changes and removes Pods as admin; requests run side by side, ``width`` at a time."""

    def __init__(self, plane: ControlPlane, session: aiohttp.ClientSession, width: int = 32) -> None:
        self._url = plane.url
        self._session = session
        self._gate = asyncio.Semaphore(width)

    async def pod(
        self,
        namespace: str,
        name: str,
        *,
        ip: str = "",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
        ready: bool = True,
    ) -> str:
        """Make a Pod; returns its address. Raises ApiProblem when there is one already."""
        spec = PodSpec(name, ip or address(), labels or {}, annotations or {}, ports or {}, ready)
        await self._make(namespace, spec)
        return spec.ip

    async def pods(self, namespace: str, specs: Iterable[PodSpec]) -> list[str]:
        """Make many; returns their addresses in order. Some ten seconds for thousands."""
        ready = [spec if spec.ip else _with_ip(spec, address()) for spec in specs]
        await self._all([self._make(namespace, spec) for spec in ready])
        return [spec.ip for spec in ready]

    async def many(self, namespace: str, count: int, *, prefix: str = "pod", **options: Any) -> list[str]:
        """Make ``count`` Pods named ``<prefix>-<number>``; options as in PodSpec. Returns their names."""
        specs = [PodSpec(f"{prefix}-{number}", **options) for number in range(count)]
        await self.pods(namespace, specs)
        return [spec.name for spec in specs]

    async def set_ready(self, namespace: str, names: str | Sequence[str], ready: bool) -> None:
        """Let Pods become ready or unready."""
        body = {"status": {"conditions": _conditions(ready)}}
        chosen = [names] if isinstance(names, str) else names
        await self._all([self._call("PATCH", self._path(namespace, name) + "/status", body, MERGE) for name in chosen])

    async def set_phase(self, namespace: str, name: str, phase: str) -> None:
        """Running, Pending, Succeeded or Failed; the last two are not ready."""
        body = {"status": {"phase": phase, "conditions": _conditions(phase == "Running")}}
        await self._call("PATCH", self._path(namespace, name) + "/status", body, MERGE)

    async def delete(self, namespace: str, names: str | Sequence[str], *, grace: int = 0) -> None:
        """Delete Pods. With ``grace`` seconds they stay, terminating, until ``delete`` is called again without."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace}
        chosen = [names] if isinstance(names, str) else names
        await self._all([self._call("DELETE", self._path(namespace, name), body) for name in chosen])

    async def delete_all(self, namespace: str, selector: str = "") -> None:
        """Delete all Pods of a namespace (or with these labels, ``app=a``) at once."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        query = f"?labelSelector={selector}" if selector else ""
        await self._call("DELETE", f"/api/v1/namespaces/{namespace}/pods{query}", body)

    async def adopt(self, namespace: str, name: str, *, ip: str = "", ready: bool = True) -> str:
        """Make a Pod Ready that somebody else made, a ReplicaSet for one; returns its address."""
        pod = await self._call("GET", self._path(namespace, name))
        if not pod["spec"].get("nodeName"):
            binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}}
            await self._call("POST", self._path(namespace, name) + "/binding", binding)
        containers = [(one["name"], one["image"]) for one in pod["spec"]["containers"]]
        spec = PodSpec(name, ip or address(), ready=ready)
        await self._call("PATCH", self._path(namespace, name) + "/status", {"status": _status(spec, containers)}, MERGE)
        return spec.ip

    @asynccontextmanager
    async def keeping(self, namespace: str) -> AsyncIterator[None]:
        """While the block runs, whatever Pods there are in a namespace become Ready, and end when they are deleted.

        With ``controller_manager`` this is what a Deployment needs to be rolled out.
        """
        task = asyncio.create_task(self._keep(namespace))
        try:
            yield
        finally:
            task.cancel()
            outcome = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome[0], Exception):  # it may be why the block failed
                raise outcome[0]

    async def _keep(self, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods"
        while True:
            listed = await self._call("GET", path)
            for pod in listed["items"]:
                await self._care(namespace, pod)
            version = listed["metadata"]["resourceVersion"]
            url = f"{self._url}{path}?watch=1&resourceVersion={version}"
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as answer:
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    if event["type"] != "DELETED":
                        await self._care(namespace, event["object"])

    async def _care(self, namespace: str, pod: Mapping[str, Any]) -> None:
        name = pod["metadata"]["name"]
        try:
            if "deletionTimestamp" in pod["metadata"]:
                await self.delete(namespace, name)
            elif "podIP" not in pod.get("status", {}):
                await self.adopt(namespace, name)
        except ApiProblem as problem:
            if problem.status not in (404, 409):  # gone, or seen too late
                raise

    async def _make(self, namespace: str, spec: PodSpec) -> None:
        container: dict[str, Any] = {"name": "server", "image": "test.invalid/server:1"}
        container["ports"] = [{"name": name, "containerPort": port} for name, port in spec.ports.items()]
        metadata = {"name": spec.name, "labels": dict(spec.labels), "annotations": dict(spec.annotations)}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        # Of restricted Pod Security, so that it may be made in any namespace.
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        pod["spec"] = {"nodeName": NODE, "containers": [container], "automountServiceAccountToken": False}
        await self._call("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
        status = {"status": _status(spec, [("server", container["image"])])}
        await self._call("PATCH", self._path(namespace, spec.name) + "/status", status, MERGE)

    def _path(self, namespace: str, name: str) -> str:
        return f"/api/v1/namespaces/{namespace}/pods/{name}"

    async def _all(self, calls: Sequence[Coroutine[Any, Any, Any]]) -> None:
        """All of them; the first that fails ends the others, and its reason is raised as it is.

        One alone is awaited as it is: a group of tasks may lose a cancellation that comes together with a failure.
        """
        if len(calls) == 1:
            await calls[0]
            return
        tasks = [asyncio.create_task(call) for call in calls]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        headers = {"content-type": content_type}
        async with (
            self._gate,
            self._session.request(method, self._url + path, json=body, headers=headers) as answer,
        ):
            if answer.status >= 400:
                raise ApiProblem(answer.status, await answer.text())
            return await answer.json()


@asynccontextmanager
async def running_kubelet(plane: ControlPlane, *, width: int = 32) -> AsyncIterator[FakeKubelet]:
    """A kubelet on the running event loop; its Pods stay when it ends."""
    tls = ssl.create_default_context(cafile=str(plane.ca_file))
    sockets: WeakSet[socket.socket] = WeakSet()

    def make(info: tuple[Any, ...]) -> socket.socket:
        made = socket.socket(*info[:3])
        sockets.add(made)
        return made

    connector = aiohttp.TCPConnector(ssl=tls, limit=width, socket_factory=make)
    headers = {"authorization": f"Bearer {plane.admin_token}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield FakeKubelet(plane, session, width)
    # The connection of a request that was cancelled is still saying goodbye, for which the client does not wait.
    await wait_until(lambda: all(each.fileno() < 0 for each in sockets), what="end of all connections")


def _with_ip(spec: PodSpec, ip: str) -> PodSpec:
    return PodSpec(spec.name, ip, spec.labels, spec.annotations, spec.ports, spec.ready, spec.phase)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _conditions(ready: bool) -> list[dict[str, str]]:
    now, status = _now(), "True" if ready else "False"
    kinds = {"PodScheduled": "True", "Initialized": "True", "ContainersReady": status, "Ready": status}
    return [{"type": kind, "status": value, "lastTransitionTime": now} for kind, value in kinds.items()]


def _status(spec: PodSpec, containers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    ready = spec.ready and spec.phase == "Running"
    state = {"running": {"startedAt": _now()}} if spec.phase == "Running" else {}
    return {
        "phase": spec.phase,
        "podIP": spec.ip,
        "podIPs": [{"ip": spec.ip}],
        "hostIP": "127.0.0.1",
        "startTime": _now(),
        "conditions": _conditions(ready),
        "containerStatuses": [
            {"name": name, "image": image, "imageID": "", "ready": ready, "restartCount": 0, "state": state}
            for name, image in containers
        ],
    }
