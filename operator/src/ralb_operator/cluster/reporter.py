"""Tells the cluster what became of its objects: statuses and Events by the leader, and by every replica a report to the others.

Only wiring and timing may enter; judging is in ``programmed`` and ``statuses``. Two things keep the number of writes down: what
was judged is judged again only if something it depends on changed, and a verdict that may change by itself within moments
("waiting for a gateway") is held back for a while, so that an edit normally makes one write.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ralb.v1.snapshot_pb2 import Engine
from ralb_api.objects import Object
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.cluster import events, scraping, writer
from ralb_operator.cluster.acks import Acks
from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.lease import Elector, Timing
from ralb_operator.cluster.programmed import History, Report, World, judge, used_objects
from ralb_operator.cluster.reports import Owner, Peers, ReportWriter
from ralb_operator.cluster.statuses import is_unknown, own_conditions, transitions, wanted, was_programmed
from ralb_operator.cluster.store import Entry, Store
from ralb_operator.compile import Result, Status
from ralb_operator.control import Applied, ControlPlane
from ralb_operator.publish import Outcome
from ralb_operator.view import View

_LOG = logging.getLogger(__name__)

LEASE: Final = "ralb-operator"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to report.

    Attributes:
        namespace: the operator's own.
        identity: name of this replica, its pod's.
        pod_uid: of this pod, so that its report goes with it; "" if unknown.
        namespaced: the operator looks at single namespaces only.
        patience: seconds for which waiting for gateways is not told.
        desertion: seconds without any gateway after which objects that were in force are not any more.
        quiet: seconds between two looks at everything.
        resync: seconds after which every status is compared with what it should be, for those that somebody else changed.
        timing, pace, event_pace, renew_s, expiry_s: of the Lease, statuses, Events and reports.
    """

    namespace: str
    identity: str
    pod_uid: str = ""
    namespaced: bool = False
    patience: float = 5.0
    desertion: float = 30.0
    quiet: float = 0.1
    resync: float = 30.0
    timing: Timing = field(default_factory=Timing)
    pace: writer.Pace = field(default_factory=writer.Pace)
    event_pace: events.Pace = field(default_factory=events.Pace)
    renew_s: float = 10.0
    expiry_s: float = 30.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was applied last."""

    result: Result
    objects: Mapping[ObjectKey, Object]
    problems: tuple[Problem, ...]
    used: frozenset[ObjectKey]
    edition: str
    scraped: frozenset[ObjectKey]


class Reporter:
    """Create it on its event loop, give ``on_applied`` to those who publish, and ``run`` it.

    Attributes:
        elector, acks, peers, reports, writer, poster: its parts.
        settings: how it reports.
    """

    def __init__(
        self,
        client: ApiClient,
        control: ControlPlane,
        store: Store,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class.

        Args:
            client: how to reach the server.
            control: what serves the gateways.
            store: the cluster as last seen; statuses that were written are noted in it.
            settings: how to report.
            clock: monotonic seconds.
        """
        self.settings = settings
        self._store = store
        self._clock = clock
        self._history = History()
        self._last: _Seen | None = None
        self._wake = asyncio.Event()
        self._able = asyncio.Event()
        self._led = asyncio.Event()
        self._lost = asyncio.Event()
        # What every verdict depends on, and by object what else did when it was judged under these circumstances.
        self._circumstances: tuple[Any, ...] = ()
        self._judged: dict[ObjectKey, tuple[Status, str]] = {}
        self._held: dict[ObjectKey, tuple[str, int, float]] = {}
        self._deserted_since: float | None = None
        self._full_at = float("-inf")
        owner = Owner(settings.identity, settings.pod_uid) if settings.pod_uid else None
        self.elector = Elector(
            client,
            settings.namespace,
            LEASE,
            settings.identity,
            on_change=self._elected,
            timing=settings.timing,
            clock=clock,
        )
        self.acks = Acks(control, settings.identity, store.dirty.set)
        self.peers = Peers(
            client, settings.namespace, settings.identity, self._wake.set, expiry_s=settings.expiry_s, clock=clock
        )
        self.reports = ReportWriter(client, settings.namespace, self.acks.report, owner, renew_s=settings.renew_s)
        self.writer = writer.StatusWriter(
            client,
            lambda: self.elector.leading,
            on_written=self._written,
            restatus=self._restatus,
            pace=settings.pace,
            clock=clock,
        )
        self.poster = events.EventPoster(
            client, settings.identity, lambda: self.elector.leading, pace=settings.event_pace, clock=clock
        )

    def on_applied(self, applied: Applied, view: View) -> None:
        """A view was compiled and published; to be called without awaiting anything in between."""
        if applied.report.outcome is Outcome.SUPERSEDED:
            return
        objects: dict[ObjectKey, Object] = {**view.pools, **view.tiers, **view.policies, **view.others}
        # Not the time of creation: two of one name may be of the same second.
        generations = {key: (obj.metadata.uid, obj.metadata.generation) for key, obj in objects.items()}
        used = used_objects(applied.result.snapshot)
        edition = self._history.add(generations, used)
        self._last = _Seen(applied.result, objects, view.problems, used, edition, _scraped(applied.result))
        self.acks.applied(applied, edition)
        self._able.set()
        self._heard()

    async def run(self) -> None:
        """Report until cancelled; the Lease and the report are then given up."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._standing())
            tasks.create_task(self.peers.watch.run())
            tasks.create_task(self.reports.run())
            tasks.create_task(self.acks.follow(self._heard))
            tasks.create_task(self._judging())
            tasks.create_task(self._leading())

    def _heard(self) -> None:
        """Somebody answered, or something was published."""
        self.reports.changed()
        self._wake.set()

    def _elected(self, leading: bool) -> None:
        if leading:
            self._lost.clear()
            self._led.set()
        else:
            self._led.clear()
            self._lost.set()
        self._circumstances = ()
        self._deserted_since = None
        self._wake.set()

    async def _standing(self) -> None:
        # One that cannot list the cluster has nothing to write, and would keep the Lease from those who can.
        await self._able.wait()
        await self.elector.run()

    async def _leading(self) -> None:
        """Write while this replica leads; what is under way when it ceases to is abandoned."""
        while True:
            await self._led.wait()
            work = asyncio.gather(self.writer.run(), self.poster.run())
            lost = asyncio.ensure_future(self._lost.wait())
            try:
                await asyncio.wait((work, lost), return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
            finally:
                lost.cancel()
                work.cancel()
                await asyncio.gather(work, lost, return_exceptions=True)

    async def _judging(self) -> None:
        while True:
            wait = self.settings.resync
            try:
                wait = self._judge_all()
            except Exception:
                # One odd object must not end all reporting.
                _LOG.exception("statuses could not be judged")
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await asyncio.sleep(self.settings.quiet)

    def _judge_all(self) -> float:
        """Offer the writer what changed; returns seconds until something is due by time alone."""
        last, now = self._last, self._clock()
        if last is None or not self.elector.leading:
            return self.settings.resync
        world = self._world(last, now)
        circumstances = (
            last.edition,
            last.used,
            last.scraped,
            world.deserted,
            *(_bearing(report) for report in world.reports),
        )
        if circumstances != self._circumstances or now - self._full_at >= self.settings.resync:
            self._circumstances, self._full_at = circumstances, now
            self._judged.clear()
            self.writer.forget(lambda key: self._store.get(key) is not None)
        due = now + self.settings.resync
        if self._deserted_since is not None and not world.deserted:
            due = min(due, self._deserted_since + self.settings.desertion)
        for key, status in last.result.statuses.items():
            entry = self._store.get(key)
            if entry is None or self._judged.get(key) == (status, entry.version):
                continue
            generation = _generation(last, key, entry)
            if generation is None:
                continue  # it changed since; it will be compiled and judged again at once
            told_at = self._judge(key, status, entry, generation, world, last)
            if told_at is None:
                self._judged[key] = (status, entry.version)
            else:
                due = min(due, told_at)
        self._held = {key: held for key, held in self._held.items() if key in last.result.statuses}
        return max(0.0, due - now)

    def _judge(
        self, key: ObjectKey, status: Status, entry: Entry, generation: int, world: World, last: _Seen
    ) -> float | None:
        """Offer one status; if it is held back instead, when it is to be looked at again."""
        was_true = was_programmed(key, entry.status, generation)
        verdict = judge(key, status, world, was_true=was_true)
        if verdict.waiting and not was_true and not is_unknown(key, entry.status, generation):
            now = self._clock()
            held = self._held.get(key)
            if held is None or held[:2] != (entry.uid, generation):
                held = self._held[key] = (entry.uid, generation, now)
            until = held[2] + self.settings.patience
            if now < until:
                return until
        else:
            self._held.pop(key, None)
        metrics = None
        if key in last.scraped:
            before = own_conditions(key, entry.status).get(scraping.METRICS_AVAILABLE)
            metrics = scraping.judge(key, world.scraping, before)
        want = wanted(status, verdict, generation, last.result.snapshot.version, metrics)
        self.writer.offer(writer.Target(key, entry.uid, entry.version, entry.status, want))
        return None

    def _world(self, last: _Seen, now: float) -> World:
        reports = (self.acks.report(), *self.peers.fresh())
        if any(report.envoys for report in reports) and any(report.processors for report in reports):
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = now
        since = self._deserted_since
        deserted = since is not None and now - since >= self.settings.desertion
        told = [(report.troubles, report.processors, report.heard) for report in reports]
        return World(self._history, reports, last.used, deserted, scraping.scraping(told, deserted=deserted))

    def _restatus(self, key: ObjectKey, status: Mapping[str, Any], version: str) -> None:
        scope = key.namespace if self.settings.namespaced else ""
        self._store.restatus(key, status, version, scope)

    def _written(self, target: writer.Target, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self.poster.tell(target.key, target.uid, target.version, transitions(target.key, old, new))


def _bearing(report: Report) -> Report:
    """What of a report can change a verdict. Who is late changes with every publication, and is only mentioned."""
    return replace(
        report,
        snapshot="",
        envoys=min(report.envoys, 1),
        processors=min(report.processors, 1),
        heard=int(report.heard >= report.processors),
        late=(),
        late_count=0,
    )


def _scraped(result: Result) -> frozenset[ObjectKey]:
    """Pools whose pods processors read the metrics of."""
    return frozenset(
        ObjectKey("ModelPool", *pool.id.split("/", 1))
        for pool in result.snapshot.pools
        if pool.endpoints
        and pool.metrics_path
        and pool.engine not in (Engine.ENGINE_UNSPECIFIED, Engine.ENGINE_GENERIC)
    )


def _generation(last: _Seen, key: ObjectKey, entry: Entry) -> int | None:
    """The generation that was judged; None if the store has another state of the object by now."""
    obj = last.objects.get(key)
    if obj is not None:
        same = entry.value is obj or entry.value == obj
        return entry.generation if same else None
    if entry.value is not None:
        return None
    errors = [problem for problem in entry.problems if problem.severity is Severity.ERROR]
    return entry.generation if all(problem in last.problems for problem in errors) else None
