"""Reference policies: what peers and textbooks do, behind the contract of ``ralb_sim.offline.policy``.

One file each; the docstring states the algorithm, its signals, the peer's defaults and its limits. Where a peer leaves a choice
open, or the simulator cannot give it its signal, the variant that favours the peer is taken and the docstring says so. Ours is
not here: it is the processor's own code.
"""

from typing import Final

from ralb_sim.offline.policies.aibrix import Aibrix
from ralb_sim.offline.policies.dynamo import Dynamo, DynamoLmetric
from ralb_sim.offline.policies.least_request import LeastRequest
from ralb_sim.offline.policies.llm_d import LlmD
from ralb_sim.offline.policies.llm_d_2026 import LlmD2026
from ralb_sim.offline.policies.longest_prefix import LongestPrefix
from ralb_sim.offline.policies.oracle import Oracle
from ralb_sim.offline.policies.power_of_two import PowerOfTwo
from ralb_sim.offline.policies.product import Lmetric, Product
from ralb_sim.offline.policies.random_choice import RandomChoice
from ralb_sim.offline.policies.round_robin import RoundRobin
from ralb_sim.offline.policies.session_hash import SessionHash
from ralb_sim.offline.policies.sglang_cache_aware import SglangCacheAware
from ralb_sim.offline.policies.sglang_least_load import SglangLeastLoad
from ralb_sim.offline.policy import PolicyFactory

REFERENCE: Final[dict[str, PolicyFactory]] = {
    "round-robin": RoundRobin,
    "random": RandomChoice,
    "least-request": LeastRequest,
    "p2c": PowerOfTwo,
    "session-hash": SessionHash,
    "longest-prefix": LongestPrefix,
    "llm-d": LlmD,
    "llm-d-2026": LlmD2026,
    "sglang": SglangCacheAware,
    "sglang-least-load": SglangLeastLoad,
    "dynamo": Dynamo,
    "dynamo-lmetric": DynamoLmetric,
    "aibrix": Aibrix,
    "product": Product,
    "lmetric": Lmetric,
    "oracle": Oracle,
}
"""Name on the command line -> how to make the policy."""

__all__ = ["REFERENCE"]
