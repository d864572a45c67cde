"""Session hash: rendezvous hashing of the session, so that its requests meet the cache its earlier ones left.

Without a session the key is the prompt's first ``FIRST_TOKENS`` tokens (peers hash 256 to a few thousand), and without blocks
the choice is random. Signal: the key alone; stateless, and replicas agree. When pods come or go only the keys that they win
move. Limit: load is never read, so heavy sessions and shared system prompts make hot pods.
"""

from collections.abc import Sequence
from typing import Final

import xxhash

from ralb_sim.offline.policies.common import BasePolicy
from ralb_sim.offline.policy import Work

FIRST_TOKENS: Final = 2048


class SessionHash(BasePolicy):
    """Ranks pods by the hash of key and pod."""

    def place(self, work: Work, now: float) -> Sequence[int]:
        """Return the pods, highest hash first."""
        key = _key(work)
        if not key:
            return self.rng.sample(self.alive, len(self.alive))
        digest = xxhash.xxh3_64_intdigest
        return sorted(self.alive, key=lambda pod: digest(key, pod), reverse=True)


def _key(work: Work) -> bytes:
    if work.session:
        return f"session {work.session}".encode()
    if not work.blocks:
        return b""
    last = min(-(-FIRST_TOKENS // work.block_tokens), len(work.blocks)) - 1
    return f"prefix {work.blocks[last]}".encode()  # ids are chained: this one stands for all before it
