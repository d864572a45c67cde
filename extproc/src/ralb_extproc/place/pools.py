"""The order of a level's pools, and the level that takes a request: plain data in, order out.

Within a level pools are drawn without replacement by effective weight (the Efraimidis-Spirakis keys), so the first pool's
share is exactly its part of the sum. Weight 0 comes after all others.

    static    weight
    dynamic   weight x pods x drain / (1 + excess queue)

pods      those that do not fail, each at the share of work its health allows
drain     work per second of a full pod, speed x room (``flow``), drawn towards the mean of the peers by ``_SPEED_PRIOR`` and
          ``_ROOM_PRIOR`` as long as little was seen, within ``_SPAN`` of it: unmeasured pools count by their pods
excess    time until the pool's queue is worked off beyond that of the peer where this is least, in units of the time a
          typical pod takes for a request: waiting per pod x mean drain / drain
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ralb_extproc.place.dice import Dice
from ralb_extproc.place.flow import Flow

# Prices within this of the cheapest are as good as equal.
NEAR_PRICE: Final = 1.05
_SPEED_PRIOR: Final = 20.0  # requests in the batch x seconds
_ROOM_PRIOR: Final = 50.0  # the same, while requests queue
_SPAN: Final = 20.0
_LEAST_PODS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Peer:
    """A pool among those of its level.

    Attributes:
        weight: as configured.
        queue: mean requests waiting per pod.
        flow: None for a pool whose pods are not seen, or where nobody asks.
        price: of the request there, in dollars.
    """

    weight: int
    queue: float = 0.0
    flow: Flow | None = None
    price: float = 0.0

    @property
    def excess(self) -> float:
        """Share of new requests that are too many for it."""
        return self.flow.excess if self.flow is not None else 0.0


def order(peers: Sequence[Peer], dice: Dice, *, dynamic: bool, by_price: bool) -> list[int]:
    """Indexes of the pools of a level, first choice first."""
    weights = effective(peers) if dynamic else [float(peer.weight) for peer in peers]
    draws = dice.many(len(peers)).tolist()
    bands = _bands(peers, dice) if by_price else [0] * len(peers)
    keys = [
        (0 if weight > 0.0 else 1, band, -math.log1p(-draw) / (weight or 1.0))
        for weight, band, draw in zip(weights, bands, draws, strict=True)
    ]
    return sorted(range(len(peers)), key=keys.__getitem__)


def effective(peers: Sequence[Peer]) -> list[float]:
    """Effective weights under dynamic weighing, in the same order; 0 where the weight is."""
    known = [peer.flow for peer in peers if peer.flow is not None]
    seen = sum(flow.pods for flow in known)
    typical_pods = max(1.0, seen / len(known)) if known else 1.0
    drains = _drains(peers)
    pods = [max(_LEAST_PODS, peer.flow.pods) if peer.flow is not None else typical_pods for peer in peers]
    mean = sum(n * drain for n, drain in zip(pods, drains, strict=True)) / sum(pods)
    waits = [peer.queue * mean / drain for peer, drain in zip(peers, drains, strict=True)]
    least = min(waits)
    return [
        peer.weight * n * drain / (1.0 + wait - least)
        for peer, n, drain, wait in zip(peers, pods, drains, waits, strict=True)
    ]


def _drains(peers: Sequence[Peer]) -> list[float]:
    """Drain of one pod of each pool, relative to the same of its peers."""
    flows = [peer.flow for peer in peers]
    known = [flow for flow in flows if flow is not None]
    speed = _ratio(sum(flow.work for flow in known), sum(flow.busy for flow in known))
    room = _ratio(sum(flow.filled for flow in known), sum(flow.full for flow in known))
    out = []
    for flow in flows:
        if flow is None:
            out.append(1.0)
            continue
        own_speed = (flow.work + _SPEED_PRIOR * speed) / (flow.busy + _SPEED_PRIOR)
        own_room = (flow.filled + _ROOM_PRIOR * room) / (flow.full + _ROOM_PRIOR)
        if flow.cap:
            own_room = min(own_room, float(flow.cap))
        relative = own_speed * own_room / (speed * room)
        out.append(min(max(relative, 1.0 / _SPAN), _SPAN))
    return out


def _ratio(amount: float, over: float) -> float:
    """1 while nothing was seen."""
    return amount / over if amount > 0.0 and over > 0.0 else 1.0


def _bands(peers: Sequence[Peer], dice: Dice) -> list[int]:
    """For each pool how many price steps it is above the cheapest; the part of requests too many for it is sent on."""
    tosses = dice.many(len(peers)).tolist() if any(peer.excess for peer in peers) else [1.0] * len(peers)
    room = [i for i, (peer, toss) in enumerate(zip(peers, tosses, strict=True)) if toss >= peer.excess]
    room.sort(key=lambda i: peers[i].price)
    bands = [len(peers)] * len(peers)
    band, start = -1, -1.0
    for i in room:
        if band < 0 or peers[i].price > NEAR_PRICE * start:
            band, start = band + 1, peers[i].price
        bands[i] = band
    return bands


def leading(levels: Sequence[Sequence[float]], dice: Dice) -> int:
    """The level that takes a request: the first one that has pools, or for its excess the next that is not saturated.

    Args:
        levels: per level, in order, the excess of each pool that could serve.
        dice: drawn from only where there is something to decide.

    Returns:
        Its index, -1 where no level has pools.
    """
    first = next((i for i, level in enumerate(levels) if level), -1)
    if first < 0:
        return first
    excess = min(levels[first])
    if excess <= 0.0:
        return first
    calm = next((i for i in range(first + 1, len(levels)) if levels[i] and min(levels[i]) <= 0.0), -1)
    return calm if calm >= 0 and dice.one() < excess else first
