"""The processor as a whole: one event loop, one gRPC server for Envoy, one stream from the operator."""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import time
from dataclasses import dataclass, field, replace

from ralb.v1 import snapshot_pb2 as pb
from ralb_api.tls import MaterialCollector
from ralb_extproc.admin import AdminServer
from ralb_extproc.cache_events import CacheEvents
from ralb_extproc.companion import Companion, CompanionOptions
from ralb_extproc.decision import Decision, explanation
from ralb_extproc.epp.options import PickerOptions
from ralb_extproc.epp.server import PickerServers
from ralb_extproc.feedback import AccessLogService, Learner, Outcome, Settled
from ralb_extproc.metrics import Scraper
from ralb_extproc.place import PodTable
from ralb_extproc.prefill.legs import Legs
from ralb_extproc.records import Records
from ralb_extproc.router import Router
from ralb_extproc.service import ProcessorService
from ralb_extproc.sink import RecordSink
from ralb_extproc.snapshots import SnapshotFollower
from ralb_extproc.table import RoutingTable
from ralb_extproc.telemetry import Telemetry
from ralb_extproc.understand import FeatureScore
from ralb_extproc.wire import Limits, Server

_LOG = logging.getLogger(__name__)
# How long after its log stream broke an Envoy that lives may report on a new one what it sent before.
_LOST_S = 3.0
# How often, at most, the operator is told of metrics that cannot be read.
_REPORT_S = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Attributes:
        listen: gRPC address for Envoy, ``unix:/path`` or ``host:port``; "" for none.
        operator: gRPC address of the snapshot service.
        admin_address, admin_port: where /metrics and the probes are.
        records: "-" for stdout, "" for nowhere, else a file.
        max_body_bytes: largest request body; a gRPC message may be a little larger.
        drain_s: how long open streams of our own Envoy get at the end.
        companion: what to do for the Envoy in the same pod.
        epp: serve as endpoint picker too; None = no.
    """

    listen: str
    operator: str
    admin_address: str = "127.0.0.1"
    admin_port: int = 0
    records: str = "-"
    max_body_bytes: int = 16 * 1024 * 1024
    drain_s: float = 5.0
    companion: CompanionOptions = field(default_factory=CompanionOptions)
    epp: PickerOptions | None = None


class Processor:
    """Start it, wait, stop it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.sink = RecordSink(options.records)
        self.records = Records(self.sink.put)
        self.pods = PodTable()
        self.learner = Learner(self.pods, settled=self._on_settled)
        self.access_log = AccessLogService(self._on_outcome)
        self.telemetry = Telemetry(self.pods)
        self.scraper = Scraper(self.pods)
        self.cache_events = CacheEvents(self.pods, self.telemetry.registry)
        self.telemetry.watched.scraper = self.scraper
        self.telemetry.watched.access_log = self.access_log
        self.telemetry.watched.learner = self.learner
        self.admin = AdminServer(
            self.telemetry.page,
            self.pods,
            self._not_ready,
            time.monotonic,
            host=options.admin_address,
            port=options.admin_port,
            cache_events=self.cache_events.rows,
        )
        self.router = Router(self.pods, FeatureScore(), self.learner.lengths.expected_output)
        self.companion = Companion(options.companion, options.admin_address)
        tls = self.companion.tls
        if tls is not None:
            self.telemetry.registry.register(MaterialCollector(tls.keeper))
        self.follower = SnapshotFollower(options.operator, f"{socket.gethostname()}-{os.getpid()}", self._apply, tls)
        self.legs = Legs(self.pods)
        self.telemetry.watched.legs = self.legs
        self.service = ProcessorService(
            self.router, self._on_decision, explanation, self.legs, self.telemetry.handed_over
        )
        # A message holds a body and a little around it.
        self._server = Server(Limits(message=options.max_body_bytes + 1024 * 1024))
        self.pickers: PickerServers | None = None
        if options.epp is not None:
            self.pickers = PickerServers(
                options.epp,
                self.router,
                self._on_decision,
                self._on_outcome,
                max_body_bytes=options.max_body_bytes,
            )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen and follow the operator."""
        self.service.add_to(self._server)
        self.access_log.add_to(self._server)
        if self._options.listen:
            await self._server.start(self._options.listen)
        if self.pickers is not None:
            await self.pickers.start()
        await self.admin.start()
        await self.companion.start()
        self._tasks.append(asyncio.create_task(self.follower.run()))
        self._tasks.append(asyncio.create_task(self._housekeeping()))
        self._tasks.append(asyncio.create_task(self.sink.run()))
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)

    async def stop(self) -> None:
        """Finish open streams, then end."""
        stops = [self._server.stop(self._options.drain_s)]
        if self.pickers is not None:
            stops.append(self.pickers.stop())
        await asyncio.gather(*stops)
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.legs.close()
        await self.scraper.stop()
        await self.cache_events.stop()
        await self.companion.stop()
        await self.admin.stop()
        self.records.flush()
        self.sink.close()

    def _not_ready(self) -> str:
        if self.companion.draining:
            return "Envoy is drained"
        if self.router.table is None:
            trouble = self.follower.trouble
            return f"no snapshot from the operator yet{': ' if trouble else ''}{trouble}"
        missing = self.pickers.missing if self.pickers is not None else ()
        return f"pools not in the snapshot: {', '.join(missing)}" if missing else ""

    def _apply(self, snapshot: pb.Snapshot) -> None:
        try:
            table = RoutingTable.of(snapshot)
        except ValueError as error:
            self.telemetry.snapshot(snapshot.version, (), str(error))
            raise
        self.pods.update(snapshot.pools, time.monotonic())
        self.scraper.update(snapshot.pools)
        self.cache_events.update(snapshot.pools)
        self.router.table = table
        self.telemetry.snapshot(snapshot.version, snapshot.pools)
        if self.pickers is not None:
            self.pickers.tick()
        counts = (len(table.pools), len(table.tiers), len(table.policies))
        _LOG.info("snapshot %s: %d pools, %d tiers, %d policies", snapshot.version[:12], *counts)

    def _on_decision(self, decision: Decision) -> None:
        self.records.decided(decision)
        telemetry = self.telemetry
        for stage, seconds in decision.stages.items():
            telemetry.stage(stage, seconds)
        if decision.error is not None:
            telemetry.refused(str(decision.error.code))
        elif decision.plan is not None and decision.placement is not None:
            plan, placement = decision.plan, decision.placement
            telemetry.decided(plan.policy, plan.rule, plan.tier, placement.attempts[0].pool, placement.reason)
            if placement.spilled is not None:
                telemetry.spilled(*placement.spilled)

    def _on_outcome(self, outcome: Outcome) -> None:
        if not outcome.decision_id:
            outcome = replace(outcome, decision_id=self.records.named(outcome.request_id))
        self.legs.settled(outcome)
        self.learner.learn(outcome)

    def _on_settled(self, settled: Settled) -> None:
        self.telemetry.settled(settled)
        self.cache_events.settled(settled)
        top = self.records.settled(settled, self.router.table)
        if top is not None:
            self.telemetry.top_tier_cost(settled.tier, top)

    async def _housekeeping(self) -> None:
        """Once a second: let go of what was never reported on, and of what nobody is left to report on.

        An Envoy that dies takes its requests with it, and its log streams end. Were their load kept until the time limit, pods
        would look busy that are not.
        """
        told_at = 0.0
        while True:
            await asyncio.sleep(1.0)
            now, lost = time.monotonic(), self.access_log.lost_at
            if lost is not None and now - lost > _LOST_S:
                self.pods.sweep(lost + self.pods.ledger.ttl)
            self.pods.sweep(now)
            self.records.sweep()
            if now - told_at >= _REPORT_S and (report := self.scraper.report()) is not None:
                told_at = now
                self.follower.report(report)
            if self.pickers is not None:
                self.pickers.tick()
