"""Make before break over everything that is configured: Envoys first, then processors, removals last.

Protocols may not enter (``xds.server`` and ``snapshots`` have them), nor any knowledge of what the resources mean.

One publication: (1) secrets, clusters and endpoints are added or changed, nothing is removed; (2) listeners and routes;
(3) the snapshot, so that a processor never names a cluster Envoy does not have; (4) after a grace for decisions in flight, what
is no longer wanted is removed. Stages in which nothing changed cost nothing: a change of endpoints is one EDS response and
one snapshot. Each of the first three waits for the connected peers, bounded; with nobody connected it does not wait at all.

Last good is kept as a pair: while no connected Envoy could take the routes, or has any version of a new cluster, processors
are not shown the snapshot that goes with them. While anybody still refuses the new, nothing of the old is removed.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ralb.v1 import snapshot_pb2
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.resources import CLUSTER, LISTENER, ORDER, ROUTES, Resource, Resources
from ralb_operator.xds.server import AdsServer, NodeStatus
from ralb_operator.xds.subscription import Nack

_USERS: Final = (LISTENER, ROUTES)
_USED: Final = tuple(type_url for type_url in ORDER if type_url not in _USERS)


class Outcome(StrEnum):
    """How a publication ended."""

    PUBLISHED = "published"
    HELD = "held"  # Envoys refused it: processors keep the snapshot they have
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"  # a newer one came while this one waited for its turn


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What became of one publication.

    Attributes:
        outcome: how it ended.
        version, snapshot_version: what was asked to be published.
        nacks: resources connected Envoys refuse, with their messages.
        refusals: node id -> message of processors that refused the snapshot.
        late_envoys, late_processors: node ids of those that did not answer in time.
        retired: resources that will be removed after the grace.
        duration_s: seconds from its turn to its end.
    """

    outcome: Outcome
    version: str
    snapshot_version: str
    nacks: tuple[Nack, ...] = ()
    refusals: tuple[tuple[str, str], ...] = ()
    late_envoys: tuple[str, ...] = ()
    late_processors: tuple[str, ...] = ()
    retired: int = 0
    duration_s: float = 0.0

    @property
    def complete(self) -> bool:
        """Every connected peer has accepted everything."""
        return self.outcome in (Outcome.PUBLISHED, Outcome.UNCHANGED) and not (
            self.nacks or self.refusals or self.late_envoys or self.late_processors
        )


