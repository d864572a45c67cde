"""The Prometheus series of the processor: counters and histograms fed by the request path and the access log.

State that is only looked at when scraped (pods, ledger, index, snapshot) is in ``collectors``. Trap: label values come from
requests and from the snapshot; every labelled series has a bound on its children, and beyond it counts under ``other``.
The request path pays one dict lookup and one increment per series.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from ralb.v1.snapshot_pb2 import Pool
from ralb_extproc.collectors import StateCollector, Watched, pod_page
from ralb_extproc.cost import dollars
from ralb_extproc.feedback import Failure, Settled
from ralb_extproc.place import PodTable
from ralb_extproc.series import Counters, Histograms
from ralb_extproc.types import Api, Handoff

OTHER: Final = "other"
STAGES: Final = ("parse", "understand", "plan", "place", "total")
_API: Final = {api.value: api.name.lower() for api in Api} | {"/v1/models": "models"}
_STAGE_BUCKETS: Final = (
    *(0.000025, 0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075),
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1),
)
_TTFT_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80, 160)
_DURATION_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 12, 20, 30, 60, 120, 300, 600, 1800)
_LAG_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class Telemetry:
    """All series, in a registry of their own.

    Args:
        pods: the table to show.
        wall: Unix seconds, for the snapshot's age and the access log's lag.
        clock: monotonic seconds, the table's clock.
        max_pods: most pods shown one by one.
        max_series: most children per labelled metric.
    """

    def __init__(
        self,
        pods: PodTable,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_pods: int = 1000,
        max_series: int = 2000,
    ) -> None:
        self.registry = CollectorRegistry()
        self.watched = Watched()
        self._wall = wall
        self._clock = clock
        self._pods = pods
        self._max_pods = max_pods
        self._pools: Mapping[str, Pool] = {}

        def counter(name: str, text: str, *labels: str) -> Counters:
            made = Counters(name, text, labels, max_series, OTHER)
            self.registry.register(made)
            return made

        def histogram(name: str, text: str, buckets: Iterable[float], *labels: str) -> Histograms:
            made = Histograms(name, text, labels, max_series, OTHER, buckets)
            self.registry.register(made)
            return made

        self._requests = counter("ralb_requests", "Requests that ended, by API and HTTP status.", "api", "code")
        self._refused = counter("ralb_refused", "Requests the processor answered with an error, by its code.", "code")
        self._decisions = counter("ralb_decisions", "Routing decisions.", "policy", "rule", "tier", "pool")
        self._placements = counter("ralb_placements", "Placements by what decided them.", "reason")
        self._spilled = counter(
            "ralb_spilled", "Requests that a saturated tier left to another.", "from_tier", "to_tier"
        )
        self._attempts = counter("ralb_attempts", "Upstream tries, by the pool of the last.", "pool")
        self._failures = counter("ralb_failures", "Requests whose last try failed, by why.", "pool", "reason")
        self._aborts = counter("ralb_client_aborts", "Requests whose client went away first.", "pool")
        self._tokens = counter("ralb_tokens", "Tokens; cached are part of input, reasoning of output.", "pool", "kind")
        self._estimated = counter("ralb_usage_estimated", "Answers whose tokens had to be estimated.", "pool")
        self._cost = counter("ralb_cost_dollars", "Cost of answers in US dollars.", "pool", "tier")
        self._top_cost = counter(
            "ralb_top_tier_cost_dollars",
            "What the same tokens would have cost on the policy's top tier, in US dollars.",
            "tier",
        )
        self._ttft = histogram(
            "ralb_ttft_seconds", "Arrival to first byte of the answer's body.", _TTFT_BUCKETS, "pool"
        )
        self._duration = histogram(
            "ralb_duration_seconds", "First byte in to last byte out.", _DURATION_BUCKETS, "pool"
        )
        self._handoffs = counter(
            "ralb_handoffs", "Requests for Decode pools, by who computed their prompt and why.", "pool", "outcome"
        )
        self._legs = histogram(
            "ralb_prefill_leg_seconds", "Prefill legs of the processor's own, by Prefill pool.", _TTFT_BUCKETS, "pool"
        )
        stages = histogram("ralb_stage_seconds", "Time in the processor by stage.", _STAGE_BUCKETS, "stage")
        self._stages = {stage: stages(stage) for stage in STAGES}
        self._lag = histogram("ralb_access_log_lag_seconds", "End of a request to our notice of it.", _LAG_BUCKETS)()
        self.registry.register(StateCollector(pods, self.watched, wall))

    def page(self) -> bytes:
        """All series in the text format."""
        return generate_latest(self.registry) + pod_page(self._pods, self._clock(), self._max_pods)

    def snapshot(self, version: str, pools: Iterable[Pool], error: str = "") -> None:
        """Note the snapshot now in use; with an ``error``, that another could not be applied."""
        self.watched.snapshot_errors += bool(error)
        if not error:
            self.watched.snapshot_version = version
            self.watched.snapshot_at = self._wall()
            self._pools = {pool.id: pool for pool in pools}

    def stage(self, stage: str, seconds: float) -> None:
        """Note time spent in one of ``STAGES``."""
        self._stages[stage].observe(seconds)

    def decided(self, policy: str, rule: str, tier: str, pool: str, reason: str) -> None:
        """Note a decision: ids, the pool of the first attempt, and the placement's reason."""
        self._decisions(policy, rule, tier, pool).inc()
        self._placements(reason).inc()

    def spilled(self, from_tier: str, to_tier: str) -> None:
        """Note that a saturated tier's request goes to another; ids."""
        self._spilled(from_tier, to_tier).inc()

    def handed_over(self, pool: str, handoff: Handoff, seconds: float | None) -> None:
        """Note who computed the prompt of a request for a Decode pool, and how long that took if we asked."""
        self._handoffs(pool, handoff.reason.value).inc()
        if seconds is not None:
            self._legs(handoff.pool).observe(seconds)

    def refused(self, code: str) -> None:
        """Note an error answer of the processor's own."""
        self._refused(code).inc()

    def cost(self, settled: Settled) -> float | None:
        """US dollars of a request; None where nothing was served or the pool is not known."""
        pool = self._pools.get(settled.pool)
        return dollars(pool, settled.usage) if settled.usage is not None and pool is not None else None

    def top_tier_cost(self, tier: str, cost: float) -> None:
        """Note what a request of ``tier`` would have cost on its policy's top tier, in US dollars."""
        self._top_cost(tier).inc(cost)

    def settled(self, settled: Settled) -> None:
        """Note an outcome."""
        outcome, pool = settled.outcome, settled.pool
        self._requests(_API.get(outcome.path, OTHER), str(outcome.status)).inc()
        if outcome.ended > 0.0:
            self._lag.observe(max(0.0, self._wall() - outcome.ended))
        if settled.flight is None:
            return
        self._attempts(pool).inc(outcome.attempts)
        if outcome.failure is not Failure.NONE:
            self._failures(pool, outcome.failure.value).inc()
        if outcome.aborted:
            self._aborts(pool).inc()
        if outcome.ttft is not None:
            self._ttft(pool).observe(outcome.ttft)
        self._duration(pool).observe(outcome.duration)
        usage = settled.usage
        if usage is None:
            return
        self._tokens(pool, "input").inc(usage.input)
        self._tokens(pool, "output").inc(usage.output)
        if usage.cached:
            self._tokens(pool, "cached").inc(usage.cached)
        if usage.reasoning:
            self._tokens(pool, "reasoning").inc(usage.reasoning)
        if usage.estimated:
            self._estimated(pool).inc()
        cost = self.cost(settled)
        if cost:
            self._cost(pool, settled.tier).inc(cost)
