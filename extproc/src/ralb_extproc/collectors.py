"""State shown when Prometheus asks for it: pods, scraper, ledger, prefix index, access log, snapshot.

Nothing is counted here; each collector reads what others keep. The number of pods shown one by one is bounded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ralb_extproc.feedback import AccessLogService, Learner
from ralb_extproc.metrics import Scraper
from ralb_extproc.place import PodTable
from ralb_extproc.place import columns as col
from ralb_extproc.prefill.legs import Legs


@dataclass(slots=True)
class Watched:
    """What else is shown, filled in by the application as its parts come up.

    Attributes:
        scraper / access_log / learner: None = not running.
        legs: prefill legs.
        snapshot_version: of the one in use; "" before the first.
        snapshot_at: Unix seconds at which it was applied.
        snapshot_errors: how many could not be applied.
    """

    scraper: Scraper | None = None
    access_log: AccessLogService | None = None
    learner: Learner | None = None
    legs: Legs | None = None
    snapshot_version: str = ""
    snapshot_at: float = 0.0
    snapshot_errors: int = 0


_NEVER: Final = float("-inf")
_POD_SERIES: Final = (
    ("ralb_pod_waiting", "Requests waiting, as the pod said.", col.WAITING),
    ("ralb_pod_running", "Requests running, as the pod said.", col.RUNNING),
    ("ralb_pod_kv_usage", "Share of the KV cache in use, as the pod said, 0 to 1.", col.KV_USAGE),
    ("ralb_pod_kv_capacity_tokens", "Size of the KV cache.", col.KV_CAPACITY),
    ("ralb_pod_in_flight", "Requests of ours in flight.", col.INFLIGHT),
    ("ralb_pod_in_flight_since_scrape", "Those the last reading cannot have counted.", col.SINCE),
    ("ralb_pod_prefill_tokens", "Uncached prompt tokens of ours not known to be prefilled.", col.PREFILL),
    ("ralb_pod_decode_tokens", "Expected answer tokens of ours in flight.", col.DECODE),
    ("ralb_pod_prefill_rate", "Learned prefill tokens per second.", col.PREFILL_RATE),
    ("ralb_pod_prefix_trust", "Share of expected prefix hits that came true.", col.HIT_TRUST),
    ("ralb_pod_prefix_query_rate", "Prefix cache tokens looked up per second.", col.QUERY_RATE),
    ("ralb_pod_prefix_hit_rate", "Prefix cache tokens found per second.", col.HIT_RATE),
    ("ralb_pod_token_seconds", "Time per token of a sequence while it is decoded; 0 = unknown.", col.ITL),
    ("ralb_pod_tokens_per_step", "Tokens per decoding step of a sequence; above 1 it speculates.", col.ACCEPTANCE),
    ("ralb_pod_prompt_token_rate", "Prompt tokens per second, cached ones included.", col.PROMPT_RATE),
    ("ralb_pod_generation_token_rate", "Answer tokens per second.", col.GENERATION_RATE),
    ("ralb_pod_preemption_rate", "Requests pre-empted per second.", col.PREEMPTION_RATE),
    ("ralb_pod_failures", "Failures in a row.", col.FAILURES),
)
_HEALTH_SERIES: Final = (
    ("health", "0 = Healthy, 1 = Degraded, 2 = Failed."),
    ("share", "Of a pod's fair part of the work, how much it may have for its health, 0 to 1."),
    ("error_rate", "Share of failed requests, drawn towards 0.5 % while there are few."),
    ("slowness", "How many times slower than its peers, for the same work."),
    ("metrics_stuck", "1 = its metrics do not change while it works; they are not believed."),
    ("learned_cap", "Requests it can take at once, as learned; 0 = not known."),
)


def pod_page(pods: PodTable, now: float, limit: int) -> bytes:
    """The gauges of the first ``limit`` pods in the text format.

    Written out directly: by way of metric objects a thousand pods would hold up the event loop for a fifth of a second.
    """
    labels: list[str] = []
    values: list[list[float]] = [[] for _ in range(col.COUNT)]
    health: dict[str, list[float]] = {name: [] for name, _ in _HEALTH_SERIES}
    for view in pods.views():
        room = limit - len(labels)
        if room <= 0:
            break
        pool = _escaped(view.pool)
        labels.extend(f'{{pool="{pool}",endpoint="{_escaped(address)}"}}' for address in view.addresses[:room])
        for row, column in zip(values, pods.block(view)[:, :room].tolist(), strict=True):
            row.extend(column)
        for name, column in pods.ward.shown(view.select, pods.data, now).items():
            health[name].extend(column[:room])
    out: list[str] = []
    for name, text, column in _POD_SERIES:
        out.append(f"# HELP {name} {text}\n# TYPE {name} gauge\n")
        out.extend(f"{name}{label} {value}\n" for label, value in zip(labels, values[column], strict=True))
    for short, text in _HEALTH_SERIES:
        name = f"ralb_pod_{short}"
        out.append(f"# HELP {name} {text}\n# TYPE {name} gauge\n")
        out.extend(f"{name}{label} {value}\n" for label, value in zip(labels, health[short], strict=True))
    name = "ralb_pod_age_seconds"
    out.append(f"# HELP {name} Age of the last reading; absent if there is none.\n# TYPE {name} gauge\n")
    out.extend(
        f"{name}{label} {now - at:.3f}\n"
        for label, at in zip(labels, values[col.SCRAPED_AT], strict=True)
        if at > _NEVER
    )
    for name, text, total in (
        ("ralb_pods", "Pods in the table.", len(pods)),
        ("ralb_pods_not_shown", "Pods left out of the per-pod series.", len(pods) - len(labels)),
        ("ralb_pods_draining", "Pods that are going and still answer requests of ours.", len(list(pods.draining()))),
    ):
        out.append(f"# HELP {name} {text}\n# TYPE {name} gauge\n{name} {total}\n")
    return "".join(out).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class StateCollector(Collector):
    """Sizes and totals of the processor's parts."""

    def __init__(self, pods: PodTable, watched: Watched, wall: Callable[[], float]) -> None:
        self._pods = pods
        self._watched = watched
        self._wall = wall

    def collect(self) -> Iterator[Metric]:
        """Give the series."""
        pods, watched = self._pods, self._watched
        yield GaugeMetricFamily("ralb_flights", "Requests in flight that are tracked.", value=len(pods.ledger))
        yield CounterMetricFamily(
            "ralb_odd_readings", "Counters of pods that fell or jumped beyond reason.", value=pods.observer.odd
        )
        yield CounterMetricFamily("ralb_flights_lost", "Flights let go without an outcome.", value=pods.lost)
        yield GaugeMetricFamily("ralb_prefix_entries", "Entries of the prefix index.", value=pods.prefix_entries)
        info = GaugeMetricFamily("ralb_snapshot_info", "The snapshot in use.", labels=["version"])
        if watched.snapshot_version:
            info.add_metric([watched.snapshot_version], 1)
            age = max(0.0, self._wall() - watched.snapshot_at)
            yield GaugeMetricFamily("ralb_snapshot_age_seconds", "Time since it was applied.", value=age)
        yield info
        yield CounterMetricFamily(
            "ralb_snapshot_errors", "Snapshots that could not be applied.", value=watched.snapshot_errors
        )
        if watched.scraper is not None:
            yield from _scraper(watched.scraper)
        if watched.access_log is not None:
            log = watched.access_log
            yield CounterMetricFamily("ralb_access_log_entries", "Access log entries received.", value=log.received)
            yield CounterMetricFamily("ralb_access_log_skipped", "Entries that could not be used.", value=log.skipped)
            yield GaugeMetricFamily("ralb_access_log_streams", "Access log streams now open.", value=log.streams)
        if watched.legs is not None:
            yield from _legs(watched.legs)
        if watched.learner is not None:
            yield CounterMetricFamily(
                "ralb_outcomes_unknown", "Outcomes of requests that were not placed.", value=watched.learner.unknown
            )