class Publisher:
    """The only one that sets what ``ads`` and ``snapshots`` serve. Create and use it on their event loop.

    Attributes:
        publishes, held, unchanged, superseded: publications so far, by outcome.
        removed: resources removed so far.
        last_duration_s: seconds the last publication took.
    """

    def __init__(
        self,
        ads: AdsServer,
        snapshots: SnapshotServer,
        *,
        ack_timeout: float = 5.0,
        grace: float = 1.0,
        max_retired: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class.

        Args:
            ads: the discovery service.
            snapshots: the snapshot service.
            ack_timeout: seconds each stage waits for its peers.
            grace: seconds between the end of a publication and the removal of what it no longer has.
            max_retired: no more resources than these wait for removal (while peers refuse the new); then the oldest go.
            clock: monotonic seconds.
        """
        self.publishes = 0
        self.held = 0
        self.unchanged = 0
        self.superseded = 0
        self.removed = 0
        self.last_duration_s = 0.0
        self._ads = ads
        self._snapshots = snapshots
        self._ack_timeout = ack_timeout
        self._grace = grace
        self._max_retired = max_retired
        self._clock = clock
        self._turn = asyncio.Lock()
        self._newest = 0
        self._done: tuple[str, str] | None = None
        # What is served but no longer wanted -> since when; None until the publication that dropped it is through.
        self._retired: dict[tuple[str, str], float | None] = {}
        # Envoys may have more than we know of, from an earlier process: that goes with the first removal.
        self._pruned = False
        # Peers that did not answer last time. They get everything in order all the same, but others do not wait for them.
        self._late_envoys: set[str] = set()
        self._late_processors: set[str] = set()
        self._remover: asyncio.Task[None] | None = None

    async def publish(self, resources: Resources, snapshot: snapshot_pb2.Snapshot) -> PublishReport:
        """Publish both; the one call at a time that is newest.

        Returns when connected peers have answered or their time is over. Removals follow in the background.

        Args:
            resources: all that Envoys should have.
            snapshot: what goes with it, under its version; not to be changed afterwards.

        Raises:
            ValueError: the snapshot cannot be sent (see ``SnapshotServer.check``), or there is a resource of a type that is
                not in ``ORDER``; nothing was published.
        """
        self._snapshots.check(snapshot)
        if unknown := resources.by_type.keys() - set(ORDER):
            raise ValueError(f"it is not known when to publish resources of type {', '.join(sorted(unknown))}")
        self._newest += 1
        ticket = self._newest
        async with self._turn:
            if ticket != self._newest:
                self.superseded += 1
                return PublishReport(Outcome.SUPERSEDED, resources.version, snapshot.version)
            if self._done == (resources.version, snapshot.version):
                self.unchanged += 1
                self._plan_removal()
                return self._report(Outcome.UNCHANGED, resources, snapshot)
            start = self._clock()
            report = await self._publish(resources, snapshot, start)
            self.last_duration_s = report.duration_s
            return report

    async def settle(self) -> None:
        """Wait until no removal is planned any more."""
        while self._remover is not None and not self._remover.done():
            await asyncio.wait((self._remover,))

    async def close(self) -> None:
        """Give up planned removals. What is published stays served."""
        if self._remover is not None:
            self._remover.cancel()
            await asyncio.gather(self._remover, return_exceptions=True)

    async def _publish(self, resources: Resources, snapshot: snapshot_pb2.Snapshot, start: float) -> PublishReport:
        self._done = None
        # Who has answered since is waited for again.
        self._late_envoys.intersection_update(self._ads.late(ORDER))
        self._late_processors.intersection_update(self._snapshots.late(self._snapshots.version))
        self._retire(resources)
        late: set[str] = set()
        for stage in (_USED, _USERS):
            if self._serve(stage, resources):
                late.update(await self._ads.wait_acked(stage, self._ack_timeout, ignore=self._late_envoys | late))
        self._late_envoys = late
        late_envoys = tuple(sorted(late))
        nodes = self._ads.nodes()
        if nodes and all(self._unusable(node) for node in nodes):
            self.held += 1
            return self._report(Outcome.HELD, resources, snapshot, late_envoys, start=start)
        self._snapshots.set(snapshot)
        late_processors = await self._snapshots.wait_acked(
            snapshot.version, self._ack_timeout, ignore=self._late_processors
        )
        self._late_processors = set(late_processors)
        self._done = (resources.version, snapshot.version)
        self.publishes += 1
        now = self._clock()
        self._retired = {key: now if since is None else since for key, since in self._retired.items()}
        self._plan_removal()
        return self._report(Outcome.PUBLISHED, resources, snapshot, late_envoys, late_processors, start)

    def _retire(self, resources: Resources) -> None:
        """Note what is served but not in ``resources``; forgive what is wanted again."""
        for type_url in ORDER:
            wanted = resources.get(type_url)
            for name in self._ads.get(type_url):
                if name in wanted:
                    self._retired.pop((type_url, name), None)
                else:
                    self._retired.setdefault((type_url, name), None)
        for key in list(self._retired)[: max(0, len(self._retired) - self._max_retired)]:
            del self._retired[key]

    def _serve(self, type_urls: Iterable[str], resources: Resources) -> bool:
        """Add and change resources of these types without removing any; True if that made a difference."""
        changed = False
        for type_url in type_urls:
            served = self._ads.get(type_url)
            new: dict[str, Resource] = {n: r for n, r in served.items() if (type_url, n) in self._retired}
            new.update(resources.get(type_url))
            changed |= _differ(served, new)
            self._ads.set(type_url, new, prune=self._pruned)
        return changed

    def _plan_removal(self) -> None:
        if (self._retired or not self._pruned) and (self._remover is None or self._remover.done()):
            self._remover = asyncio.create_task(self._remove())

    async def _remove(self) -> None:
        """Remove what has been retired for long enough, until nothing is left or somebody still needs it."""
        since = self._clock()
        while not self._pruned or self._retired:
            await asyncio.sleep(max(0.0, since + self._grace - self._clock()))
            async with self._turn:
                if self._old_needed():
                    return  # the next publication plans it again
                limit = self._clock() - self._grace
                due = {key for key, stamp in self._retired.items() if stamp is not None and stamp <= limit}
                for key in due:
                    del self._retired[key]
                self.removed += len(due)
                self._pruned = True
                for type_url in ORDER:
                    left = {n: r for n, r in self._ads.get(type_url).items() if (type_url, n) not in due}
                    self._ads.set(type_url, left)
                since = min((stamp for stamp in self._retired.values() if stamp is not None), default=limit)

    def nacks(self) -> tuple[Nack, ...]:
        """Refusals of what is wanted; what is only kept until its removal may be refused."""
        return tuple(nack for nack in self._ads.nacks() if (nack.type_url, nack.name) not in self._retired)

    def _unusable(self, node: NodeStatus) -> bool:
        """This Envoy runs on old routes, or lacks a cluster altogether."""
        return any(
            nack.type_url in _USERS or (nack.type_url == CLUSTER and nack.name not in status.acked)
            for status in node.types.values()
            for nack in status.nacks
            if (nack.type_url, nack.name) not in self._retired
        )

    def _old_needed(self) -> bool:
        """Somebody still works by what was there before."""
        users_refused = any(nack.type_url in _USERS for nack in self.nacks())
        return self._done is None or users_refused or any(p.refused for p in self._snapshots.processors())

    def _report(
        self,
        outcome: Outcome,
        resources: Resources,
        snapshot: snapshot_pb2.Snapshot,
        late_envoys: tuple[str, ...] = (),
        late_processors: tuple[str, ...] = (),
        start: float | None = None,
    ) -> PublishReport:
        refusals = tuple(
            (p.node, p.error) for p in self._snapshots.processors() if p.refused and p.refused == snapshot.version
        )
        return PublishReport(
            outcome,
            resources.version,
            snapshot.version,
            self.nacks(),
            refusals,
            late_envoys,
            late_processors,
            len(self._retired),
            0.0 if start is None else self._clock() - start,
        )


def _differ(old: Mapping[str, Resource], new: Mapping[str, Resource]) -> bool:
    return old.keys() != new.keys() or any(old[name].version != new[name].version for name in new)
