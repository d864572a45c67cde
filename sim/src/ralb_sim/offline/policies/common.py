"""What the reference policies share: the list of pods, requests in flight, the order of a ranking, the newest metrics pages.

No algorithm of a peer may enter: those have one file each.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random

from ralb_sim.offline.policies.index import MAX_ENTRIES, PrefixIndex
from ralb_sim.offline.policies.ledger import Ledger
from ralb_sim.offline.policy import Done, Page, Setting, Work

_NO_LOAD = Page()


def rank(pods: Sequence[int], costs: Sequence[float], rng: Random) -> list[int]:
    """Order pods by cost, least first; equals in random order.

    Args:
        pods: the pods.
        costs: one cost for each of them.
        rng: decides between equals.
    """
    chance = rng.random
    return [pod for _, _, pod in sorted(zip(costs, [chance() for _ in pods], pods, strict=True))]


def uncached(work: Work, matched: int) -> int:
    """Prompt tokens left to compute when the first ``matched`` blocks are cached."""
    return max(work.input_tokens - matched * work.block_tokens, 0)


class Pages:
    """The newest metrics page of each pod.

    Args:
        pods: how many pods there may be.
    """

    def __init__(self, pods: int) -> None:
        self._pages = [_NO_LOAD] * pods
        self._at = [float("-inf")] * pods

    def __getitem__(self, pod: int) -> Page:
        """Return the pod's page; a pod without one looks idle."""
        return self._pages[pod]

    def taken(self, pod: int) -> float:
        """When the page was taken, seconds; minus infinity without one."""
        return self._at[pod]

    def put(self, pod: int, page: Page, at: float) -> None:
        """Keep a page unless a newer one is known."""
        if at >= self._at[pod]:
            self._pages[pod], self._at[pod] = page, at

    def forget(self, pod: int) -> None:
        """Drop the pod's page."""
        self._pages[pod], self._at[pod] = _NO_LOAD, float("-inf")


class BasePolicy(ABC):
    """Keeps what a router knows of its pods, and forgets it when they leave.

    Attributes:
        rng: the policy's source of chance.
        alive: the ready pods.
        ledger: own requests in flight; empty unless the policy adds them.
        pages: the newest metrics pages.
    """

    def __init__(self, setting: Setting) -> None:
        self.rng = setting.rng
        self.alive: list[int] = []
        self.ledger = Ledger(setting.pods)
        self.pages = Pages(setting.pods)

    @abstractmethod
    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return all ready pods, best first."""

    def scraped(self, pod: int, page: Page, at: float, now: float) -> None:
        """Keep the newest page of a ready pod."""
        if pod in self.alive:
            self.pages.put(pod, page, at)

    def first_token(self, request: str, now: float) -> None:
        """Release the request's prefill."""
        self.ledger.prefilled(request)

    def finished(self, done: Done, now: float) -> None:
        """Release the request."""
        self.ledger.finish(done.id)

    def pods(self, alive: Sequence[int], now: float) -> None:
        """Take over the list and forget who has left."""
        for pod in set(self.alive).difference(alive):
            self.forget(pod)
        self.alive = list(alive)

    def forget(self, pod: int) -> None:
        """Drop what is known of a pod that has left: should it come back, it will be empty."""
        self.ledger.forget(pod)
        self.pages.forget(pod)


class PrefixPolicy(BasePolicy):
    """A policy with an approximate prefix index: what it sent where, never corrected by the engines.

    Args:
        setting: what the policy is made for.
        tokens: prompt tokens remembered per pod; None = as many as the pod's KV cache holds.
    """

    def __init__(self, setting: Setting, tokens: int | None = None) -> None:
        super().__init__(setting)
        most = MAX_ENTRIES // max(setting.pods, 1)
        block = max(setting.block_tokens, 1)
        self.index = PrefixIndex(
            [min((tokens or setting.kv_tokens[pod]) // block, most) for pod in range(setting.pods)]
        )

    def forget(self, pod: int) -> None:
        """Drop the pod's prefixes too."""
        super().forget(pod)
        self.index.forget(pod)
