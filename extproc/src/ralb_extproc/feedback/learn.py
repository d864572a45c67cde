"""What an outcome changes: load released, failures blamed, prefill speed, prefix trust and answer lengths corrected.

Blame is by position: the access log tells how many tries were made and who made the last one, the ledger who was planned for
each. All tries before the last failed. A client that went away proves nothing about the pod.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ralb_extproc.feedback.lengths import Lengths
from ralb_extproc.feedback.outcome import POD_FAILURES, Failure, Outcome
from ralb_extproc.place import Flight, PodTable, Served
from ralb_extproc.place.flow import work_of

_MIN_HIT_TOKENS: Final = 64
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request.

    Attributes:
        input / output / cached / reasoning: counts; cached is part of input, reasoning of output.
        estimated: whether input or output were not counted by the server but derived from sizes.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """An outcome joined with what was known of the request.

    Attributes:
        outcome: as logged.
        flight: None for requests that were never placed, or whose flight was let go.
        pool: pool id of the last try; "" if unknown.
        tier: tier id; "" if unknown.
        endpoint: ``ip:port`` of the last try.
        slot: its slot, -1 if it is none of ours.
        usage: tokens; None where nothing was served.
    """

    outcome: Outcome
    flight: Flight | None = None
    pool: str = ""
    tier: str = ""
    endpoint: str = ""
    slot: int = -1
    usage: Usage | None = None


def _ignore(settled: Settled) -> None:
    pass


class Learner:
    """Applies outcomes; its ``learn`` is the sink of the access log.

    Args:
        pods: the table to correct.
        lengths: the answer lengths to correct.
        settled: called with every outcome after it is applied; must not block.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pods: PodTable,
        lengths: Lengths | None = None,
        settled: Callable[[Settled], None] = _ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pods = pods
        self.lengths = lengths if lengths is not None else Lengths()
        self._settled = settled
        self._clock = clock
        self.unknown = 0

    def learn(self, outcome: Outcome) -> None:
        """Apply one outcome."""
        flight = self._finish(outcome)
        if flight is None:
            self.unknown += 1
            self._settled(Settled(outcome, endpoint=outcome.upstream))
            return
        served, slot = self._served(outcome, flight)
        self._blame(outcome, flight, served, slot)
        info = flight.info
        pool = info.pools[served] if 0 <= served < len(info.pools) else info.pool
        good = 200 <= outcome.status < 300 and outcome.failure is Failure.NONE and not outcome.aborted
        usage = self._usage(outcome, flight, pool)
        if good:
            self._correct(outcome, flight, served, slot, pool, usage)
        self._settled(Settled(outcome, flight, pool, info.tier, outcome.upstream, slot, usage))

    def _finish(self, outcome: Outcome) -> Flight | None:
        flight = self.pods.finish(outcome.decision_id) if outcome.decision_id else None
        if flight is None and outcome.request_id:
            flight = self.pods.finish(outcome.request_id)
        return flight

    def _served(self, outcome: Outcome, flight: Flight) -> tuple[int, int]:
        """(index of the planned attempt that was the last try or -1, its slot or -1)."""
        if not outcome.upstream:
            return -1, -1
        attempts = flight.info.attempts
        last = min(outcome.attempts, len(attempts)) - 1
        for index in (last, *range(len(attempts))):
            if index < 0:
                continue
            slot, generation = attempts[index]
            key = self.pods.key(slot)
            if key is not None and key.generation == generation and key.address == outcome.upstream:
                return index, slot
        for index, pool in enumerate(flight.info.pools):  # Envoy fell back on a pod that was not planned
            slot_or_none = self.pods.slot(pool, outcome.upstream)
            if slot_or_none is not None:
                return index, slot_or_none
        return last, -1

    def _blame(self, outcome: Outcome, flight: Flight, served: int, slot: int) -> None:
        now = self._clock()
        attempts = flight.info.attempts
        for index in range(min(outcome.attempts - 1, len(attempts))):
            tried, generation = attempts[index]
            if tried != slot and self.pods.is_current(tried, generation):
                self.pods.fail(tried, now, begun=flight.begun)
        if slot < 0 or outcome.aborted:
            return
        if outcome.status == _TOO_MANY or (outcome.status == _UNAVAILABLE and outcome.retry_after is not None):
            # The pod said so itself: our own refusals never have an upstream. It is well, and has enough.
            self.pods.limit(slot, outcome.retry_after, now)
        elif outcome.failure in POD_FAILURES:
            self.pods.fail(slot, now, refused=outcome.failure is Failure.CONNECT, begun=flight.begun)
        elif outcome.failure is Failure.NONE:
            self.pods.succeed(slot, now)

    def _usage(self, outcome: Outcome, flight: Flight, pool: str) -> Usage | None:
        if not 200 <= outcome.status < 300:
            return None
        estimated = outcome.input_tokens is None or outcome.output_tokens is None
        tokens_in = outcome.input_tokens if outcome.input_tokens is not None else flight.info.input_tokens
        tokens_out = outcome.output_tokens
        if tokens_out is None:
            tokens_out = self.lengths.estimate_output(pool, outcome.response_bytes, stream=flight.info.stream)
        return Usage(
            input=tokens_in,
            output=tokens_out,
            cached=min(outcome.cached_tokens or 0, tokens_in),
            reasoning=min(outcome.reasoning_tokens or 0, tokens_out),
            estimated=estimated,
        )

    def _correct(
        self, outcome: Outcome, flight: Flight, served: int, slot: int, pool: str, usage: Usage | None
    ) -> None:
        info = flight.info
        if outcome.output_tokens is not None:
            self.lengths.learn(
                pool,
                info.intent,
                stream=info.stream,
                output_tokens=outcome.output_tokens,
                response_bytes=outcome.response_bytes,
            )
        if slot < 0:
            return
        if slot != flight.slot:
            self.pods.record_prefix(info.prefix, slot, info.input_tokens)
            if flight.slot >= 0:
                return  # Envoy went elsewhere than was planned; where it chooses itself, all the rest is learned
        if outcome.attempts > 1 or info.remote:
            return
        if usage is not None:
            work = work_of(usage.input, usage.cached, usage.output)
            self.pods.learn_work(slot, work, outcome.duration, self._clock())
            self.pods.answered(slot, Served(outcome.duration, outcome.ttft, usage.output), self._clock())
            if slot == flight.slot:
                self.pods.learn_times(
                    flight,
                    ttft=outcome.ttft,
                    duration=outcome.duration,
                    output=usage.output,
                    cached=outcome.cached_tokens,
                )
        if outcome.ttft is not None:
            self.pods.learn_prefill(flight, outcome.ttft)
        if outcome.cached_tokens is not None and info.hit_tokens >= _MIN_HIT_TOKENS:
            self.pods.learn_hits(slot, info.hit_tokens, outcome.cached_tokens)
