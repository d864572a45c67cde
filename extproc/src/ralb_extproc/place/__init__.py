"""Which pod: the state of all pods, and the choice among them.

    pods = PodTable()
    pods.update(snapshot.pools, now)                        # with every snapshot
    ask = Ask(input_tokens, expected_output, prefix_of(request))
    placement = place(table, pods, plan, ask, now, dice)     # ordered attempts
    commit(pods, request_id, placement, plan, ask, now)     # charges the first pod
    pods.finish(request_id)                                 # with every outcome

May not enter: clocks, I/O, gRPC, Prometheus. Readings arrive as ``PodSample``, times as arguments, so that a simulator can use
it as it is.
"""

from ralb_extproc.place.choose import MAX_ATTEMPTS, Ask, NowhereError, PoolTable, commit, place
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.ledger import Flight, FlightInfo, Ledger
from ralb_extproc.place.pods import PodTable
from ralb_extproc.place.prefix import NO_PREFIX, Prefix, PrefixIndex, hash_blocks
from ralb_extproc.place.prompt import canonical, prefix_of
from ralb_extproc.place.sample import PodSample
from ralb_extproc.place.views import Change, PodKey, PoolView

__all__ = [
    "MAX_ATTEMPTS",
    "NO_PREFIX",
    "Ask",
    "Change",
    "Dice",
    "Flight",
    "FlightInfo",
    "Ledger",
    "NowhereError",
    "PodKey",
    "PodSample",
    "PodTable",
    "PoolTable",
    "PoolView",
    "Prefix",
    "PrefixIndex",
    "canonical",
    "commit",
    "hash_blocks",
    "place",
    "prefix_of",
]