def _legs(legs: Legs) -> Iterator[Metric]:
    running = GaugeMetricFamily(
        "ralb_prefill_legs", "Prefill legs of the processor's own under way, by Prefill pool.", labels=["pool"]
    )
    tokens = GaugeMetricFamily(
        "ralb_prefill_leg_tokens", "Uncached prompt tokens of those legs: the queue we made.", labels=["pool"]
    )
    for pool, count in legs.running.items():
        running.add_metric([pool], count)
        tokens.add_metric([pool], legs.tokens[pool])
    yield running
    yield tokens


def _scraper(scraper: Scraper) -> Iterator[Metric]:
    yield GaugeMetricFamily("ralb_scrape_targets", "Pods being scraped.", value=len(scraper))
    yield CounterMetricFamily("ralb_scrapes", "Scrapes that succeeded.", value=scraper.scrapes)
    yield CounterMetricFamily("ralb_scrape_bytes", "Size of the pages read.", value=scraper.bytes_read)
    yield GaugeMetricFamily(
        "ralb_scrape_stretch", "Factor by which scraping is slowed down to its budget.", value=scraper.pace.stretch
    )
    yield CounterMetricFamily(
        "ralb_scrape_unusable_values", "Series whose value cannot be, and was not used.", value=scraper.unusable
    )
    errors = CounterMetricFamily("ralb_scrape_errors", "Scrapes that failed.", labels=["kind"])
    for kind, count in scraper.errors.items():
        errors.add_metric([kind], count)
    yield errors
    failing = GaugeMetricFamily("ralb_scrape_failing", "Pods whose last scrape failed.", labels=["pool", "kind"])
    for labels, count in scraper.failing().items():
        failing.add_metric(labels, count)
    yield failing
    missing = GaugeMetricFamily("ralb_scrape_missing", "Pods lacking a needed series.", labels=["pool", "series"])
    for labels, count in scraper.missing().items():
        missing.add_metric(labels, count)
    yield missing
