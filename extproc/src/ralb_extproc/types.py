"""What passes between the stages of the request path: plain data, each made once by one stage and never changed.

``Request`` (what was asked) -> ``Understanding`` (what it means) -> ``Plan`` (which pools may serve it, and how) ->
``Placement`` (which pods, in order) -> ``Decision`` (the record of all of it, in ``decision``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Api(StrEnum):
    """The API endpoint a request came in by; the value is its path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    EMBEDDINGS = "/v1/embeddings"
    MESSAGES = "/v1/messages"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation, reduced to what decisions need.

    Attributes:
        role: ``system``, ``developer``, ``user``, ``assistant`` or ``tool``; other values are kept as sent.
        text: all text parts joined with a newline. Tool results are text; tool calls are not.
        tool_calls: how many tools this (assistant) message calls.
    """

    role: str
    text: str
    tool_calls: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed, valid request.

    Attributes:
        api: the endpoint.
        model: the name the client asked for.
        stream: whether the answer is to be streamed.
        turns: the conversation in order, system prompt included; for completions and embeddings one user turn per prompt.
        tools: names of the offered tools, in order; unnamed built-in tools by their type.
        tool_choice: ``auto``, ``none``, ``required`` or ``named``; "" when not said.
        structured: whether a JSON answer is demanded (``json_object`` or ``json_schema``).
        images / audio / files: attachment counts.
        max_output: the client's limit on answer tokens; 0 when not said.
        reasoning_effort: as said by the client, lower case; "" when not said.
        choices: how many answers (``n``).
        input_tokens: estimate of the prompt in tokens, tools and attachments included.
        longest_prompt: tokens of the longest prompt where the body batches several (each has a context window to itself);
            0 when all of ``input_tokens`` is one prompt.
        headers: lower-case name -> value, first value wins; only what came from the client.
        host: lower-case host without port.
        path: path without query.
        session: opaque session id from the client's headers; "" when there is none.
        body: the decoded JSON object. Read only: ``answer`` makes the changed copy that goes upstream.
        size: body size in bytes as received.
    """

    api: Api
    model: str
    stream: bool
    turns: tuple[Turn, ...]
    tools: tuple[str, ...] = ()
    tool_choice: str = ""
    structured: bool = False
    images: int = 0
    audio: int = 0
    files: int = 0
    max_output: int = 0
    reasoning_effort: str = ""
    choices: int = 1
    input_tokens: int = 0
    longest_prompt: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    path: str = ""
    session: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a request is about and how hard it is.

    Attributes:
        intent: the most likely task, one of ``understand.INTENTS``.
        complexity: 0 (trivial) to 1 (frontier work).
        confidence: 0 to 1, how sure the estimate is.
        label: the client's explicit ``x-ralb-intent``; "" when there is none.
        workload_class: the client's ``x-ralb-workload-class``; "" when there is none.
        reasons: what moved the estimate, strongest first: (words for a person, signed contribution to complexity).
        model: which scorer said so, with its version.
    """

    intent: str
    complexity: float
    confidence: float
    label: str = ""
    workload_class: str = ""
    reasons: tuple[tuple[str, float], ...] = ()
    model: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pool that may serve a request, and the name under which to ask its servers.

    Attributes:
        pool: pool id.
        model: the model name to put in the body for this pool.
        tier: tier id through which it was reached; "" for a concrete model name.
        priority: lower is tried first; spans tiers (a fallback tier's pools come after all of the tier's own).
        weight: share among equals of one priority; 0 = failover only.
        dynamic: whether measured capacity and queues move the shares; the same for all of a priority.
        by_price: whether the cheapest of a priority goes first; the same for all of a priority.
    """

    pool: str
    model: str
    tier: str
    priority: int
    weight: int
    dynamic: bool = False
    by_price: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen with a request; a pure function of table, request and understanding.

    Attributes:
        policy / rule / tier: ids; rule is "default" for a policy's default; all "" for a concrete model name. tier is the
            tier the rule chose, before any falling back.
        tier_name: the tier's plain name, for the x-ralb-tier header.
        candidates: pools in order of priority, never empty.
        spill: pools that take what is too much for the tier, in order of priorities of their own; none of the tier's own.
        output_cap: most answer tokens to allow; 0 = leave alone.
        reasoning_effort: to set where the client did not say; "" = leave alone.
        inject_usage: ask for a usage chunk at the end of the stream.
        skipped: pools that could not be used, with the reason, for the record.
    """

    policy: str
    rule: str
    tier: str
    tier_name: str
    candidates: tuple[Candidate, ...]
    output_cap: int = 0
    reasoning_effort: str = ""
    inject_usage: bool = False
    skipped: tuple[tuple[str, str], ...] = ()
    spill: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try: Envoy sends attempt N of a request to entry N.

    Attributes:
        pool: pool id.
        cluster: Envoy cluster: the pool's plain one where ``model`` is what the body says, else its rewriting twin.
        endpoint: ``ip:port``; "" lets Envoy choose in the cluster.
        model: model name this attempt must carry.
    """

    pool: str
    cluster: str
    endpoint: str
    model: str


