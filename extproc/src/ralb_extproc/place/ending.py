"""What the end of a request changes in the table, whoever tells of it: tries blamed, and what the answer teaches.

Blame is by position: an outcome tells how many tries were made and who made the last one, the flight who was planned for each.
All tries before the last failed.
"""

from dataclasses import dataclass
from typing import Final

from ralb_extproc.place.flow import work_of
from ralb_extproc.place.ledger import Flight
from ralb_extproc.place.pods import PodTable
from ralb_extproc.place.strategy import Served

_MIN_HIT_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in full.

    Attributes:
        duration: seconds from the request to the end.
        input_tokens / output_tokens: counted or estimated.
        ttft: seconds from the request to the first token; None = not known.
        cached_tokens: prompt tokens found in the pod's cache; None = it did not say.
    """

    duration: float
    input_tokens: int
    output_tokens: int
    ttft: float | None = None
    cached_tokens: int | None = None


def tried_last(pods: PodTable, flight: Flight, address: str, attempts: int) -> tuple[int, int]:
    """Who made the last of so many tries: (which of the planned ones it was or -1, slot or -1); "" = nobody."""
    if not address:
        return -1, -1
    planned = flight.info.attempts
    last = min(attempts, len(planned)) - 1
    for index in (last, *range(len(planned))):
        if index < 0:
            continue
        slot, generation = planned[index]
        key = pods.key(slot)
        if key is not None and key.generation == generation and key.address == address:
            return index, slot
    for index, pool in enumerate(flight.info.pools):  # a pod that was not planned
        slot_or_none = pods.slot(pool, address)
        if slot_or_none is not None:
            return index, slot_or_none
    return last, -1


def blame_earlier(pods: PodTable, flight: Flight, slot: int, attempts: int, now: float) -> None:
    """Blame the tries before the last, which was on ``slot``."""
    planned = flight.info.attempts
    for index in range(min(attempts - 1, len(planned))):
        tried, generation = planned[index]
        if tried != slot and pods.is_current(tried, generation):
            pods.fail(tried, now, begun=flight.begun)


def teach(pods: PodTable, flight: Flight, slot: int, answer: Answer, attempts: int, now: float) -> None:
    """Learn from an answer that the pod in ``slot`` gave in full, in the last of so many tries."""
    info = flight.info
    if slot != flight.slot:
        pods.record_prefix(info.prefix, slot, info.input_tokens)
        if flight.slot >= 0:
            return  # it went elsewhere than was planned; where Envoy chooses, all the rest is learned
    if attempts > 1 or info.remote:
        return
    work = work_of(answer.input_tokens, answer.cached_tokens or 0, answer.output_tokens)
    pods.learn_work(slot, work, answer.duration, now)
    pods.answered(slot, Served(answer.duration, answer.ttft, answer.output_tokens), now)
    if slot == flight.slot:
        pods.learn_times(
            flight,
            ttft=answer.ttft,
            duration=answer.duration,
            output=answer.output_tokens,
            cached=answer.cached_tokens,
        )
    if answer.ttft is not None:
        pods.learn_prefill(flight, answer.ttft)
    if answer.cached_tokens is not None and info.hit_tokens >= _MIN_HIT_TOKENS:
        pods.learn_hits(slot, info.hit_tokens, answer.cached_tokens)
