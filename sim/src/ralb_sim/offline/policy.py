"""What a placement policy sees and says: the contract between the simulated world and a router.

One ``Policy`` object is one router replica. It knows what a real router could know: the request (never its answer's length),
the pods' metrics pages as old as the scrape interval makes them, and what became of the requests that it placed itself.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Work:
    """A request as a router sees it.

    Attributes:
        id: unique in a run.
        input_tokens: prompt tokens.
        blocks: ids of the full prompt blocks; chained, so two prompts share exactly their common id prefix. Empty = unknown.
        block_tokens: tokens per block.
        session: conversation id; "" = none.
        max_output: the client's limit on answer tokens; 0 = none.
    """

    id: str
    input_tokens: int
    blocks: Sequence[int] = ()
    block_tokens: int = 1
    session: str = ""
    max_output: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A pod's metrics page. Counters count from the pod's start.

    Attributes:
        waiting / running: requests queued and in the batch.
        kv_usage: share of the KV cache held by running requests, 0 to 1.
        kv_capacity: its size in tokens.
        prefix_queries / prefix_hits: prompt tokens looked up and found in the prefix cache.
        preemptions: requests pre-empted.
        prompt_tokens / generation_tokens: tokens prefilled (cached ones included) and generated.
        itl_sum / itl_count: sum (seconds) and number of the gaps between tokens of one request
            (``vllm:inter_token_latency_seconds``).
    """

    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0
    kv_capacity: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    itl_sum: float = 0.0
    itl_count: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a request, as an access log tells.

    Attributes:
        id: the request's.
        pod: who had it last.
        ok: False = the pod failed it.
        ttft: seconds from the router's choice to the first token.
        duration: seconds from the router's choice to the last token.
        output_tokens / cached_tokens: as the pod counted.
        attempts: pods of the order that were tried; all but the last failed it, or were not there.
    """

    id: str
    pod: int
    ok: bool
    ttft: float
    duration: float
    output_tokens: int
    cached_tokens: int
    attempts: int = 1


class Policy(Protocol):
    """One router replica. Times are seconds of simulated time, never falling."""

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Pods to try, best first; at least one. The first that is alive gets the request."""

    def scraped(self, pod: int, page: Page, at: float, now: float) -> None:
        """A metrics page taken at ``at`` has come in."""

    def first_token(self, request: str, now: float) -> None:
        """A request placed by this replica has its first token."""

    def finished(self, done: Done, now: float) -> None:
        """A request placed by this replica has ended; told once, however many pods were tried."""

    def pods(self, alive: Sequence[int], now: float) -> None:
        """These pods are ready now; called before the first request and with every change."""


class Truth(Protocol):
    """The world's true state, for the oracle only."""

    def completion(self, pod: int, work: Work, now: float) -> float:
        """Predicted seconds until a request placed on the pod now would be done."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy is made for.

    Attributes:
        pods: how many there may be; they are numbered from 0.
        replica: which router replica this is, from 0.
        replicas: how many there are.
        rng: its own source of chance.
        kv_tokens: KV cache of each pod, tokens.
        block_tokens: tokens per prefix block of the trace; 0 = the trace has none.
        truth: the true state. Only the oracle may look.
    """

    pods: int
    replica: int
    replicas: int
    rng: random.Random
    kv_tokens: Sequence[int]
    block_tokens: int
    truth: Truth


PolicyFactory = Callable[[Setting], Policy]
