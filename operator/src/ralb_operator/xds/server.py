"""Aggregated discovery on grpc.aio: one ``DeltaStream`` per connected Envoy, and the view of what each has accepted.

Decisions about the protocol may not enter (they are in ``delta``); what to publish in which order is in ``publish``.
Everything runs on one event loop; ``set`` and the reading methods are synchronous, so a group of ``set`` calls without an
await between them is seen by every Envoy as one.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from ralb_operator.progress import Progress
from ralb_operator.xds.delta import DeltaStream
from ralb_operator.xds.resources import Resource
from ralb_operator.xds.subscription import Limits, Nack, ProtocolError, Published

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """What one Envoy has of one type.

    Attributes:
        acked: name -> version it has accepted.
        settled: it has answered everything published.
        nacks: what it refuses at present.
    """

    acked: Mapping[str, str]
    settled: bool
    nacks: tuple[Nack, ...]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One connected Envoy: its node id, since when (unix seconds), and its state by type URL."""

    node: str
    since: float
    types: Mapping[str, TypeStatus]


class _Session:
    """One open stream. ``wake`` means: look again for something to send."""

    def __init__(self, stream: DeltaStream, since: float) -> None:
        self.stream = stream
        self.since = since
        self.wake = asyncio.Event()
        self.closing = False


class AdsServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # generated code is untyped
    """The discovery service. Create and use it on one event loop.

    Attributes:
        responses: responses sent so far.
        refusals: resources refused so far, over all Envoys.
        progress: made whenever an Envoy said something or left.
    """

    def __init__(
        self,
        *,
        on_nack: Callable[[Nack], None] | None = None,
        limits: Limits | None = None,
        max_streams: int = 1000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``on_nack`` is called for every refused resource, once it is known which one it is; it must not block."""
        self.responses = 0
        self.refusals = 0
        self._on_nack = on_nack
        self._limits = limits or Limits()
        self._max_streams = max_streams
        self._clock = clock
        self._published: dict[str, Published] = {}
        self._sessions: set[_Session] = set()
        self.progress = Progress()
        self._closing = False

    def set(self, type_url: str, resources: Mapping[str, Resource], *, prune: bool = True) -> None:
        """Serve exactly ``resources`` of this type from now on.

        Until the first call for a type its subscribers are not answered: an Envoy that runs on what an earlier process
        told it must not take "not loaded yet" for "all gone".

        Args:
            type_url: the type.
            resources: by name; not to be changed afterwards.
            prune: False keeps Envoys from dropping what is not in ``resources`` until a later call says True.
        """
        before = self._published.get(type_url)
        published = Published(resources, prune)
        old: Mapping[str, Resource] = before.resources if before else {}
        changed = [name for name, new in resources.items() if name not in old or old[name].version != new.version]
        changed += [name for name in old if name not in resources]
        if before is not None and not changed and before.prune == prune:
            return
        self._published[type_url] = published
        for session in self._sessions:
            session.stream.publish(type_url, published, changed)
            session.wake.set()

    def get(self, type_url: str) -> Mapping[str, Resource]:
        """What is served of this type; empty if nothing is."""
        published = self._published.get(type_url)
        return published.resources if published else {}

    async def wait_acked(
        self,
        type_urls: Iterable[str],
        timeout: float,  # noqa: ASYNC109  # the result says who is late
        *,
        ignore: Container[str] = (),
    ) -> tuple[str, ...]:
        """Wait until every connected Envoy has accepted or refused all that is published of these types.

        Args:
            type_urls: the types.
            timeout: seconds.
            ignore: node ids not to wait for.

        Returns:
            Node ids of those that still owe an answer after ``timeout``; empty when all have answered. An Envoy that
            leaves is not waited for.
        """
        types = tuple(type_urls)
        await self.progress.wait_for(lambda: all(node in ignore for node in self.late(types)), timeout)
        return self.late(types)

    def late(self, type_urls: Iterable[str]) -> tuple[str, ...]:
        """Node ids of connected Envoys that owe an answer about these types at this moment."""
        types = tuple(type_urls)
        return tuple(sorted(s.stream.node for s in self._sessions if not s.stream.settled(types)))

    def nacks(self) -> tuple[Nack, ...]:
        """What connected Envoys refuse at present, of versions still served."""
        found = [nack for session in self._sessions for nack in session.stream.nacks()]
        return tuple(sorted(found, key=lambda nack: (nack.node, nack.type_url, nack.name)))

    def nodes(self) -> tuple[NodeStatus, ...]:
        """Every connected Envoy, by node id, oldest stream first."""
        return tuple(
            _status(s) for s in sorted(self._sessions, key=lambda s: (s.stream.node, s.since)) if s.stream.node
        )

    def peers(self) -> tuple[tuple[str, bool], ...]:
        """Every connected Envoy, sorted: its node id, and whether it runs on what is served.

        Stricter than ``late``: an Envoy that has just connected owes no answer about what it has not asked for yet, but it
        does not have it either. One that refuses something has answered.
        """
        return tuple(sorted((s.stream.node, s.stream.complete) for s in self._sessions if s.stream.node))

    def close(self) -> None:
        """End all streams (Envoys keep what they have and reconnect) and refuse new ones."""
        self._closing = True
        for session in self._sessions:
            session.closing = True
            session.wake.set()

    async def StreamAggregatedResources(self, request_iterator: Any, context: Any) -> None:
        """State of the world is not served."""
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "only delta xDS is served: set `api_type: DELTA_GRPC` in ads_config",
        )

    async def DeltaAggregatedResources(
        self, request_iterator: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: Any
    ) -> None:
        """One Envoy."""
        if self._closing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        if len(self._sessions) >= self._max_streams:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {self._max_streams} streams")
        session = _Session(DeltaStream(self._published, self._limits), self._clock())
        self._sessions.add(session)
        reader = asyncio.create_task(self._read(session, request_iterator))
        writer = asyncio.create_task(self._write(session, context))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            for task in (reader, writer):
                if task.done():
                    task.result()
        except ProtocolError as error:
            _log.warning("discovery stream of %r ended: %s", session.stream.node, error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self._sessions.discard(session)
            self.progress.made()
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(
        self, session: _Session, request_iterator: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest]
    ) -> None:
        async for request in request_iterator:
            for nack in session.stream.receive(request, self._clock()):
                self.refusals += 1
                _log.warning("%s refused %s %r: %s", nack.node, nack.type_url, nack.name, nack.message)
                if self._on_nack is not None:
                    try:
                        self._on_nack(nack)
                    except Exception:
                        _log.exception("on_nack failed")
            session.wake.set()
            self.progress.made()

    async def _write(self, session: _Session, context: Any) -> None:
        while not session.closing:
            response = session.stream.next_response()
            if response is None:
                await session.wake.wait()
                session.wake.clear()
            else:
                # Waits for the client's flow-control window; what is published meanwhile is coalesced.
                await context.write(response)
                self.responses += 1


def _status(session: _Session) -> NodeStatus:
    types = {
        type_url: TypeStatus(
            acked={name: version for name, version in subscription.has.items() if version},
            settled=subscription.settled,
            nacks=tuple(subscription.nacks.values()),
        )
        for type_url, subscription in sorted(session.stream.subscriptions.items())
    }
    return NodeStatus(session.stream.node, session.since, types)
