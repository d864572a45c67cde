"""A pod in event time: ``ralb_sim.engine``'s scheduler, leaping over steps in which nothing changes.

A pod that only decodes does the same step again and again, a little longer each time as contexts grow; the time of k such steps
has a closed form, so a whole run of them is one event. Steps that prefill are taken one by one. The rules are those of
``ralb_sim.engine.core``: decodes first, then partial prefills, then waiting ones in order, within the token budget; admission
only when the prompt fits; the latest is pre-empted when there is no room. One simplification: memory is counted in tokens, as
with blocks of one token, where an engine rounds every request up to blocks of 16.

Trap: between two events ``context``, ``step`` and ``kv.used`` are those of the leap's first step; ``leapt`` tells how far it is.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from math import hypot, inf, sqrt

from ralb_sim.offline.kv import KvCache
from ralb_sim.offline.policy import Page
from ralb_sim.profiles import Profile


def longest(profile: Profile) -> int:
    """Most tokens, prompt and answer together, that a pod of this profile takes."""
    return min(profile.kv_tokens, profile.max_model_len)


class Seq:
    """A request on a pod.

    Trap: while it decodes, ``computed`` and ``generated`` stand still; they follow from ``finish_step``.
    """

    __slots__ = (
        "blocks", "cached", "computed", "finish_step", "first_at", "generated", "held", "key", "length", "output",
        "preemptions", "prompt", "published", "token_at",
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
        self.blocks = [*blocks, *tail] if tail else blocks
        self.length = prompt  # tokens to be computed before the next token comes
        self.computed = 0
        self.generated = 0
        self.finish_step = -1  # step at whose end it is done; -1 while it does not decode
        self.held: list[int] = []
        self.published = 0
        self.cached = -1
        self.preemptions = 0
        self.first_at = -1.0
        self.token_at = -1.0  # when it was pre-empted: its latest token


class SimPod:
    """One engine.

    Args:
        profile: its model and cards.
        block_tokens: tokens per prefix block of the trace; 0 = none.

    Raises:
        ValueError: the profile's batch could exceed its token budget.

    Attributes:
        next_time: when ``wake`` must be called; inf while idle.
        speed: durations are divided by it; 1.0 normally.
        decodes: sequences that decode.
        context: tokens computed of those.
        step: steps done.
        flights: how often it began a step or a leap; while that stands still, only the end of ``waiting`` changes.
    """

    def __init__(self, profile: Profile, block_tokens: int) -> None:
        if profile.max_num_seqs > profile.max_num_batched_tokens:
            raise ValueError(f"{profile.name}: max_num_seqs must not exceed max_num_batched_tokens")
        self.profile = profile
        self.kv = KvCache(profile.kv_tokens, block_tokens)
        self.next_time = inf
        self.speed = 1.0
        self.waiting: deque[Seq] = deque()
        self.running: dict[int, Seq] = {}  # in order of admission
        self.prefilling: list[Seq] = []
        # A heap of (finish step, key, sequence), with entries of those pre-empted since.
        self.decoding: list[tuple[int, int, Seq]] = []
        self.decodes = 0
        self.context = 0
        self.step = 0
        self.flights = 0
        # The flight: `_steps` steps since `_start`, one only if there are chunks; the first takes `_base` seconds and does
        # `_effort` of work, each one after it `_growth` more of both.
        self._start = 0.0
        self._steps = 0
        self._base = self._growth = self._effort = 0.0
        self._chunks: list[tuple[Seq, int]] = []
        self._work = 0.0
        self.preemptions = self.prefix_queries = self.prefix_hits = 0
        self.prompt_tokens = self.generation_tokens = 0
        self.itl_sum = 0.0
        self.itl_count = 0

    def page(self, now: float) -> Page:
        """Its metrics page."""
        leapt = self.leapt(now)
        tokens = leapt * self.decodes
        return Page(
            waiting=len(self.waiting),
            running=len(self.running),
            kv_usage=(self.kv.used + tokens) / self.kv.tokens,
            kv_capacity=self.kv.tokens,
            prefix_queries=self.prefix_queries,
            prefix_hits=self.prefix_hits,
            preemptions=self.preemptions,
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generation_tokens + tokens,
            itl_sum=self.itl_sum + self.decodes * self._elapsed(leapt),
            itl_count=self.itl_count + tokens,
        )

    def leapt(self, now: float) -> int:
        """Whole steps of the leap under way that are over; fewer than all of them."""
        return min(self._within(now - self._start), self._steps - 1) if self._steps > 1 else 0

    def work(self, now: float) -> float:
        """Seconds that the tokens so far have cost beyond the floor of their steps; the step under way counts in part.

        What a step costs however little is in it (weights, host, the fixed part of the all-reduce) is left out.
        """
        if not self._steps:
            return self._work
        leapt = self.leapt(now)
        lasts = self._base + self._growth * leapt
        part = min(1.0, max(0.0, now - self._start - self._elapsed(leapt)) / lasts)
        return self._work + self._worked(leapt) + part * (self._effort + self._growth * leapt)

    def inherit(self, work: float) -> None:
        """Go on counting from the work of the pod that this one replaces."""
        self._work = work

    def fits(self, seq: Seq) -> bool:
        """Whether it could ever be served here."""
        return seq.prompt + seq.output <= longest(self.profile)

    def add(self, seq: Seq, now: float) -> None:
        """Queue a request that fits; ``next_time`` may change."""
        self.waiting.append(seq)
        if not self._steps:
            self._begin(now)
        elif self._steps > 1:
            self._cut(now)

    def pace(self, speed: float, now: float) -> None:
        """Change the speed, from the next step on; ``next_time`` may change."""
        self.speed = speed
        if self._steps > 1:
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

    def _worked(self, steps: int) -> float:
        return steps * self._effort + self._growth * steps * (steps - 1) / 2

    def _within(self, seconds: float) -> int:
        """Most whole steps of a leap that take no longer than this."""
        b = self._base - self._growth / 2
        return int(2 * seconds / (b + sqrt(b * b + 2 * self._growth * seconds)))

    def _cut(self, now: float) -> None:
        """Somebody came in the middle of a leap: end it with the step that is under way."""
        waited = now - self._start
        steps = max(1, self._within(waited))
        while self._elapsed(steps) < waited:
            steps += 1
        if steps < self._steps:
            self._steps = steps
            self.next_time = max(now, self._start + self._elapsed(steps))

    # ---- the scheduler ----

    def _begin(self, now: float) -> None:
        kv, profile = self.kv, self.profile
        self.flights += 1
        preempted = False
        while self.decodes > kv.free:
            self._preempt(now)
            preempted = True
        decodes, context, pairs = self.decodes, self.context, 0.0
        kv.take(decodes)
        tokens = decodes
        budget = profile.max_num_batched_tokens
        chunks: list[tuple[Seq, int]] = []
        # At most one: who is not ended by a step has used up its budget. It is also the last that was admitted.
        for seq in self.prefilling:
            count = min(seq.length - seq.computed, budget - tokens)
            if count > kv.free:
                self._preempt(now)
                preempted = True
                break
            kv.take(count)
            chunks.append((seq, count))
            tokens += count
        # As vLLM: who was just thrown out is not let in by the same step.
        if not preempted:
            while self.waiting and tokens < budget and len(self.running) < profile.max_num_seqs:
                seq = self.waiting[0]
                count = self._admit(seq, budget - tokens)
                if not count:
                    break
                self.waiting.popleft()
                chunks.append((seq, count))
                tokens += count
        self._chunks = chunks
        self._start = now
        self._growth = 0.0
        self._steps = 1
        if chunks:
            for seq, count in chunks:
                if count == 1 and seq.generated:
                    context += seq.computed  # recomputes no more than its latest token: as a decode
                else:
                    pairs += count * (seq.computed + count / 2)
        elif decodes:
            self._growth = profile.a_d * decodes / 1_000_000 / self.speed
            if not preempted:
                decoding = self.decoding
                while decoding[0][2].finish_step != decoding[0][0]:
                    heapq.heappop(decoding)
                self._steps = min(decoding[0][0] - self.step, 1 + kv.free // decodes)
        else:
            self._steps = 0
            self.next_time = inf
            return
        self._base = self.step_seconds(tokens, context, pairs)
        effort = (profile.b + profile.r1) * tokens + profile.a_d * context / 1000 + profile.a_p * pairs
        self._effort = effort / 1000 / self.speed
        self.next_time = now + self._elapsed(self._steps)

    def _admit(self, seq: Seq, budget: int) -> int:
        """Let the head of the queue in, if all it has fits; the tokens it computes in this step, 0 = it stays outside."""
        kv = self.kv
        size = kv.block_tokens
        hit = kv.match(seq.blocks, (seq.length - 1) // size) if size and seq.blocks else 0
        found = seq.blocks[:hit]
        missing = seq.length - hit * size
        room = kv.free
        if missing > room or (hit and missing > room - kv.idle_among(found) * size):
            return 0
        count = min(missing, budget)
        kv.pin(found)
        kv.take(count)
        seq.held = list(found)
        seq.computed = hit * size
        seq.published = hit
        if seq.cached < 0:
            seq.cached = seq.computed
            self.prefix_queries += seq.prompt
            self.prefix_hits += seq.computed
        self.running[seq.key] = seq
        self.prefilling.append(seq)
        return count

    def _complete(self, now: float) -> tuple[list[Seq], list[Seq]]:
        steps, decodes = self._steps, self.decodes
        self._work += self._worked(steps)
        self.step += steps
        if decodes:
            if steps > 1:
                self.kv.take(decodes * (steps - 1))
            self.context += decodes * steps
            self.generation_tokens += decodes * steps
            self.itl_sum += decodes * (now - self._start)
            self.itl_count += decodes * steps
        first: list[Seq] = []
        done: list[Seq] = []
        decoding = self.decoding
        while decoding and decoding[0][0] <= self.step:
            finish_step, _, seq = heapq.heappop(decoding)
            if seq.finish_step != finish_step:
                continue
            computed = seq.prompt + seq.output - 1
            self.decodes -= 1
            self.context -= computed
            seq.finish_step = -1
            self._leave(seq, computed)
            done.append(seq)
        for seq, tokens in self._chunks:
            seq.computed += tokens
            self._publish(seq, seq.computed)
            if seq.computed < seq.length:
                continue
            self.prefilling.remove(seq)
            if seq.generated:
                self.itl_sum += now - seq.token_at
                self.itl_count += 1
            else:
                seq.first_at = now
                first.append(seq)
                self.prompt_tokens += seq.prompt
            seq.generated += 1
            self.generation_tokens += 1
            if seq.generated >= seq.output:
                self._leave(seq, seq.computed)
                done.append(seq)
            else:
                seq.finish_step = self.step + seq.output - seq.generated
                heapq.heappush(self.decoding, (seq.finish_step, seq.key, seq))
                self.decodes += 1
                self.context += seq.computed
        return first, done

    def _publish(self, seq: Seq, computed: int) -> None:
        """Make what is full and computed findable. Of answers that is put off until they end: nobody can ask before."""
        size = self.kv.block_tokens
        if not size:
            return
        full = min(computed // size, len(seq.blocks))
        while seq.published < full:
            block = seq.blocks[seq.published]
            if self.kv.publish(block):
                seq.held.append(block)
            seq.published += 1

    def _leave(self, seq: Seq, computed: int) -> None:
        """Give back what a sequence holds; what is full stays findable, its answer for the conversation's next turn."""
        self._publish(seq, computed)
        self.kv.release(seq.held, computed - len(seq.held) * self.kv.block_tokens)
        seq.held = []
        self.running.pop(seq.key, None)

    def _preempt(self, now: float) -> None:
        """Throw out the latest; it goes to the head of the queue."""
        _, seq = self.running.popitem()
        if seq.finish_step >= 0:
            seq.generated = seq.output - (seq.finish_step - self.step)
            seq.computed = seq.prompt + seq.generated - 1
            seq.finish_step = -1
            seq.token_at = now
            self.decodes -= 1
            self.context -= seq.computed
        else:
            self.prefilling.remove(seq)
        self._leave(seq, seq.computed)
        seq.length = seq.prompt + seq.generated
        seq.computed = 0
        seq.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(seq)
