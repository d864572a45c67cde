"""The pods of one pool in order, without plans, tiers or Envoy: what another program, a simulator say, calls.

``place`` gives addresses in order, ``charge`` says where the request was really sent. The table is told everything else by
``PodTable.update`` (which pods there are), ``observe`` (a metrics page), ``first_token`` and ``finish``; docs/placement.md has
the whole loop.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ralb.v1.snapshot_pb2 import Endpoint, Pool
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.ledger import FlightInfo
from ralb_extproc.place.pods import PodTable
from ralb_extproc.place.strategy import rank


@dataclass(frozen=True, slots=True)
class Order:
    """Where a request should go.

    Attributes:
        addresses: of pods, best first.
        uncached: prompt tokens the first would have to prefill.
        cost: the first's cost by the pool's strategy.
    """

    addresses: tuple[str, ...]
    uncached: float
    cost: float


def pool_of(name: str, addresses: Iterable[str], **fields: object) -> Pool:
    """A pool as ``PodTable.update`` takes it; ``fields`` are those of ``ralb.v1.Pool``."""
    return Pool(id=name, endpoints=[Endpoint(address=address) for address in addresses], **fields)  # type: ignore[arg-type]


def place(pods: PodTable, pool: str, ask: Ask, now: float, dice: Dice, want: int = 4) -> Order:
    """Order the pods of a pool for a request; changes nothing.

    Args:
        pods: their state.
        pool: pool id.
        ask: the request's numbers.
        now: seconds of the clock that the table's other calls use.
        dice: chance.
        want: how many are needed in order.

    Raises:
        LookupError: the pool is not in the table or has no pods (that the request may use).
    """
    view = pods.view(pool)
    if view is not None and ask.only is not None:
        view = view.narrowed(ask.only)
    if view is None:
        raise LookupError(f"pool {pool!r} has no pods")
    ranking = rank(pods.strategy(view), pods.scene(view, ask, now, dice), want)
    addresses = tuple(view.addresses[position] for position in ranking.order[:want])
    return Order(addresses, ranking.uncached, ranking.score)


def charge(pods: PodTable, pool: str, request_id: str, order: Order, ask: Ask, now: float) -> None:
    """Charge a request to the first pod of an order and note its prompt there."""
    slot = pods.slot(pool, order.addresses[0])
    key = pods.key(slot) if slot is not None else None
    if slot is None or key is None:
        raise LookupError(f"pool {pool!r} has no pod {order.addresses[0]}")
    info = FlightInfo(
        pool=pool,
        intent=ask.intent,
        stream=ask.stream,
        input_tokens=ask.input_tokens,
        hit_tokens=ask.input_tokens - round(order.uncached),
        attempts=((slot, key.generation),),
        pools=(pool,),
    )
    pods.begin(request_id, slot, order.uncached, ask.output_tokens, now, info)
    pods.placed(slot, ask, now)
