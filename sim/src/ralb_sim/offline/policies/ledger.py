"""What one router replica has sent and not yet seen the end of, per pod.

Bounded: beyond ``MAX_OPEN`` requests the oldest counts as ended. Requests on a pod that leaves are dropped with it, and what is
later heard of them is ignored.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ralb_sim.offline.policies.index import common_prefix, drop
from ralb_sim.offline.policy import Work

MAX_OPEN: Final = 100_000


@dataclass(slots=True)
class _Open:
    """A request in flight: its pod, the prompt tokens that pod has still to compute, and the request."""

    pod: int
    prefill: int
    work: Work


class Ledger:
    """Requests in flight and their prompt tokens still to be computed.

    Args:
        pods: how many pods there may be.

    Attributes:
        requests: requests in flight, per pod.
        prefill: uncached prompt tokens of those without a first token, per pod.
    """

    def __init__(self, pods: int) -> None:
        self.requests = [0] * pods
        self.prefill = [0] * pods
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, work: Work, pod: int, prefill: int = 0) -> None:
        """Count a request sent to a pod; sent a second time, it has left its former pod.

        Args:
            work: the request.
            pod: who got it.
            prefill: prompt tokens that the pod will have to compute.
        """
        self.finish(work.id)
        if len(self._open) >= MAX_OPEN:
            self.finish(next(iter(self._open)))
        self._open[work.id] = _Open(pod, prefill, work)
        self.requests[pod] += 1
        self.prefill[pod] += prefill

    def prefilled(self, request: str) -> None:
        """Release the prefill of a request that has its first token."""
        entry = self._open.get(request)
        if entry is not None:
            self.prefill[entry.pod] -= entry.prefill
            entry.prefill = 0

    def finish(self, request: str) -> None:
        """Release a request."""
        entry = self._open.pop(request, None)
        if entry is not None:
            self._release(entry)

    def forget(self, pod: int) -> None:
        """Release everything on a pod."""
        for request in [request for request, entry in self._open.items() if entry.pod == pod]:
            self.finish(request)

    def _release(self, entry: _Open) -> None:
        self.requests[entry.pod] -= 1
        self.prefill[entry.pod] -= entry.prefill


class BlockLedger(Ledger):
    """A ledger that also counts the prompt tokens held in KV by requests in flight, each block once per pod.

    Attributes:
        held: prompt tokens held, per pod.
    """

    def __init__(self, pods: int) -> None:
        super().__init__(pods)
        self.held = [0] * pods
        self._uses: list[dict[int, int]] = [{} for _ in range(pods)]
        self._holders: dict[int, int] = {}

    def shared(self, blocks: Sequence[int]) -> list[int]:
        """How many of a prompt's first blocks requests in flight hold already, per pod."""
        return common_prefix(self._holders, blocks, len(self.held))

    def add(self, work: Work, pod: int, prefill: int = 0) -> None:
        """Count a request and the blocks that nobody held before."""
        super().add(work, pod, prefill)
        uses, holders, bit = self._uses[pod], self._holders, 1 << pod
        fresh = 0
        for block in work.blocks:
            known = uses.get(block, 0)
            uses[block] = known + 1
            if not known:
                holders[block] = holders.get(block, 0) | bit
                fresh += 1
        self.held[pod] += work.input_tokens - (len(work.blocks) - fresh) * work.block_tokens

    def _release(self, entry: _Open) -> None:
        super()._release(entry)
        uses, work = self._uses[entry.pod], entry.work
        ended = []
        for block in work.blocks:
            left = uses[block] - 1
            if left:
                uses[block] = left
            else:
                del uses[block]
                ended.append(block)
        drop(self._holders, ended, 1 << entry.pod)
        self.held[entry.pod] -= work.input_tokens - (len(work.blocks) - len(ended)) * work.block_tokens
