"""What an outcome changes: load released, failures blamed, prefill speed, prefix trust and answer lengths corrected.

Here is what only an access log tells; ``place.ending`` has what any end of a request does. A client that went away proves nothing
about the pod.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ralb_extproc.feedback.lengths import Lengths
from ralb_extproc.feedback.outcome import POD_FAILURES, Failure, Outcome
from ralb_extproc.place import Flight, PodTable
from ralb_extproc.place.ending import Answer, blame_earlier, teach, tried_last

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
        served, slot = tried_last(self.pods, flight, outcome.upstream, outcome.attempts)
        self._blame(outcome, flight, slot)
        info = flight.info
        pool = info.pools[served] if 0 <= served < len(info.pools) else info.pool
        good = 200 <= outcome.status < 300 and outcome.failure is Failure.NONE and not outcome.aborted
        usage = self._usage(outcome, flight, pool)
        if good:
            self._correct(outcome, flight, slot, pool, usage)
        self._settled(Settled(outcome, flight, pool, info.tier, outcome.upstream, slot, usage))

    def _finish(self, outcome: Outcome) -> Flight | None:
        flight = self.pods.finish(outcome.decision_id) if outcome.decision_id else None
        if flight is None and outcome.request_id:
            flight = self.pods.finish(outcome.request_id)
        return flight

    def _blame(self, outcome: Outcome, flight: Flight, slot: int) -> None:
        now = self._clock()
        blame_earlier(self.pods, flight, slot, outcome.attempts, now)
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

    def _correct(self, outcome: Outcome, flight: Flight, slot: int, pool: str, usage: Usage | None) -> None:
        info = flight.info
        if outcome.output_tokens is not None:
            self.lengths.learn(
                pool,
                info.intent,
                info.effort,
                info.adapter,
                stream=info.stream,
                output_tokens=outcome.output_tokens,
                response_bytes=outcome.response_bytes,
            )
        if slot >= 0 and usage is not None:
            answer = Answer(outcome.duration, usage.input, usage.output, outcome.ttft, outcome.cached_tokens)
            teach(self.pods, flight, slot, answer, outcome.attempts, self._clock())
