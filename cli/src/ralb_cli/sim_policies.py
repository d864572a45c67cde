"""The gateway's own placement as policies of the offline simulator.

Stands between rooms that may not import each other: the simulator takes policies as values, the processor knows of no simulator.
Nothing is decided here: a router replica is a ``PodTable`` with one pool, told what the processor would be told. First tokens it
does not hear of, as the processor does not: an answer's times come with its end.
"""

from collections.abc import Callable, Sequence
from typing import Final

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.feedback import Lengths
from ralb_extproc.place import Ask, Dice, PodSample, PodTable, Prefix, charge, place, pool_of, settle
from ralb_sim.offline.policy import Done, Page, PolicyFactory, Setting, Work

_POOL: Final = "sim/pool"
_MAX_BLOCKS: Final = 1 << 14


class Placement:
    """One router replica with the processor's placement.

    Args:
        setting: as of every policy.
        strategy: how the pool is balanced.
    """

    def __init__(self, setting: Setting, strategy: int) -> None:
        self._pods = PodTable(settle=0.0)  # simulated requests are on the pod at once
        self._dice = Dice(setting.rng.getrandbits(32))
        self._lengths = Lengths()
        self._balancing = pb.Balancing(strategy=strategy)  # type: ignore[arg-type]
        self._addresses = [f"10.{pod >> 16}.{pod >> 8 & 255}.{pod & 255}:8000" for pod in range(setting.pods)]
        self._number = {address: pod for pod, address in enumerate(self._addresses)}
        self._bounds = range(0, _MAX_BLOCKS * setting.block_tokens + 1, setting.block_tokens or 1)

    def pods(self, alive: Sequence[int], now: float) -> None:
        """See ``Policy``."""
        self._pods.update(
            [
                pool_of(
                    _POOL, [self._addresses[pod] for pod in alive], balancing=self._balancing, metrics_path="/metrics"
                )
            ],
            now,
        )

    def scraped(self, pod: int, page: Page, at: float, now: float) -> None:
        """See ``Policy``."""
        slot = self._pods.slot(_POOL, self._addresses[pod])
        if slot is not None:
            self._pods.observe(slot, _sample(page, at), now)

    def place(self, work: Work, now: float) -> Sequence[int]:
        """See ``Policy``."""
        prefix = Prefix(tuple(work.blocks), work.input_tokens, self._bounds)
        expected = self._lengths.expected_output(_POOL, limit=work.max_output)
        ask = Ask(work.input_tokens, expected, prefix, session=work.session)
        order = place(self._pods, _POOL, ask, now, self._dice)
        charge(self._pods, _POOL, work.id, order, ask, now)
        return [self._number[address] for address in order.addresses]

    def first_token(self, request: str, now: float) -> None:
        """See ``Policy``; the processor is not told."""

    def finished(self, done: Done, now: float) -> None:
        """See ``Policy``."""
        if done.ok:
            self._lengths.learn(_POOL, "", stream=True, output_tokens=done.output_tokens, response_bytes=0)
        settle(
            self._pods,
            done.id,
            now,
            ok=done.ok,
            tries=done.attempts,
            address=self._addresses[done.pod] if done.pod >= 0 else "",
            ttft=done.ttft,
            duration=done.duration,
            output_tokens=done.output_tokens,
            cached_tokens=done.cached_tokens,
        )


def _sample(page: Page, at: float) -> PodSample:
    return PodSample(
        started=at,
        waiting=page.waiting,
        running=page.running,
        kv_usage=page.kv_usage,
        kv_capacity=page.kv_capacity,
        prefix_queries=page.prefix_queries,
        prefix_hits=page.prefix_hits,
        preemptions=page.preemptions,
        prompt_tokens=page.prompt_tokens,
        generation_tokens=page.generation_tokens,
        itl_seconds=page.itl_sum,
        itl_tokens=page.itl_count,
    )


def _with(strategy: int) -> Callable[[Setting], Placement]:
    return lambda setting: Placement(setting, strategy)


def ours() -> dict[str, PolicyFactory]:
    """Name on the command line -> how to make the policy."""
    named = {f"ralb:{_pascal(name)}": _with(number) for name, number in pb.Balancing.Strategy.items()}
    return {"reasoning-aware": named.pop("ralb:ReasoningAware"), **named}


def _pascal(name: str) -> str:
    words = "".join(word.capitalize() for word in name.split("_"))
    return words.replace("Kv", "KV")
