"""One reading of a pod's own metrics: what the scraper hands to the table.

It is a type only. May not enter: names of series, parsing, HTTP (``metrics``), or what to make of the numbers (``load``,
``observe``).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodSample:
    """What a pod said about itself at one moment; ``None`` = it did not say. Counters are since its engine started.

    Attributes:
        started: monotonic time in seconds at which the pod was asked. Requests sent later are not in the numbers.
        waiting / running: requests queued and in the batch, summed over data-parallel engines.
        kv_usage: share of the KV cache held by running requests, 0 to 1, mean over engines.
        kv_capacity: size of the KV cache in tokens, summed over engines.
        prefix_queries / prefix_hits: counters, tokens looked up and found in the prefix cache.
        preemptions: counter, requests pre-empted.
        prompt_tokens / generation_tokens: counters, tokens of prompts (cached ones included) and of answers.
        generation_rate: tokens of answers per second, as the engine itself has it.
        first_tokens: counter, answers begun.
        itl_seconds: sum of the times from one output of a sequence to its next, however many tokens an output has.
        itl_steps / itl_tokens: counters, how many outputs, or how many tokens, that sum is over; an engine gives one of them.
        prefill_seconds / prefill_count: counters, time from being scheduled to the first token, and requests it is over.
        spec_drafts / spec_draft_tokens / spec_accepted: counters of speculation: drafts verified, tokens in them, and tokens
            accepted.
        acceptance: tokens per decoding step and sequence, at least 1, as the engine itself has it.
        adapters: names of LoRA adapters with running or waiting requests, sorted.
        adapter_room: adapters the engine can hold at once; 0 = not said.
        missing: names of series that were needed and not on the page.
        unusable: how many series were on the page with a value that cannot be.
    """

    started: float
    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    kv_capacity: float | None = None
    prefix_queries: float | None = None
    prefix_hits: float | None = None
    preemptions: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    generation_rate: float | None = None
    first_tokens: float | None = None
    itl_seconds: float | None = None
    itl_steps: float | None = None
    itl_tokens: float | None = None
    prefill_seconds: float | None = None
    prefill_count: float | None = None
    spec_drafts: float | None = None
    spec_draft_tokens: float | None = None
    spec_accepted: float | None = None
    acceptance: float | None = None
    adapters: tuple[str, ...] = ()
    adapter_room: int = 0
    missing: tuple[str, ...] = ()
    unusable: int = 0

    @property
    def tells_load(self) -> bool:
        """Whether it says enough to compare pods by: both waiting and running."""
        return self.waiting is not None and self.running is not None
