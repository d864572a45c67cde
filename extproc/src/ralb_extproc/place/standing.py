"""How the pods of a pool stand: what a decision needs of all that is known, the slow part of it kept for some milliseconds."""

from ralb_extproc.place.ask import Ask
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.facts import Facts
from ralb_extproc.place.flow import Flow
from ralb_extproc.place.flow import flow as flow_of
from ralb_extproc.place.load import STEADY_SECONDS, Steady
from ralb_extproc.place.load import steady as steady_of
from ralb_extproc.place.strategy import Scene
from ralb_extproc.place.views import PoolView
from ralb_extproc.place.ward import Care


def steady(facts: Facts, view: PoolView, now: float) -> Steady:
    """``load.steady`` of a view, which is kept if it is all of a pool."""
    whole = facts.roster.views.get(view.pool)
    found = facts.steady.get(view.pool) if whole is view else None
    if found is None or not 0.0 <= now - found.at <= STEADY_SECONDS:
        found = steady_of(facts.roster.data[:, view.select], view.cap, now, care(facts, view, now))
        if whole is view:
            facts.steady[view.pool] = found
    return found


def care(facts: Facts, view: PoolView, now: float) -> Care:
    """``Ward.care`` of a view."""
    whole = facts.roster.views.get(view.pool, view)
    return facts.ward.care(view.pool, whole.select, view.select, facts.roster.data, now)


def flow(facts: Facts, view: PoolView, now: float) -> Flow:
    """``flow.flow`` of a view, kept as well."""
    found = facts.flow.get(view.pool)
    if found is None or not 0.0 <= now - found.at <= STEADY_SECONDS:
        state, share = steady(facts, view, now), care(facts, view, now).share
        found = flow_of(facts.roster.data[:, view.select], state, share, now, found)
        if facts.roster.views.get(view.pool) is view:
            facts.flow[view.pool] = found
    return found


def scene(facts: Facts, view: PoolView, ask: Ask, now: float, dice: Dice) -> Scene:
    """What a view's pods are compared by."""
    pool, hits, resident = view.pool, None, None
    state = steady(facts, view, now)
    if facts.strategies[pool].uses_prefix:
        hits = facts.prefixes.hits(ask.prefix, view, ask.input_tokens)
        if hits is not None and state.belief is not None:
            hits *= state.belief
    if ask.adapter:
        resident = facts.residency.mask(view, ask.adapter, whole=facts.roster.views.get(pool) is view)
    overdrawn = facts.ward.overdrawn(view.select) if state.reduced is not None else None
    block = facts.roster.data[:, view.select]
    return Scene(view, block, state, hits, ask, now, dice, facts.models[pool], resident, overdrawn)
