"""What goes into and comes out of the engine: plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence to run.

    Attributes:
        id: Unique among the requests in the engine.
        prompt_tokens: Prompt length; at least 1.
        output_tokens: Tokens to generate; 0 for pooling requests (embeddings), which end with their prefill.
        block_hashes: Chained hashes of the full blocks of prompt **and** output, in order. Fewer are allowed: blocks beyond
            them are never shared. Knowing the output beforehand lets answers be found by the next turn of a conversation.
        received: Prompt tokens whose KV came from another engine: computed already when the request is first admitted. After
            a pre-emption they are recomputed like any others.
        tokens: Those of the hashed blocks, for an engine that logs; empty if not needed.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    block_hashes: Sequence[int] = ()
    tokens: bytes = b""
    received: int = 0


@dataclass(slots=True)
class RunningSequence:
    """A request inside the engine (mutable; the engine's own)."""

    request: EngineRequest
    computed: int = 0
    generated: int = 0
    blocks: list[int] = field(default_factory=list)
    published: int = 0
    cached: int = -1
    preemptions: int = 0

    @property
    def length(self) -> int:
        """Tokens known so far: the prompt and what was generated."""
        return self.request.prompt_tokens + self.generated

    @property
    def decoding(self) -> bool:
        """Whether all but its latest token is computed."""
        return self.generated > 0 and self.length - self.computed == 1


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request that ended with this step.

    Attributes:
        id: The request's id.
        cached_tokens: Prompt tokens found in the cache at its first admission.
        preemptions: How often it was pre-empted.
    """

    id: str
    cached_tokens: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did. All of it becomes visible at the end of the step, `duration_s` after it began.

    Attributes:
        duration_s: Length of the step in simulated seconds; 0.0 when nothing ran.
        admitted: (id, cached prompt tokens) of requests scheduled for the first time, visible at the step's begin.
        preempted: Ids of requests thrown back to the head of the queue.
        first_tokens: Ids whose first token came out.
        tokens: Ids that gained one token each, first tokens included.
        extra: Further tokens some of them gained, by id: drafted ones that were accepted.
        finished: Requests that ended.
        scheduled_tokens: Tokens computed, decode and prefill.
        prefill_tokens: Prompt tokens computed (recomputed ones included).
        drafts: Sequences that had a draft verified.
        draft_tokens: Tokens in those drafts.
    """

    duration_s: float
    admitted: tuple[tuple[str, int], ...] = ()
    preempted: tuple[str, ...] = ()
    first_tokens: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    finished: tuple[FinishedRequest, ...] = ()
    scheduled_tokens: int = 0
    prefill_tokens: int = 0
    extra: Mapping[str, int] = field(default_factory=dict)
    drafts: int = 0
    draft_tokens: int = 0
