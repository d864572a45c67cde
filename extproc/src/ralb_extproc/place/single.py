"""The pods of one pool in order, without plans, tiers or Envoy: what another program, a simulator say, calls.

``place`` gives addresses in order, ``charge`` notes that the request goes to the first, ``settle`` what became of it. The table
is told everything else by ``PodTable.update`` (which pods there are) and ``observe`` (a metrics page); docs/placement.md has the
whole loop.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from ralb.v1.snapshot_pb2 import Endpoint, Pool
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.ending import Answer, blame_earlier, teach, tried_last
from ralb_extproc.place.ledger import FlightInfo
from ralb_extproc.place.pods import PodTable
from ralb_extproc.place.strategy import rank


class Order(NamedTuple):
    """Where a request should go.

    Attributes:
        addresses: of pods, best first.
        uncached: prompt tokens the first would have to prefill.
        cost: the first's cost by the pool's strategy.
    """

    addresses: tuple[str, ...]
    uncached: float
    cost: float


def pool_of(name: str, addresses: Iterable[str], **fields: Any) -> Pool:
    """A pool as ``PodTable.update`` takes it; ``fields`` are those of ``ralb.v1.Pool``."""
    return Pool(id=name, endpoints=[Endpoint(address=address) for address in addresses], **fields)


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
    """Charge a request to the first pod of an order and note its prompt there.

    Raises:
        LookupError: a pod of the order is not in the table any more.
    """
    planned: list[tuple[int, int]] = []
    for address in order.addresses:
        slot = pods.slot(pool, address)
        key = pods.key(slot) if slot is not None else None
        if slot is None or key is None:
            raise LookupError(f"pool {pool!r} has no pod {address}")
        planned.append((slot, key.generation))
    info = FlightInfo(
        pool=pool,
        intent=ask.intent,
        effort=ask.effort,
        adapter=ask.adapter,
        stream=ask.stream,
        input_tokens=ask.input_tokens,
        hit_tokens=max(0, ask.input_tokens - round(order.uncached)),
        attempts=tuple(planned),
        pools=(pool,) * len(planned),
        prefix=ask.prefix,
    )
    first = planned[0][0]
    pods.begin(request_id, first, order.uncached, ask.output_tokens, now, info)
    pods.placed(first, ask, now)


def settle(
    pods: PodTable,
    request_id: str,
    now: float,
    *,
    ok: bool = True,
    tries: int = 1,
    address: str = "",
    ttft: float | None = None,
    duration: float = 0.0,
    output_tokens: int = 0,
    cached_tokens: int | None = None,
) -> bool:
    """End a request: its load is released, who failed it is blamed, and what its answer shows is learned.

    Args:
        pods: their state.
        request_id: as it was charged.
        now: seconds of the same clock.
        ok: whether it was answered in full; else the last pod failed it.
        tries: pods that were tried, in order; all but the last failed it.
        address: who had it last; "" = that follows from the tries. Another one than planned may be named.
        ttft: seconds from ``charge`` to the first token; None = not known.
        duration: seconds from ``charge`` to the end.
        output_tokens: of the answer.
        cached_tokens: prompt tokens the pod found in its cache; None = it did not say.

    Returns:
        Whether the request was known: it was charged, and was neither settled nor let go before.
    """
    flight = pods.finish(request_id)
    if flight is None:
        return False
    if not address:
        key = pods.key(flight.info.attempts[min(tries, len(flight.info.attempts)) - 1][0])
        address = key.address if key is not None else ""
    _, slot = tried_last(pods, flight, address, tries)
    blame_earlier(pods, flight, slot, tries, now)
    if slot < 0:
        return True
    if not ok:
        pods.fail(slot, now, begun=flight.begun)
        return True
    pods.succeed(slot, now)
    teach(
        pods, flight, slot, Answer(duration, flight.info.input_tokens, output_tokens, ttft, cached_tokens), tries, now
    )
    return True
