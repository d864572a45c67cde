"""One reading of a pod's own metrics: what the scraper hands to the table.

It is a type only. May not enter: names of series, parsing, HTTP (``metrics``), or what to make of the numbers (``load``).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodSample:
    """What a pod said about itself at one moment; ``None`` = it did not say.

    Attributes:
        started: monotonic time in seconds at which the pod was asked. Requests sent later are not in the numbers.
        waiting / running: requests queued and in the batch, summed over data-parallel engines.
        kv_usage: share of the KV cache held by running requests, 0 to 1, mean over engines.
        kv_capacity: size of the KV cache in tokens, summed over engines.
        prefix_queries / prefix_hits: tokens looked up and found in the prefix cache since the engine started.
        preemptions: requests pre-empted since the engine started.
        adapters: names of LoRA adapters with running or waiting requests, sorted.
        missing: names of series that were needed and not on the page.
    """

    started: float
    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    kv_capacity: float | None = None
    prefix_queries: float | None = None
    prefix_hits: float | None = None
    preemptions: float | None = None
    adapters: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def tells_load(self) -> bool:
        """Whether it says enough to compare pods by: both waiting and running."""
        return self.waiting is not None and self.running is not None
