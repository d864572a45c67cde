"""Who computes the prompt of a request for a Decode pool: the decode pod itself, or a prefill pod that hands the KV blocks over.

Prefill and decode pod are chosen together. The decode pod that the pool's strategy prefers is asked first: if so much of the
prompt is in its cache that fewer than ``min_prompt_tokens`` are left, it does all. Else the prompt is worth a prefill pod:

    prefill pod   as ``ReasoningAware`` compares the pods of the Prefill pool
    decode pod    (load + 1) x memory x start: it computes next to nothing of the prompt, so only decoding counts

    seconds = (backlog + uncached) / prefill rate          of a pod, by its pool's learned rate

and the prefill pod is used unless its seconds exceed ``PATIENCE`` times those of the first decode pod, or the time limit: then
its queue costs the client more than splitting is worth. Pure: changes nothing; ``charge`` does.

Trap: KV blocks are handed over once. What a second attempt would fetch may by then hold another prompt, so later attempts go to
the rewriting clusters, where the reference is taken out of the body again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Final

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.place import columns as col
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.choose import PoolTable
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.ledger import FlightInfo
from ralb_extproc.place.load import FIT, load
from ralb_extproc.place.pods import PodTable
from ralb_extproc.place.strategies import ReasoningAware
from ralb_extproc.place.strategy import Ranking, Scene, Strategy, rank
from ralb_extproc.place.views import PoolView
from ralb_extproc.types import Attempt, Handoff, HandoffReason, Placement

PATIENCE: Final = 2.0
_LEG: Final = "/prefill"


class _DecodeLoad(Strategy):
    """Load and memory alone: the prompt comes from elsewhere."""

    uses_prefix: ClassVar[bool] = False

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``."""
        out = load(scene.block, scene.steady.trust, scene.steady.typical)
        out += 1.0
        out *= scene.steady.factor
        return out


_DECODE: Final = _DecodeLoad()
_PREFILL: Final = ReasoningAware()


def hand_over(
    table: PoolTable,
    pods: PodTable,
    placement: Placement,
    ask: Ask,
    now: float,
    dice: Dice,
    *,
    splittable: Callable[[], bool],
) -> Placement:
    """Decide who computes the prompt.

    Args:
        table: has the pools by id.
        pods: the state of the pods.
        placement: where the request goes by its strategy.
        ask: the request's numbers.
        now: monotonic seconds.
        dice: for ties.
        splittable: whether the request is of a kind that can be served in two legs; asked only where it matters.

    Returns:
        The placement as it was for pools that do not hand over. Else one with ``handoff`` set, and where a prefill pod is used,
        with the decode pod first and later attempts on the rewriting clusters.
    """
    first = placement.attempts[0]
    pool = table.pools.get(first.pool)
    if pool is None or not pool.HasField("disaggregation"):
        return placement
    how = pool.disaggregation
    sidecar = how.connector == pb.CONNECTOR_SIDECAR
    if placement.uncached_tokens < how.min_prompt_tokens:
        return _unified(placement, HandoffReason.SHORT)
    # The rewriting clusters only know the pools' own model names.
    if not splittable() or first.model != pool.model.name:
        return _unified(placement, HandoffReason.UNSUPPORTED)
    chosen = _prefill_pod(pods, how.prefill_pool, ask, now, dice)
    decode = pods.view(first.pool)
    if chosen is None or decode is None:
        return _unified(placement, HandoffReason.NO_PREFILL)
    view, ranking = chosen
    position = ranking.order[0]
    expected = _seconds(pods, view.slots[position], ranking.uncached, now)
    # Where Envoy chooses the decode pod, any of them stands for the one that will be.
    slot = pods.slot(first.pool, first.endpoint) if first.endpoint else decode.slots[0]
    alone = _seconds(pods, slot, placement.uncached_tokens, now) if slot is not None else math.inf
    if expected > min(how.timeout_s, PATIENCE * alone):
        return _unified(placement, HandoffReason.SLOWER)
    handoff = Handoff(
        HandoffReason.REMOTE,
        pool=how.prefill_pool,
        endpoint=view.addresses[position],
        sidecar=sidecar,
        uncached_tokens=round(ranking.uncached),
        expected=expected,
        timeout=how.timeout_s,
    )
    return _split(table, pods, placement, decode, ask, now, dice, handoff)


