"""A pod in event time: ``ralb_sim.engine``'s scheduler, leaping over steps in which nothing changes.

A pod that only decodes does the same step again and again, a little longer each time as contexts grow; the time of k such steps
has a closed form, so a whole run of them is one event. Steps that prefill are taken one by one. The rules are those of
``ralb_sim.engine.core`` (decodes first, then partial prefills, then waiting ones in order, within the token budget; admission
only when the prompt fits; the latest is pre-empted when a decode finds no room), with two simplifications: memory is counted in
tokens rather than in blocks of 16, and a prompt's room is taken whole at admission.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from math import hypot, inf, sqrt
from typing import Final

from ralb_sim.offline.kv import KvCache
from ralb_sim.offline.policy import Page
from ralb_sim.profiles import Profile

_NEVER: Final = inf


def longest(profile: Profile) -> int:
    """Most tokens, prompt and answer together, that a pod of this profile takes."""
    return min(profile.kv_tokens, profile.max_model_len)


class Seq:
    """A request on a pod."""

    __slots__ = (
        "blocks", "cached", "computed", "finish_step", "first_at", "generated", "held", "key", "length", "output",
        "preemptions", "prompt", "published", "tail",
    )  # fmt: skip

    def __init__(
        self, key: int, prompt: int, output: int, blocks: Sequence[int] = (), tail: Sequence[int] = ()
    ) -> None:
        """Make one.

        Args:
            key: the caller's.
            prompt: tokens, at least 1.
            output: tokens, at least 1.
            blocks: ids of the full prompt blocks.
            tail: ids of the blocks after those, once the answer is there: what the conversation's next prompt begins with.
        """
        self.key = key
        self.prompt = prompt
        self.output = output
        self.blocks = blocks
        self.tail = tail
        self.length = prompt  # tokens to be computed before the next token comes
        self.computed = 0
        self.generated = 0
        self.finish_step = -1  # step at whose end it is done; -1 while it does not decode
        self.held: list[int] = []
        self.published = 0
        self.cached = -1
        self.preemptions = 0
        self.first_at = -1.0


class SimPod:
    """One engine.

    Args:
        profile: its model and cards.
        block_tokens: tokens per prefix block of the trace; 0 = none.

    Attributes:
        next_time: when ``wake`` must be called; inf while idle.
        speed: durations are divided by it; 1.0 normally.
        busy: seconds of work done so far.
    """

    def __init__(self, profile: Profile, block_tokens: int) -> None:
        self.profile = profile
        self.kv = KvCache(profile.kv_tokens, block_tokens)
        self.next_time = _NEVER
        self.speed = 1.0
        self.busy = 0.0
        self.waiting: deque[Seq] = deque()
        self.running: dict[int, Seq] = {}  # in order of admission
        self.prefilling: list[Seq] = []
        self.decoding: list[
            tuple[int, int, Seq]
        ] = []  # heap of (finish step, key, sequence), with entries of those gone
        self.decodes = 0
        self.context = 0  # sum of the lengths of decoding sequences
        self.step = 0
        # The flight: k equal steps since `start`, or one step with prefill chunks.
        self._start = 0.0
        self._steps = 0
        self._base = 0.0
        self._growth = 0.0
        self._chunks: list[tuple[Seq, int]] = []
        self.preemptions = self.prefix_queries = self.prefix_hits = 0
        self.prompt_tokens = self.generation_tokens = 0
        self.itl_sum = 0.0
        self.itl_count = 0

    def page(self, now: float) -> Page:
        """Its metrics page."""
        return Page(
            waiting=len(self.waiting),
            running=len(self.running),
            kv_usage=min(1.0, self.kv.used / self.kv.tokens),
            kv_capacity=self.kv.tokens,
            prefix_queries=self.prefix_queries,
            prefix_hits=self.prefix_hits,
            preemptions=self.preemptions,
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generation_tokens,
            itl_sum=self.itl_sum,
            itl_count=self.itl_count,
        )

    def fits(self, seq: Seq) -> bool:
        """Whether it could ever be served here."""
        return seq.prompt + seq.output <= longest(self.profile)

    def add(self, seq: Seq, now: float) -> None:
        """Queue a request; ``next_time`` may change."""
        self.waiting.append(seq)
        if self.next_time == _NEVER:
            self._begin(now)
        elif self._steps > 1:
            self._cut(now)

    def wake(self) -> tuple[list[Seq], list[Seq]]:
        """At ``next_time``: complete what was under way and begin what comes next.

        Returns:
            Sequences whose first token came out, and those that are done.
        """
        now = self.next_time
        first, done = self._complete(now)
        self._begin(now)
        return first, done

    def lost(self) -> list[Seq]:
        """All requests it has, for when it dies."""
        return [*self.running.values(), *self.waiting]

    # ---- time ----

    def step_seconds(self, tokens: int, context: int, pairs: float) -> float:
        """How long a step takes; see ``ralb_sim.engine.timing``."""
        p = self.profile
        linear = hypot(p.t_w, p.b * tokens) + p.r0 + p.r1 * tokens + p.h
        return (linear + p.a_d * context / 1000 + p.a_p * pairs) / 1000 / self.speed

    def _elapsed(self, steps: int) -> float:
        return steps * self._base + self._growth * steps * (steps - 1) / 2

    def _cut(self, now: float) -> None:
        """Somebody came in the middle of a leap: end it with the step that is under way."""
        waited = now - self._start
        steps = self._steps_within(waited)
        if self._elapsed(steps) < waited:
            steps += 1
        if steps < self._steps:
            self._steps = max(1, steps)
            self.next_time = self._start + self._elapsed(self._steps)

    def _steps_within(self, seconds: float) -> int:
        """Most whole steps of a leap that take no longer than this."""
        base, growth = self._base, self._growth
        if growth <= 0.0:
            return int(seconds / base)
        b = base - growth / 2
        return int((sqrt(b * b + 2 * growth * seconds) - b) / growth)

    # ---- the scheduler ----

    def _begin(self, now: float) -> None:
        preempted = False
        while self.decodes and self.kv.free < self.decodes:
            self._preempt()
            preempted = True
        budget = self.profile.max_num_batched_tokens - self.decodes
        chunks: list[tuple[Seq, int]] = []
        for seq in self.prefilling:
            if budget <= 0:
                break
            tokens = min(seq.length - seq.computed, budget)
            chunks.append((seq, tokens))
            budget -= tokens
        if not preempted:
            while self.waiting and budget > 0 and len(self.running) < self.profile.max_num_seqs:
                seq = self.waiting[0]
                if not self._admit(seq):
                    break
                self.waiting.popleft()
                tokens = min(seq.length - seq.computed, budget)
                chunks.append((seq, tokens))
                budget -= tokens
        self._chunks = chunks
        self._start = now
        if chunks:
            pairs = 0.0
            tokens = self.decodes
            for seq, count in chunks:
                pairs += count * (seq.computed + count / 2)
                tokens += count
            self._steps = 1
            self._base = self.step_seconds(tokens, self.context, pairs)
            self._growth = 0.0
        elif self.decodes:
            decoding = self.decoding
            while decoding[0][2].finish_step != decoding[0][0]:
                heapq.heappop(decoding)
            steps = min(decoding[0][0] - self.step, self.kv.free // self.decodes)
            self._steps = max(1, steps)
            self._base = self.step_seconds(self.decodes, self.context, 0.0)
            self._growth = self.profile.a_d * self.decodes / 1_000_000 / self.speed
        else:
            self._steps = 0
            self.next_time = _NEVER
            return
        self.next_time = now + self._elapsed(self._steps)

    def _admit(self, seq: Seq) -> bool:
        kv = self.kv
        size = kv.block_tokens
        hit = kv.match(seq.blocks, (seq.length - 1) // size) if size and seq.blocks else 0
        found = seq.blocks[:hit]
        missing = seq.length - hit * size
        room = kv.free
        if missing > room or (hit and missing > room - kv.idle_among(found) * size):
            return False
        kv.pin(found)
        kv.take(missing)
        seq.held = list(found)
        seq.computed = hit * size
        seq.published = hit
        if seq.cached < 0:
            seq.cached = seq.computed
            self.prefix_queries += seq.prompt
            self.prefix_hits += seq.computed
        self.running[seq.key] = seq
        self.prefilling.append(seq)
        return True

    def _complete(self, now: float) -> tuple[list[Seq], list[Seq]]:
        steps, decodes = self._steps, self.decodes
        self.busy += now - self._start
        self.step += steps
        if decodes:
            self.context += decodes * steps
            self.kv.take(decodes * steps)
            self.generation_tokens += decodes * steps
            self.itl_sum += decodes * (now - self._start)
            self.itl_count += decodes * steps
        first: list[Seq] = []
        done: list[Seq] = []
        for seq, tokens in self._chunks:
            seq.computed += tokens
            self._publish(seq)
            if seq.computed < seq.length:
                continue
            self.prefilling.remove(seq)
            if not seq.generated:
                seq.first_at = now
                first.append(seq)
                self.prompt_tokens += seq.prompt
            seq.generated += 1
            self.generation_tokens += 1
            self.kv.take(1)
            if seq.generated >= seq.output:
                self._leave(seq, seq.generated)
                done.append(seq)
            else:
                seq.finish_step = self.step + seq.output - seq.generated
                heapq.heappush(self.decoding, (seq.finish_step, seq.key, seq))
                self.decodes += 1
                self.context += seq.prompt + seq.generated
        decoding = self.decoding
        while decoding and decoding[0][0] <= self.step:
            finish_step, _, seq = heapq.heappop(decoding)
            if seq.finish_step != finish_step:
                continue
            self.decodes -= 1
            self.context -= seq.prompt + seq.output
            seq.finish_step = -1
            self._leave(seq, seq.output)
            done.append(seq)
        return first, done

    def _publish(self, seq: Seq) -> None:
        size = self.kv.block_tokens
        if not size:
            return
        full = min(seq.computed // size, len(seq.blocks))
        while seq.published < full:
            block = seq.blocks[seq.published]
            if self.kv.publish(block):
                seq.held.append(block)
            seq.published += 1

    def _leave(self, seq: Seq, generated: int) -> None:
        """Give back what a finished sequence holds; its answer stays findable for the conversation's next turn."""
        size = self.kv.block_tokens
        held = len(seq.held)
        if seq.tail and held == len(seq.blocks):
            for block in seq.tail[: (seq.prompt + generated) // size - len(seq.blocks)]:
                if not self.kv.publish(block):
                    break
                seq.held.append(block)
        self.kv.release(seq.held, seq.prompt + generated - len(seq.held) * size)
        seq.held = []
        del self.running[seq.key]

    def _preempt(self) -> None:
        _, seq = self.running.popitem()
        if seq.finish_step >= 0:
            seq.generated = seq.output - (seq.finish_step - self.step)
            self.decodes -= 1
            self.context -= seq.prompt + seq.generated
            seq.finish_step = -1
            private = seq.prompt + seq.generated - len(seq.held) * self.kv.block_tokens
        else:
            self.prefilling.remove(seq)
            private = seq.length - len(seq.held) * self.kv.block_tokens
        self.kv.release(seq.held, private)
        seq.held = []
        seq.length = seq.prompt + seq.generated
        seq.computed = 0
        seq.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(seq)
