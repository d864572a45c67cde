"""Discovery clients for tests: a pure model of one (``ModelClient``) and that model on a gRPC channel (``AdsClient``)."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Resource

DeltaDiscoveryRequest = discovery_pb2.DeltaDiscoveryRequest
DeltaDiscoveryResponse = discovery_pb2.DeltaDiscoveryResponse


def resource(type_url: str, name: str, content: str | bytes = "") -> Resource:
    return Resource.of(type_url, name, content if isinstance(content, bytes) else content.encode())


def named(type_url: str, contents: Mapping[str, str]) -> dict[str, Resource]:
    """Resources by name from ``{name: content}``."""
    return {name: resource(type_url, name, content) for name, content in contents.items()}


def request(
    type_url: str,
    subscribe: Iterable[str] = (),
    unsubscribe: Iterable[str] = (),
    known: Mapping[str, str] | None = None,
    nonce: str = "",
    error: str | None = None,
    node: str = "envoy-1",
) -> DeltaDiscoveryRequest:
    message = DeltaDiscoveryRequest(
        type_url=type_url,
        resource_names_subscribe=list(subscribe),
        resource_names_unsubscribe=list(unsubscribe),
        initial_resource_versions=known or {},
        response_nonce=nonce,
    )
    message.node.id = node
    if error is not None:
        message.error_detail.code = 13
        message.error_detail.message = error
    return message


class ModelClient:
    """What a correct client does with responses, without I/O.

    Clusters and listeners are wildcards; with ``follow`` it then asks for the endpoints and routes of the same names.

    Attributes:
        held: type -> name -> content in use.
        versions: type -> name -> version in use.
        received: every response as ``(type_url, sorted names, sorted removed names)``.
        bad: contents it refuses.
        on_single_refusal: called with (type, name, version) when it refuses a resource that came alone.
    """

    def __init__(self, node: str = "envoy-1", *, bad: Iterable[bytes] = (), follow: bool = True) -> None:
        self.node = node
        self.bad = set(bad)
        self.follow = follow
        self.held: dict[str, dict[str, bytes]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.names: dict[str, set[str]] = {}
        self.received: list[tuple[str, list[str], list[str]]] = []
        self.on_single_refusal: Callable[[str, str, str], None] = lambda *_: None

    def connect(self, *type_urls: str) -> list[DeltaDiscoveryRequest]:
        """First requests of a new stream, with what it holds and wants."""
        out = []
        for type_url in type_urls or (CLUSTER, LISTENER):
            names = sorted(self.names.get(type_url, ()))
            out.append(request(type_url, names, known=self.versions.get(type_url, {}), node=self.node))
        return out

    def handle(self, response: DeltaDiscoveryResponse) -> list[DeltaDiscoveryRequest]:
        """Apply a response; returns the answer and what follows from it."""
        type_url = response.type_url
        self.received.append((type_url, sorted(r.name for r in response.resources), sorted(response.removed_resources)))
        held = self.held.setdefault(type_url, {})
        versions = self.versions.setdefault(type_url, {})
        refused = []
        for entry in response.resources:
            assert entry.resource.type_url == type_url
            if entry.resource.value in self.bad:
                refused.append(entry.name)
                if type_url in (CLUSTER, LISTENER):
                    continue  # Envoy takes the others
                break
            held[entry.name] = entry.resource.value
            versions[entry.name] = entry.version
        if not refused or type_url in (CLUSTER, LISTENER):
            for name in response.removed_resources:
                held.pop(name, None)
                versions.pop(name, None)
        if refused and len(response.resources) + len(response.removed_resources) == 1:
            self.on_single_refusal(type_url, refused[0], response.resources[0].version)
        error = f"cannot use {', '.join(refused)}" if refused else None
        out = []
        follows = {CLUSTER: ENDPOINTS, LISTENER: ROUTES}.get(type_url)
        if self.follow and follows is not None:
            wanted, have = set(held), self.names.get(follows, set())
            self.names[follows] = wanted
            if wanted != have:
                out.append(request(follows, sorted(wanted - have), sorted(have - wanted), node=""))
            for name in have - wanted:
                self.held.get(follows, {}).pop(name, None)
                self.versions.get(follows, {}).pop(name, None)
        # As Envoy, which holds the ACK of clusters back until they are warm: what follows is asked for first.
        out.append(request(type_url, nonce=response.nonce, error=error, node=""))
        return out


class AdsClient:
    """A ``ModelClient`` on a real stream.

    Attributes:
        model: the client; its ``received`` is the record.
        log: shared list that gets ``(node, type_url, names, removed)`` per response; share it to see an order over peers.
        hold: while set, responses are read but not answered.
    """

    def __init__(self, address: str, model: ModelClient, log: list[Any] | None = None) -> None:
        self.model = model
        self.log = log if log is not None else []
        self.hold = False
        self._unanswered: list[DeltaDiscoveryResponse] = []
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self._channel)
        self._task: asyncio.Task[None] | None = None
        self._call: Any = None

    async def __aenter__(self) -> "AdsClient":
        self._call = self._stub.DeltaAggregatedResources()
        for message in self.model.connect(
            CLUSTER, *(each for each in (SECRET, ENDPOINTS) if self.model.names.get(each))
        ):
            await self._call.write(message)
        for message in self.model.connect(LISTENER, *([ROUTES] if self.model.names.get(ROUTES) else [])):
            await self._call.write(message)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    @property
    def ended(self) -> bool:
        return self._task is not None and self._task.done()

    async def release(self) -> None:
        """Answer what was held and go on answering."""
        self.hold = False
        pending, self._unanswered = self._unanswered, []
        for response in pending:
            await self._answer(response)

    async def _run(self) -> None:
        async for response in self._call:
            if self.hold:
                self._unanswered.append(response)
            else:
                await self._answer(response)

    async def _answer(self, response: DeltaDiscoveryResponse) -> None:
        answers = self.model.handle(response)
        self.log.append((self.model.node, *self.model.received[-1]))
        for message in answers:
            await self._call.write(message)