def _unified(placement: Placement, reason: HandoffReason) -> Placement:
    return replace(placement, handoff=Handoff(reason))


def fall_back(placement: Placement, ask: Ask, reason: HandoffReason) -> Placement:
    """The same pods, but the decode pod computes the prompt: the prefill pod could not."""
    assert placement.handoff is not None
    uncached = round(ask.input_tokens * (1.0 - placement.prefix_hit))
    return replace(placement, uncached_tokens=uncached, handoff=replace(placement.handoff, reason=reason))


def _prefill_pod(pods: PodTable, pool: str, ask: Ask, now: float, dice: Dice) -> tuple[PoolView, Ranking] | None:
    """The best pod of a Prefill pool, None when none is fit."""
    view = pods.view(pool)
    if view is None:
        return None
    scene = _with_hits(pods, pods.scene(view, ask, now, dice))
    ranking = rank(_PREFILL, scene, 1)
    return (view, ranking) if ranking.best == FIT else None


def _with_hits(pods: PodTable, scene: Scene) -> Scene:
    """With prefix hits, whether or not the pool's own strategy asks for them."""
    if scene.hits is None:
        hits = pods.prefix_hits(scene.ask.prefix, scene.view, scene.ask.input_tokens)
        if hits is not None:
            return scene._replace(hits=hits * col.belief(scene.block))
    return scene


def _seconds(pods: PodTable, slot: int, uncached: float, now: float) -> float:
    """Time for what is queued on a pod and these tokens."""
    data = pods.data
    rate = float(data[col.PREFILL_RATE, slot])
    queued = max(0.0, float(data[col.BACKLOG, slot]) - rate * max(0.0, now - float(data[col.BACKLOG_AT, slot])))
    return (queued + uncached) / rate


def _split(
    table: PoolTable,
    pods: PodTable,
    placement: Placement,
    view: PoolView,
    ask: Ask,
    now: float,
    dice: Dice,
    handoff: Handoff,
) -> Placement:
    if not placement.attempts[0].endpoint:
        return replace(placement, attempts=_once(table, placement.attempts), handoff=handoff)
    if ask.only is not None:
        view = view.narrowed(ask.only) or view
    scene = _with_hits(pods, pods.scene(view, ask, now, dice))
    ranking = rank(_DECODE, scene._replace(hits=None), 1)
    position = ranking.order[0]
    held = 0.0 if scene.hits is None else float(scene.hits[position])
    first = replace(placement.attempts[0], endpoint=view.addresses[position])
    # A pod that was not among them takes the place of the one it is preferred to.
    others = [each for each in placement.attempts if (each.pool, each.endpoint) != (first.pool, first.endpoint)]
    if len(others) == len(placement.attempts):
        del others[0]
    return replace(
        placement,
        attempts=_once(table, (first, *others)),
        prefix_hit=held / ask.input_tokens if ask.input_tokens else 0.0,
        uncached_tokens=0,
        score=ranking.score,
        handoff=handoff,
    )


def _once(table: PoolTable, attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """The attempts with blocks to fetch at the first only; without those the rewriting clusters would ask for the wrong model."""
    later = (
        replace(each, cluster=table.pools[each.pool].rewrite_cluster)
        for each in attempts[1:]
        if each.model == table.pools[each.pool].model.name
    )
    return (attempts[0], *later)


def leg_id(request_id: str) -> str:
    """The flight under which the prefill leg of a request is charged."""
    return request_id + _LEG


def charge(pods: PodTable, request_id: str, placement: Placement, ask: Ask, now: float) -> None:
    """Charge the prefill leg of a placed request, if it has one, to its prefill pod, and note the prompt there.

    ``pods.finish(leg_id(request_id))`` ends it. Call it in the same event loop turn as ``hand_over``.
    """
    handoff = placement.handoff
    if handoff is None or not handoff.remote:
        return
    slot = pods.slot(handoff.pool, handoff.endpoint)
    key = pods.key(slot) if slot is not None else None
    if slot is None or key is None:
        return
    info = FlightInfo(
        pool=handoff.pool,
        intent=ask.intent,
        input_tokens=ask.input_tokens,
        hit_tokens=ask.input_tokens - handoff.uncached_tokens,
        attempts=((slot, key.generation),),
        pools=(handoff.pool,),
    )
    pods.begin(leg_id(request_id), slot, handoff.uncached_tokens, 1.0, now, info)
    pods.placed(slot, ask, now)
