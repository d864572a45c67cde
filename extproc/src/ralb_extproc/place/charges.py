"""What requests in flight weigh on pods: charged when they are placed, released when they end.

Writes the columns of our own sending (INFLIGHT to BACKLOG_AT, CONTEXT), and those of ``recent`` and ``clock`` through them.
"""

import numpy as np

from ralb_extproc.place import columns as col
from ralb_extproc.place.facts import STALE_SECONDS, Facts
from ralb_extproc.place.ledger import Flight
from ralb_extproc.place.views import PodKey
from ralb_extproc.place.ward import probe_wait


def charge(facts: Facts, key: PodKey, flight: Flight, now: float) -> None:
    """Charge a flight to its pod, and note in it how that was just before."""
    data, slot, info = facts.roster.data, flight.slot, flight.info
    prefill = flight.prefill
    model = facts.models.get(key.pool)
    if model is not None:
        note = flight.note = facts.clock.note(data, slot, max(0.0, info.input_tokens - prefill), prefill, now)
        facts.clock.placed(data, slot, note, model, now)
    flight.load = max(float(data[col.INFLIGHT, slot]), float(data[col.SEEN, slot]))
    flight.queued = bool(data[col.WAITING, slot] > 0.0 and now - data[col.SCRAPED_AT, slot] < STALE_SECONDS)
    data[col.CONTEXT, slot] += info.input_tokens
    data[col.INFLIGHT, slot] += 1.0
    data[col.PREFILL, slot] += prefill
    data[col.DECODE, slot] += flight.decode
    since = max(0.0, now - float(data[col.BACKLOG_AT, slot]))
    flight.ahead = max(0.0, float(data[col.BACKLOG, slot]) - float(data[col.PREFILL_RATE, slot]) * since)
    data[col.BACKLOG, slot] = flight.ahead + prefill
    data[col.BACKLOG_AT, slot] = now
    if data[col.FAILURES, slot]:
        data[col.PROBE_AT, slot] = now + probe_wait(float(data[col.FAILURES, slot]))
        facts.stale(key.pool)
    view = facts.roster.views.get(key.pool)
    if view is not None and facts.ward.placed(key.pool, view.select, slot, now):
        facts.stale(key.pool)
    facts.recent.add(data, flight)


def first_token(facts: Facts, flight: Flight) -> None:
    """Its prefill is done."""
    if facts.roster.is_current(flight.slot, flight.generation):
        facts.roster.data[col.PREFILL, flight.slot] -= flight.prefill
        flight.prefill = 0.0


def release(facts: Facts, flight: Flight) -> None:
    """Take a flight off its pod; one that drains is let go of with the last."""
    flight.open = False
    slot, roster = flight.slot, facts.roster
    if not roster.is_current(slot, flight.generation):
        return
    data = roster.data
    if flight.recent:
        facts.recent.leave(data, flight)
    else:  # the last reading still counts it
        data[col.SEEN, slot] = max(float(data[col.SINCE, slot]), float(data[col.SEEN, slot]) - 1.0)
    data[col.INFLIGHT, slot] -= 1.0
    if data[col.INFLIGHT, slot] <= 0.0:  # nothing in flight: also wipe what rounding left
        data[col.FREE_AT, slot] = -np.inf
        data[[col.INFLIGHT, col.PREFILL, col.DECODE, col.CONTEXT], slot] = 0.0
        if slot in roster.draining:
            roster.free(slot)
            facts.clear(slot)
    else:
        data[col.PREFILL, slot] -= flight.prefill
        data[col.DECODE, slot] -= flight.decode
        data[col.CONTEXT, slot] -= flight.info.input_tokens
