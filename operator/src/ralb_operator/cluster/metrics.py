"""What Prometheus is shown of the operator.

Nothing is counted here that its owner counts already; the collector reads it when asked. Labels are kinds, outcomes and other
words of which there are few: never names of objects, nodes or Secrets.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ralb_api.objects import KINDS
from ralb_api.tls import MaterialCollector
from ralb_operator.cluster import kinds
from ralb_operator.cluster.app import Operator
from ralb_operator.cluster.listwatch import ListWatch
from ralb_operator.cluster.reporter import Reporter
from ralb_operator.compile import ConditionType
from ralb_operator.control import Applied
from ralb_operator.publish import Outcome
from ralb_operator.view import View

_PREFIX: Final = "ralb_operator_"
_SHORT: Final = 12
_COMPILE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ACK_BUCKETS: Final = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All series, in a registry of its own.

    Args:
        operator: what to show; ``on_applied`` has to be in its list.
        reporter: None where nothing is reported.
        clock: monotonic seconds.
    """

    def __init__(
        self, operator: Operator, reporter: Reporter | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._operator = operator
        self._clock = clock
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._compile = Histogram(
            _PREFIX + "compile_seconds",
            "From a view of the cluster to configuration.",
            buckets=_COMPILE_BUCKETS,
            registry=self._registry,
        )
        self._ack = Histogram(
            _PREFIX + "change_to_ack_seconds",
            "From a change seen in the cluster until every connected Envoy and processor had answered its publication.",
            buckets=_ACK_BUCKETS,
            registry=self._registry,
        )
        self._state = _State(operator, reporter, clock)
        self._registry.register(self._state)
        if operator.tls is not None:
            self._registry.register(MaterialCollector(operator.tls.keeper))

    def page(self) -> bytes:
        """The page in the text format."""
        return generate_latest(self._registry)

    def on_applied(self, applied: Applied, view: View) -> None:
        """A view was compiled and published."""
        report, now = applied.report, self._clock()
        self._compile.observe(self._operator.control.compile_s)
        if report.outcome is Outcome.PUBLISHED:
            self._state.published_at = now
            if self._operator.changed_at is not None and report.complete:
                self._ack.observe(now - self._operator.changed_at)
        self._state.applied = applied


class _State(Collector):
    """What is shown as it is at the moment of asking."""

    def __init__(self, operator: Operator, reporter: Reporter | None, clock: Callable[[], float]) -> None:
        self.applied: Applied | None = None
        self.published_at: float | None = None
        self._operator = operator
        self._reporter = reporter
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not ask before there is anything."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Give the series."""
        yield from self._snapshot()
        yield from self._objects()
        yield from self._gateways()
        yield from self._watches()
        if self._reporter is not None:
            yield from _reporting(self._reporter)

    def _snapshot(self) -> Iterator[Metric]:
        control, rebuilder = self._operator.control, self._operator.rebuilder
        info = GaugeMetricFamily(_PREFIX + "snapshot_info", "The snapshot that is served.", labels=["version"])
        if control.snapshots.version:
            info.add_metric([control.snapshots.version[:_SHORT]], 1)
        yield info
        if self.published_at is not None:
            age = max(0.0, self._clock() - self.published_at)
            yield GaugeMetricFamily(_PREFIX + "snapshot_age_seconds", "Time since it was published.", value=age)
        publisher = control.publisher
        outcomes = {
            Outcome.PUBLISHED: publisher.publishes,
            Outcome.HELD: publisher.held,
            Outcome.UNCHANGED: publisher.unchanged,
            Outcome.SUPERSEDED: publisher.superseded,
        }
        yield _counter("publishes", "Publications.", "outcome", {str(name): n for name, n in outcomes.items()})
        yield _total("builds", "Times that configuration was built.", rebuilder.builds)
        yield _total("build_failures", "Times that it could not be built.", rebuilder.failures)
        yield _gauge(
            "ready_after_seconds", "Time from the start to the first publication.", self._operator.ready_after_s
        )

    def _objects(self) -> Iterator[Metric]:
        store = self._operator.store
        names = (*KINDS, *(kind.name for kind in kinds.OTHERS), kinds.SECRET.name)
        sizes = GaugeMetricFamily(_PREFIX + "store_objects", "Objects known of the cluster.", labels=["kind"])
        for name in names:
            sizes.add_metric([name], store.size(name))
        yield sizes
        objects = GaugeMetricFamily(
            _PREFIX + "objects", "Objects of RALB's kinds, by whether they are accepted.", labels=["kind", "state"]
        )
        found = {(kind, state): 0 for kind in KINDS for state in ("accepted", "invalid")}
        if self.applied is not None:
            for key, status in self.applied.result.statuses.items():
                accepted = all(c.status for c in status.conditions if c.type is ConditionType.ACCEPTED)
                found[key.kind, "accepted" if accepted else "invalid"] += 1
        for labels, count in found.items():
            objects.add_metric(labels, count)
        yield objects

    def _gateways(self) -> Iterator[Metric]:
        ads, snapshots = self._operator.control.ads, self._operator.control.snapshots
        yield _gauge("envoys", "Envoys connected to this replica.", len(ads.peers()))
        yield _gauge("processors", "Processors connected to this replica.", len(snapshots.processors()))
        late = sum(not complete for _, complete in ads.peers()) + sum(not p.settled for p in snapshots.processors())
        yield _gauge("gateways_late", "Envoys and processors that owe an answer.", late)
        yield _total("envoy_refusals", "Resources that Envoys refused.", ads.refusals)
        yield _total("processor_refusals", "Snapshots that processors refused.", snapshots.refusals)
        yield _gauge(
            "refused_resources", "What Envoys refuse at present.", len(self._operator.control.publisher.nacks())
        )

    def _watches(self) -> Iterator[Metric]:
        follows: dict[str, list[ListWatch[Any]]] = {}
        for follower in self._operator.objects.followers.values():
            follows.setdefault(follower.kind.title, []).append(follower.witness)
        for follow in self._operator.others:
            follows.setdefault(follow.name.partition(" in namespace ")[0], []).append(follow)
        follows[kinds.SECRET.title] = list(self._operator.secrets.follows())
        lists, watches, events, failures = (
            CounterMetricFamily(f"{_PREFIX}watch_{name}", text, labels=["kind"])
            for name, text in (
                ("lists", "Complete lists; more than one means that events may have been missed."),
                ("starts", "Watches begun."),
                ("events", "Events seen."),
                ("failures", "Lists and watches that failed."),
            )
        )
        synced = GaugeMetricFamily(_PREFIX + "watch_synced", "1 = listed and watched.", labels=["kind"])
        heard = GaugeMetricFamily(
            _PREFIX + "watch_silence_seconds", "Time since the last list, event or bookmark.", labels=["kind"]
        )
        for kind, group in follows.items():
            lists.add_metric([kind], sum(follow.counts.lists for follow in group))
            watches.add_metric([kind], sum(follow.counts.watches for follow in group))
            events.add_metric([kind], sum(follow.counts.events for follow in group))
            failures.add_metric([kind], sum(follow.counts.failures for follow in group))
            synced.add_metric([kind], float(all(follow.synced for follow in group)))
            last = [follow.heard_at for follow in group if follow.heard_at]
            if last:
                heard.add_metric([kind], max(0.0, self._clock() - min(last)))
        yield from (lists, watches, events, failures, synced, heard)


def _reporting(reporter: Reporter) -> Iterator[Metric]:
    yield _gauge("leader", "1 = this replica writes statuses.", float(reporter.elector.leading))
    yield _total("lease_failures", "Tries to get or keep the Lease that failed.", reporter.elector.failures)
    yield _total("lease_transitions", "Times this replica became the leader.", reporter.elector.transitions)
    yield _counter("status_writes", "What became of statuses.", "result", asdict(reporter.writer.counts))
    yield _gauge("status_queue", "Statuses that wait to be written.", len(reporter.writer))
    yield _counter("events", "What became of Events.", "result", asdict(reporter.poster.counts))
    reports = {"written": reporter.reports.written, "failed": reporter.reports.failed}
    yield _counter("reports", "Reports to the other replicas.", "result", reports)
    yield _gauge("peers", "Other replicas whose report is fresh.", len(reporter.peers.fresh()))


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _total(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, text, value=value)


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(_PREFIX + name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
