"""Making a reference policy and feeding it by hand."""

import random
from collections.abc import Sequence

from ralb_sim.offline.policies import REFERENCE
from ralb_sim.offline.policies.common import BasePolicy
from ralb_sim.offline.policy import Done, Page, Setting, Work

BLOCK = 100


class FixedTruth:
    """A world in which each pod's completion is known beforehand."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.seconds = seconds

    def completion(self, pod: int, work: Work, now: float) -> float:
        return self.seconds[pod]


def policy(
    name: str, pods: int = 3, *, seed: int = 1, kv_tokens: int = 100_000, truth: Sequence[float] = ()
) -> BasePolicy:
    """Make a policy with all pods ready at time 0."""
    setting = Setting(
        pods=pods,
        replica=0,
        replicas=1,
        rng=random.Random(seed),
        kv_tokens=[kv_tokens] * pods,
        block_tokens=BLOCK,
        truth=FixedTruth(truth or [0.0] * pods),
    )
    made = REFERENCE[name](setting)
    assert isinstance(made, BasePolicy)
    made.pods(range(pods), 0.0)
    return made


def work(name: str, blocks: Sequence[int] = (), *, tokens: int = 0, session: str = "") -> Work:
    """A request; without ``tokens`` as long as its blocks."""
    return Work(name, tokens or max(len(blocks) * BLOCK, 1), blocks, BLOCK, session)


def send(made: BasePolicy, name: str, blocks: Sequence[int] = (), *, to: int, tokens: int = 0) -> None:
    """Have a request placed on a given pod: for that moment it is the only one."""
    every = list(made.alive)
    made.alive = [to]
    assert list(made.place(work(name, blocks, tokens=tokens), 0.0)) == [to]
    made.alive = every


def end(made: BasePolicy, name: str, pod: int = 0, *, ok: bool = True) -> None:
    """Report the end of a request."""
    made.finished(Done(name, pod, ok, 0.1, 1.0, 10, 0), 1.0)


def page(made: BasePolicy, pod: int, at: float = 0.0, **values: float) -> None:
    """Report a metrics page."""
    made.scraped(pod, Page(**values), at, at)
