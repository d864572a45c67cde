"""Replicas of the operator inside the test, with reporting and short waits; a gateway's two clients; and what users see of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support_ads import AdsClient, ModelClient
from support_cluster import ControlPlane
from support_net import wait_until
from support_operator import QUICK
from support_snapshots import SnapshotClient

from ralb_operator.cluster import writer
from ralb_operator.cluster.admin import Attached, attach
from ralb_operator.cluster.app import Operator, Options
from ralb_operator.cluster.lease import Timing
from ralb_operator.cluster.reporter import Settings

API = "ralb.dev/v1alpha1"
_PLURALS = {
    "ModelPool": "modelpools",
    "ModelTier": "modeltiers",
    "RoutingPolicy": "routingpolicies",
    "Tenant": "tenants",
}


@dataclass
class Replica:
    """One running operator.

    Attributes:
        address: where its gateways connect.
    """

    operator: Operator
    attached: Attached
    address: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def leading(self) -> bool:
        return self.attached.reporter.elector.leading


@asynccontextmanager
async def running_replica(
    plane: ControlPlane, namespace: str, folder: Path, name: str, **changes: Any
) -> AsyncIterator[Replica]:
    """A replica that looks at one namespace and keeps its Leases there; ready.

    ``changes`` are of its ``Settings``, such as ``patience``.
    """
    options = Options(
        listen=f"unix:{folder}/{name}.sock",
        kubeconfig=str(plane.kubeconfig_file),
        namespaces=(namespace,),
        identity=name,
        own_namespace=namespace,
        times=QUICK,
    )
    settings = {
        "patience": 0.5,
        "desertion": 2.0,
        "resync": 5.0,
        "timing": Timing(duration=6, deadline=4.0, retry=0.3),
        "pace": writer.Pace(spacing=0.0),
        "renew_s": 1.0,
        "expiry_s": 4.0,
        **changes,
    }
    operator = Operator(options)
    attached = attach(operator, settings=Settings(namespace, name, namespaced=True, **settings))
    replica = Replica(operator, attached, options.listen)
    task = asyncio.create_task(operator.run(replica.stop))
    try:
        await wait_until(lambda: task.done() or not operator.not_ready(), 60, what="the operator is ready")
        if task.done():
            await task
        yield replica
    finally:
        replica.stop.set()
        with contextlib.suppress(RuntimeError):
            await task


@asynccontextmanager
async def connected_gateway(
    replica: Replica, name: str = "gw", *, bad: bytes = b""
) -> AsyncIterator[tuple[AdsClient, SnapshotClient]]:
    """An Envoy and a processor; the Envoy refuses what has ``bad`` in it."""
    model = ModelClient(name)
    if bad:
        model.bad = _Having(bad)  # type: ignore[assignment]
    async with (
        AdsClient(replica.address, model) as envoy,
        SnapshotClient(replica.address, f"{name}-processor") as processor,
    ):
        yield envoy, processor


class _Having:
    def __init__(self, part: bytes) -> None:
        self._part = part

    def __contains__(self, content: bytes) -> bool:
        return self._part in content


@dataclass(frozen=True)
class Objects:
    """Objects of ours in one namespace, as users see them."""

    plane: ControlPlane
    namespace: str

    async def apply(self, kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        manifest = {
            "apiVersion": API,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": dict(spec),
        }
        return dict(await asyncio.to_thread(self.plane.api.apply, self._path(kind, name), manifest))

    async def delete(self, kind: str, name: str) -> None:
        await asyncio.to_thread(self.plane.api.request, "DELETE", self._path(kind, name))

    async def get(self, kind: str, name: str) -> dict[str, Any]:
        return dict(await asyncio.to_thread(self.plane.api.request, "GET", self._path(kind, name)))

    async def conditions(self, kind: str, name: str) -> dict[str, dict[str, Any]]:
        """By type; none but those of the present generation."""
        data = await self.get(kind, name)
        generation = data["metadata"]["generation"]
        found = data.get("status", {}).get("conditions", [])
        return {each["type"]: each for each in found if each.get("observedGeneration") == generation}

    async def until(
        self, kind: str, name: str, type_: str, status: str, reason: str = "", seconds: float = 20.0
    ) -> dict[str, Any]:
        """Wait for a condition of the present generation; returns it."""
        seen: dict[str, Any] = {}

        async def is_so() -> dict[str, Any] | None:
            nonlocal seen
            seen = await self.conditions(kind, name)
            condition = seen.get(type_, {})
            return (
                condition
                if condition.get("status") == status and condition.get("reason", "").startswith(reason)
                else None
            )

        try:
            found = await wait_until(is_so, seconds, interval=0.05)
        except AssertionError:
            raise AssertionError(f"{kind} {name} is never {type_}={status} {reason}: {seen}") from None
        assert found is not None
        return found

    async def events(self, name: str) -> list[tuple[str, str, str]]:
        """(type, reason, condition) of the Events about an object, oldest first."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        items = (await asyncio.to_thread(self.plane.api.request, "GET", path))["items"]
        mine = [item for item in items if item["regarding"]["name"] == name]
        return [
            (item["type"], item["reason"], item["action"]) for item in sorted(mine, key=lambda item: item["eventTime"])
        ]

    def status_writes(self, mark: int) -> list[str]:
        """Names of objects whose status was stored since, once per write."""
        entries = self.plane.audit.writes(mark)
        mine = [entry for entry in entries if entry.namespace == self.namespace and entry.resource.endswith("/status")]
        return [entry.name for entry in mine if entry.code == 200]

    def _path(self, kind: str, name: str) -> str:
        return f"/apis/{API}/namespaces/{self.namespace}/{_PLURALS[kind]}/{name}"


def served(host: str = "model.example.com") -> dict[str, Any]:
    """Spec of a pool behind a host; what its Envoy clusters hold has the host in it."""
    return {"model": {"name": "m", "contextWindow": 8192}, "backend": {"service": {"host": host, "port": 8000}}}


def served_by_pods(app: str, engine: str = "vLLM") -> dict[str, Any]:
    """Spec of a pool of the pods labelled ``app``."""
    return {"model": {"name": "m"}, "backend": {"pods": {"selector": {"matchLabels": {"app": app}}, "engine": engine}}}


def tier_of(*pools: str) -> dict[str, Any]:
    return {"level": 1, "pools": [{"name": name} for name in pools]}


def policy_to(tier: str, model: str = "auto") -> dict[str, Any]:
    return {"match": {"models": [model]}, "default": {"use": {"tier": tier}}}
