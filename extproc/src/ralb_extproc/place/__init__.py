"""Which pod: the state of all pods, and the choice among them.

    pods = PodTable()
    pods.update(snapshot.pools, now)                             # with every snapshot
    ask = Ask(input_tokens, expected_output, prefix_of(request))
    placement = place_plan(table, pods, plan, ask, now, dice)     # ordered attempts over all pools of a plan
    commit(pods, request_id, placement, plan, ask, now)          # charges the first pod
    pods.finish(request_id)                                      # with every outcome

``single.place`` is the same for one pool without a plan, for other programs.

May not enter: clocks, I/O, gRPC, Prometheus. Readings arrive as ``PodSample``, times as arguments, so that a simulator can use
it as it is.
"""

from ralb_extproc.place.ask import Ask
from ralb_extproc.place.choose import MAX_ATTEMPTS, NowhereError, PoolTable, commit, place_plan
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.ledger import Flight, FlightInfo, Ledger
from ralb_extproc.place.pods import PodTable
from ralb_extproc.place.prefix import NO_PREFIX, Prefix, PrefixIndex, hash_blocks
from ralb_extproc.place.prompt import canonical, prefix_of
from ralb_extproc.place.sample import PodSample
from ralb_extproc.place.single import Order, charge, place, pool_of, settle
from ralb_extproc.place.strategy import Served
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
    "Order",
    "PodKey",
    "PodSample",
    "PodTable",
    "PoolTable",
    "PoolView",
    "Prefix",
    "PrefixIndex",
    "Served",
    "canonical",
    "charge",
    "commit",
    "hash_blocks",
    "place",
    "place_plan",
    "pool_of",
    "prefix_of",
    "settle",
]
