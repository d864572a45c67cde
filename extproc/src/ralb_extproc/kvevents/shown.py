"""KV events for people: metrics for Prometheus, and a row per pod. Nothing is counted here."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ralb_extproc.kvevents.subscriber import Stream, Subscriber
from ralb_extproc.kvevents.view import KvView, PodView

MAX_ROWS: Final = 5000
STATES: Final = ("whole", "partial", "silent", "unheard")


def state(stream: Stream, view: PodView | None) -> str:
    """How a stream does.

    Returns:
        "whole" or "partial": all that the pod's cache holds is known, or only what came since a while. "silent" or "unheard":
        nothing comes, though it should, or, for all we know, need not.
    """
    if view is not None and view.silent:
        return "silent"
    if view is None or not stream.batches:
        return "unheard"
    return "whole" if view.chains.whole else "partial"


def rows(subscriber: Subscriber, view: KvView) -> list[dict[str, Any]]:
    """One dict per pod, at most ``MAX_ROWS``."""
    views = {each.generation: each for each in view.views}
    out: list[dict[str, Any]] = []
    for stream in list(subscriber.streams)[:MAX_ROWS]:
        pod = views.get(stream.generation)
        out.append(
            {
                "pool": stream.pool,
                "endpoint": stream.address,
                "url": stream.url,
                "replay_url": stream.replay_url or None,
                "state": state(stream, pod),
                "batches": stream.batches,
                "next_sequence": stream.expected,
                "blocks": len(pod.chains) if pod is not None else 0,
                "blocks_not_tracked": pod.chains.untracked if pod is not None else 0,
                "lag_seconds": round(pod.lag, 3) if pod is not None and stream.batches else None,
                "served_since_last_event": pod.unheard if pod is not None else 0,
                "error": stream.error or None,
            }
        )
    return out


class KvCollector(Collector):
    """The series."""

    def __init__(self, subscriber: Subscriber, view: KvView) -> None:
        self._subscriber = subscriber
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        subscriber, view = self._subscriber, self._view
        yield _counter("ralb_kv_events", "KV events of pods, by type.", "type", view.counts)
        yield _counter("ralb_kv_event_blocks", "Blocks that pods stored and removed.", "type", view.blocks)
        yield _counter("ralb_kv_event_gaps", "Gaps in pods' event streams.", "outcome", subscriber.gaps)
        yield _counter("ralb_kv_event_errors", "Messages that could not be used.", "kind", subscriber.errors)
        yield CounterMetricFamily("ralb_kv_event_restarts", "Streams that began anew.", value=subscriber.restarts)
        yield _counter(
            "ralb_kv_event_matches",
            "Served requests, by whether the blocks they added were found.",
            "outcome",
            view.matches,
        )
        yield _counter("ralb_kv_event_prefix_blocks", "Blocks the prefix index was told of.", "told", view.told)
        yield GaugeMetricFamily("ralb_kv_event_bindings", "Engine blocks whose prompt is known.", value=view.bindings)
        yield from self._by_pool(subscriber.streams)

    def _by_pool(self, streams: Iterable[Stream]) -> Iterator[Metric]:
        views = {each.generation: each for each in self._view.views}
        pods: Counter[tuple[str, str]] = Counter()
        lag: dict[str, float] = {}
        blocks: Counter[str] = Counter()
        for stream in streams:
            view = views.get(stream.generation)
            pods[stream.pool, state(stream, view)] += 1
            if view is not None and stream.batches:
                lag[stream.pool] = max(lag.get(stream.pool, view.lag), view.lag)
                blocks[stream.pool] += len(view.chains)
        pools = sorted({pool for pool, _ in pods})
        shown = GaugeMetricFamily(
            "ralb_kv_event_pods", "Pods with an event stream, by state.", labels=["pool", "state"]
        )
        late = GaugeMetricFamily(
            "ralb_kv_event_lag_seconds", "Event to our reading of it, worst last batch of a pool.", labels=["pool"]
        )
        held = GaugeMetricFamily("ralb_kv_event_tracked_blocks", "Blocks that pods hold.", labels=["pool"])
        for pool in pools:
            for name in STATES:
                shown.add_metric([pool, name], pods[pool, name])
            if pool in lag:
                late.add_metric([pool], lag[pool])
            held.add_metric([pool], blocks[pool])
        yield from (shown, late, held)


def _counter(name: str, text: str, label: str, counts: Counter[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
