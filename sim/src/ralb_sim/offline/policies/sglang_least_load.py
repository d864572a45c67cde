"""SGLang's gateway (SMG), ``least_load``: the least expected wait in seconds.

(queued tokens + in-flight tokens) / throughput + 0.15 x k / (1 - k), with k = KV use, at most 0.999. In-flight tokens are the
prompt tokens that this replica sent since the pod's last report. Reports are polled every 10 s and void after 30 s. A pod without
one, while others have: its requests in flight x 1024 tokens / throughput; no pod with one: requests in flight.

Signals: metrics pages, of which one in 10 s is read, and own counts. vLLM's pages give neither uncached tokens queued nor a live
throughput: taken for them are waiting requests x the peer's mean prefill of 1024 tokens, and its fallback of 2000 tokens/s.
Limits: the cache is never read; what runs counts by its KV alone; 10 s is many requests' lifetime; other replicas' work shows in
the next report only. Ties random.
"""

from collections.abc import Sequence
from typing import Final

from ralb_sim.offline.policies.common import BasePolicy, rank
from ralb_sim.offline.policy import Page, Setting, Work

KV_PRESSURE_S: Final = 0.15
MEAN_PREFILL_TOKENS: Final = 1024
TOKENS_PER_S: Final = 2000.0
POLL_S: Final = 10.0
STALE_S: Final = 30.0
MAX_KV_USE: Final = 0.999


class SglangLeastLoad(BasePolicy):
    """Ranks pods by expected wait."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._since = [0] * setting.pods

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods, least wait first."""
        order = rank(self.alive, self.scores(now), self.rng)
        if order:
            self._since[order[0]] += work.input_tokens
            self.ledger.add(work, order[0])
        return order

    def scores(self, now: float) -> list[float]:
        """Return the expected wait of each ready pod, seconds; requests when no pod has a report."""
        requests = self.ledger.requests
        if not any(self._fresh(pod, now) for pod in self.alive):
            return [requests[pod] for pod in self.alive]
        return [
            self._reported(pod) if self._fresh(pod, now) else requests[pod] * MEAN_PREFILL_TOKENS / TOKENS_PER_S
            for pod in self.alive
        ]

    def scraped(self, pod: int, page: Page, at: float, now: float) -> None:
        """Take the page for a report when one is due."""
        if at - self.pages.taken(pod) >= POLL_S:
            super().scraped(pod, page, at, now)
            self._since[pod] = 0

    def forget(self, pod: int) -> None:
        """Drop what was sent to the pod too."""
        super().forget(pod)
        self._since[pod] = 0

    def _fresh(self, pod: int, now: float) -> bool:
        return now - self.pages.taken(pod) <= STALE_S

    def _reported(self, pod: int) -> float:
        page = self.pages[pod]
        use = min(max(page.kv_usage, 0.0), MAX_KV_USE)
        tokens = page.waiting * MEAN_PREFILL_TOKENS + self._since[pod]
        return tokens / TOKENS_PER_S + KV_PRESSURE_S * use / (1.0 - use)
