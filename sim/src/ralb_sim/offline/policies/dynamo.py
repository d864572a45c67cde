"""NVIDIA Dynamo's KV router, ``linear`` and ``lmetric``: the least cost in KV blocks.

- linear: scale x max(active prefill blocks + the prompt's blocks - overlap credit x cached blocks, 0) + decode blocks.
- lmetric: the adjusted prefill of the first x (decode blocks + 1).

Decode blocks are the prompt blocks of all requests in flight and of this one, a shared block once. Prefill is released at the
first token, decode blocks at the end. Defaults: scale 1, credit 1.0 (device tier), temperature 0 (the least cost wins, ties
random), no decay of credit or of decode blocks, no growth of decode blocks by output, no queue; blocks of 16 tokens.

Signals: the replica's own accounting; cached blocks from KV events by default, without them from what it sent. There are no
events here: the index is the approximate one, LRU in the size of the cache, which for one replica is nearer to events than the
peer's own fallback (everything it sent in the last 120 s). Limits: prompt tokens to compute and to hold are added as if they
cost the same; output length is unknown; other replicas' requests are not seen.
"""

from collections.abc import Sequence
from typing import Final

from ralb_sim.offline.policies.common import PrefixPolicy, rank, uncached
from ralb_sim.offline.policies.ledger import BlockLedger
from ralb_sim.offline.policy import Setting, Work

PREFILL_SCALE: Final = 1.0
OVERLAP_CREDIT: Final = 1.0
BLOCK_TOKENS: Final = 16


class Dynamo(PrefixPolicy):
    """Ranks pods by prefill and decode blocks added up."""

    ledger: BlockLedger

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.ledger = BlockLedger(setting.pods)

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods, least cost first."""
        matches = self.index.matches(work.blocks)
        order = rank(self.alive, self.costs(work, matches), self.rng)
        if order:
            self.index.add(order[0], work.blocks)
            self.ledger.add(work, order[0], uncached(work, matches[order[0]]))
        return order

    def costs(self, work: Work, matches: Sequence[int]) -> list[float]:
        """Return the cost of the request on each ready pod.

        Args:
            work: the request.
            matches: cached blocks, per pod.
        """
        shared = self.ledger.shared(work.blocks)
        out = []
        for pod in self.alive:
            credit = OVERLAP_CREDIT * matches[pod] * work.block_tokens
            prefill = max(self.ledger.prefill[pod] + work.input_tokens - credit, 0.0)
            decode = self.ledger.held[pod] + uncached(work, shared[pod])
            out.append(self._cost(PREFILL_SCALE * prefill / BLOCK_TOKENS, decode / BLOCK_TOKENS))
        return out

    def _cost(self, prefill: float, decode: float) -> float:
        return prefill + decode


class DynamoLmetric(Dynamo):
    """Ranks pods by prefill blocks times decode blocks."""

    def _cost(self, prefill: float, decode: float) -> float:
        return prefill * (decode + 1.0)