class HandoffReason(StrEnum):
    """Who computes the prompt of a request for a Decode pool, and why: a prefill pod, or the decode pod itself."""

    REMOTE = "remote"
    SHORT = "unified-short"  # too little of the prompt is not in the decode pod's cache
    UNSUPPORTED = "unified-unsupported"  # not a kind of request that can be split
    NO_PREFILL = "unified-no-prefill"  # no prefill pod is fit
    SLOWER = "unified-slower"  # the prefill pods' queues are too long
    BUSY = "unified-busy"  # too many legs are under way in this processor
    CONNECT = "failed-connect"
    TIMEOUT = "failed-timeout"
    STATUS = "failed-status"
    ANSWER = "failed-answer"  # an answer without usable kv_transfer_params
    ABORTED = "aborted"  # the client went away meanwhile


@dataclass(frozen=True, slots=True)
class Handoff:
    """Who computes the prompt of a request for a Decode pool.

    Attributes:
        reason: a prefill pod (``remote``), or why the decode pod does it itself.
        pool / endpoint: the prefill pod; "" where none was chosen.
        sidecar: the decode pod's sidecar asks the prefill pod; else the processor does.
        uncached_tokens: prompt tokens the prefill pod must compute.
        expected: seconds that is expected to take, queueing included.
        timeout: most seconds it may take.
    """

    reason: HandoffReason
    pool: str = ""
    endpoint: str = ""
    sidecar: bool = False
    uncached_tokens: int = 0
    expected: float = 0.0
    timeout: float = 0.0

    @property
    def remote(self) -> bool:
        """Whether a prefill pod computes the prompt."""
        return self.reason is HandoffReason.REMOTE


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request goes, in order of preference, and why.

    Attributes:
        attempts: first choice first; at least one.
        prefix_hit: expected share of the prompt found in the first pod's prefix cache, 0 to 1.
        uncached_tokens: expected prefill work on the first pod, tokens.
        score: the first pod's score (lower is better); strategy-specific.
        considered: how many pods were compared.
        reason: short word for the record: ``best``, ``only``, ``no-metrics``, ``saturated``, ``service``, ``cheapest``,
            ``spilled``, ``envoy`` (it runs the pool's strategy).
        strategy: name of the first pool's strategy.
        hash_key: what Envoy is to hash where it chooses the pod; "" = nothing.
        spilled: ids of the tier that was saturated and of the one that takes the request; None where none was.
        handoff: who computes the prompt; None where the pool does not hand over.
        held: pods of the first pool that were passed over because they have had their share of the work, see ``place.health``.
    """

    attempts: tuple[Attempt, ...]
    prefix_hit: float = 0.0
    uncached_tokens: int = 0
    score: float = 0.0
    considered: int = 0
    reason: str = ""
    strategy: str = ""
    hash_key: str = ""
    spilled: tuple[str, str] | None = None
    handoff: Handoff | None = None
    held: int = 0
