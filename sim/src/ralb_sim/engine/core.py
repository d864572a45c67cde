"""The scheduler: vLLM V1's rules over the block pool and the step-time model.

Each step, within `max_num_batched_tokens` and `max_num_seqs`: running decodes (one token each), then running partial
prefills, then waiting requests in order of arrival; a long prompt takes what is left of the budget and goes on next step. The
prefix cache is looked up at admission, at least one token is always computed, and blocks become shareable once computed. A
request is admitted only when all it knows so far fits into free blocks. When a running request finds no block, the latest
running one is pre-empted: its blocks are dropped, it goes to the head of the queue and is recomputed.

With speculation a decoding sequence also has up to so many drafted tokens verified in the step, as the budget allows; it gains
those before the first that is rejected, each accepted with the same chance.

Trap: `step()` applies the step at once; callers show its results only after `duration_s` has passed.
"""

import random
from collections import deque
from dataclasses import dataclass, field

from ralb_sim.engine.kv import BlockPool
from ralb_sim.engine.log import KvLog
from ralb_sim.engine.request import EngineRequest, FinishedRequest, RunningSequence, StepResult
from ralb_sim.engine.timing import StepShape, step_seconds
from ralb_sim.profiles import Profile
from ralb_sim.tokens import TOKEN_BYTES


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of one engine; counts.

    Attributes:
        profile: The step-time constants.
        kv_tokens: Capacity of the KV cache in tokens, rounded down to whole blocks.
        block_size: Tokens per block.
        max_num_batched_tokens: Token budget of a step.
        max_num_seqs: Sequences running at once.
        prefix_caching: Whether blocks are shared by content.
        speculative: Tokens drafted per sequence and step; 0 = no speculation.
        acceptance: Chance of a drafted token to be accepted when all before it were.
        seed: Of that chance.
    """

    profile: Profile
    kv_tokens: int
    block_size: int = 16
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 1024
    prefix_caching: bool = True
    speculative: int = 0
    acceptance: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("block_size", "max_num_batched_tokens", "max_num_seqs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.speculative <= 16:
            raise ValueError(f"speculative must be between 0 and 16, not {self.speculative}")
        if not 0.0 <= self.acceptance <= 1.0:
            raise ValueError(f"acceptance must be between 0 and 1, not {self.acceptance}")
        if self.kv_tokens < self.block_size:
            raise ValueError(f"kv_tokens ({self.kv_tokens}) must hold at least one block of {self.block_size}")

    @classmethod
    def of(cls, profile: Profile) -> "EngineConfig":
        """Return the limits a profile comes with."""
        return cls(
            profile=profile,
            kv_tokens=profile.kv_tokens,
            max_num_batched_tokens=profile.max_num_batched_tokens,
            max_num_seqs=profile.max_num_seqs,
        )


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine would report at a step boundary.

    Attributes:
        running: Requests in the batch.
        waiting: Requests queued.
        kv_usage: Referenced share of the KV cache, 0..1.
        preemptions: Pre-emptions since the start.
        prefix_queries: Prompt tokens looked up in the prefix cache since the start.
        prefix_hits: Prompt tokens found there since the start.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0


@dataclass(slots=True)
class _Plan:
    """The step being put together: who computes how many tokens, in order."""

    budget: int
    chunks: dict[str, tuple[RunningSequence, int]] = field(default_factory=dict)
    admitted: list[tuple[str, int]] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)

    def put(self, sequence: RunningSequence, tokens: int) -> None:
        self.chunks[sequence.request.id] = (sequence, tokens)
        self.budget -= tokens


class Engine:
    """One vLLM-like engine.

    Args:
        config: Its limits and step-time constants.
        log: Told what the cache stores and removes.
    """

    def __init__(self, config: EngineConfig, log: KvLog | None = None) -> None:
        self.config = config
        self._log = log
        self.pool = BlockPool(config.kv_tokens // config.block_size, log)
        self._running: list[RunningSequence] = []
        self._waiting: deque[RunningSequence] = deque()
        self._known: dict[str, RunningSequence] = {}
        self._preemptions = 0
        self._prefix_queries = 0
        self._prefix_hits = 0
        self._chance = random.Random(config.seed)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._known)

    @property
    def running_ids(self) -> tuple[str, ...]:
        """Ids in the batch, in order of admission."""
        return tuple(sequence.request.id for sequence in self._running)

    @property
    def waiting_ids(self) -> tuple[str, ...]:
        """Ids in the queue, next first."""
        return tuple(sequence.request.id for sequence in self._waiting)

    def stats(self) -> EngineStats:
        """Return the present state as the engine would report it."""
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=self.pool.used / self.pool.total,
            preemptions=self._preemptions,
            prefix_queries=self._prefix_queries,
            prefix_hits=self._prefix_hits,
        )

    def add(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises:
            ValueError: The id is already present, a length is out of range, or prompt and output could never fit the cache.
        """
        if request.id in self._known:
            raise ValueError(f"request {request.id!r} is already in the engine")
        if request.prompt_tokens < 1 or request.output_tokens < 0:
            raise ValueError(
                f"request {request.id!r}: needs at least one prompt token and no negative output, "
                f"got {request.prompt_tokens} and {request.output_tokens}"
            )
        if self._blocks_for(request.prompt_tokens + request.output_tokens) > self.pool.total:
            raise ValueError(
                f"request {request.id!r}: {request.prompt_tokens} + {request.output_tokens} tokens exceed the KV cache of "
                f"{self.pool.total * self.config.block_size} tokens"
            )
        sequence = RunningSequence(request)
        self._known[request.id] = sequence
        self._waiting.append(sequence)

    def abort(self, request_id: str) -> bool:
        """Remove a request and free its blocks; return whether it was there."""
        sequence = self._known.pop(request_id, None)
        if sequence is None:
            return False
        # By identity: two sequences may be equal as data.
        if any(other is sequence for other in self._running):
            self._running = [other for other in self._running if other is not sequence]
        else:
            self._waiting = deque(other for other in self._waiting if other is not sequence)
        self._free(sequence)
        return True

    def step(self) -> StepResult:
        """Schedule and apply one step.

        Returns:
            What happened and how long it takes; an empty result when there is nothing to do.
        """
        plan = _Plan(self.config.max_num_batched_tokens)
        self._schedule_running(plan)
        # As vLLM: who was just thrown out is not let in by the same step, even if a twin's blocks would serve it.
        if not plan.preempted:
            self._schedule_waiting(plan)
        return self._apply(plan)

    def _schedule_running(self, plan: _Plan) -> None:
        decodes: list[RunningSequence] = []
        prefills: list[RunningSequence] = []
        for sequence in self._running:
            (decodes if sequence.decoding else prefills).append(sequence)
        for sequence in decodes + prefills:
            if not plan.budget:
                return
            if sequence.request.id in plan.preempted:
                continue
            tokens = min(sequence.length - sequence.computed + self._drafts(sequence), plan.budget)
            if self._grow(sequence, sequence.computed + tokens, plan):
                plan.put(sequence, tokens)

    def _drafts(self, sequence: RunningSequence) -> int:
        """Tokens to draft for a sequence; the last of an answer is never drafted, since a step gives one anyway."""
        if not self.config.speculative or not sequence.decoding:
            return 0
        return min(self.config.speculative, sequence.request.output_tokens - sequence.generated - 1)

    def _accepted(self, drafts: int) -> int:
        for number in range(drafts):
            if self._chance.random() >= self.config.acceptance:
                return number
        return drafts

    def _grow(self, sequence: RunningSequence, length: int, plan: _Plan) -> bool:
        """Give a running sequence blocks for `length` tokens, pre-empting the latest; False when it was itself the latest.

        A victim is never part of this step yet: decodes are scheduled in running order, and a partial prefill, which takes
        all the budget left, is always the last running.
        """
        missing = self._blocks_for(length) - len(sequence.blocks)
        if missing <= 0:
            return True
        while missing > self.pool.free:
            victim = self._running.pop()
            self._free(victim)
            victim.preemptions += 1
            self._preemptions += 1
            self._waiting.appendleft(victim)
            plan.preempted.append(victim.request.id)
            if victim is sequence:
                return False
        sequence.blocks.extend(self.pool.take(missing))
        return True

    def _schedule_waiting(self, plan: _Plan) -> None:
        size = self.config.block_size
        while self._waiting and plan.budget and len(self._running) < self.config.max_num_seqs:
            sequence = self._waiting[0]
            hit: list[int] = []
            if self.config.prefix_caching:
                # One token at least is computed, or there would be nothing to sample from.
                hit = self.pool.match(sequence.request.block_hashes, (sequence.length - 1) // size)
            missing = self._blocks_for(sequence.length) - len(hit)
            if missing > self.pool.free - self.pool.idle_among(hit):
                return
            self._waiting.popleft()
            self.pool.pin(hit)
            cached = len(hit) * size
            found = cached
            if sequence.cached < 0:
                cached = max(cached, min(sequence.request.received, sequence.length - 1))
            tokens = min(sequence.length - cached, plan.budget)
            sequence.blocks = hit + self.pool.take(self._blocks_for(cached + tokens) - len(hit))
            sequence.computed = cached
            sequence.published = len(hit)
            if sequence.cached < 0:
                sequence.cached = cached
                self._prefix_queries += sequence.request.prompt_tokens
                self._prefix_hits += found
                plan.admitted.append((sequence.request.id, cached))
            self._running.append(sequence)
            plan.put(sequence, tokens)

    def _apply(self, plan: _Plan) -> StepResult:
        shape = StepShape()
        prefill_tokens = 0
        first: list[str] = []
        gained: list[str] = []
        finished: list[FinishedRequest] = []
        extra: dict[str, int] = {}
        drafts = draft_tokens = 0
        for request_id, (sequence, tokens) in plan.chunks.items():
            if sequence.decoding and tokens > 1:
                drafts += 1
                draft_tokens += tokens - 1
                shape.add_decode(sequence.computed, tokens - 1)
                accepted = self._accepted(tokens - 1)
                if accepted:
                    extra[request_id] = accepted
                    sequence.generated += accepted
                tokens = 1 + accepted
            elif sequence.generated and tokens == 1:
                shape.add_decode(sequence.computed)
            else:
                shape.add_prefill(tokens, sequence.computed)
                prefill_tokens += tokens
            sequence.computed += tokens
            self._publish(sequence)
            if sequence.computed < sequence.length:
                continue
            if sequence.request.output_tokens:
                sequence.generated += 1
                gained.append(request_id)
                if sequence.generated == 1:
                    first.append(request_id)
            if sequence.generated == sequence.request.output_tokens:
                finished.append(FinishedRequest(request_id, sequence.cached, sequence.preemptions))
        if finished:
            for done in finished:
                self._free(self._known.pop(done.id))
            self._running = [sequence for sequence in self._running if sequence.request.id in self._known]
        return StepResult(
            duration_s=step_seconds(self.config.profile, shape),
            admitted=tuple(plan.admitted),
            preempted=tuple(plan.preempted),
            first_tokens=tuple(first),
            tokens=tuple(gained),
            finished=tuple(finished),
            scheduled_tokens=shape.tokens,
            prefill_tokens=prefill_tokens,
            extra=extra,
            drafts=drafts,
            draft_tokens=draft_tokens,
        )

    def _publish(self, sequence: RunningSequence) -> None:
        if not self.config.prefix_caching:
            return
        hashes = sequence.request.block_hashes
        full = min(sequence.computed // self.config.block_size, len(hashes))
        begin = sequence.published
        while sequence.published < full:
            new = self.pool.publish(sequence.blocks[sequence.published], hashes[sequence.published])
            sequence.published += 1
            if not new:
                self._tell(sequence, begin, sequence.published - 1)
                begin = sequence.published
        self._tell(sequence, begin, full)

    def _tell(self, sequence: RunningSequence, begin: int, end: int) -> None:
        if self._log is None or begin >= end:
            return
        request = sequence.request
        width = self.config.block_size * TOKEN_BYTES
        parent = request.block_hashes[begin - 1] if begin else None
        self._log.stored(request.block_hashes[begin:end], parent, request.tokens[begin * width : end * width])

    def _free(self, sequence: RunningSequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.config.block_size)
