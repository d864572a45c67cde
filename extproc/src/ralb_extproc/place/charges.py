"""What requests in flight weigh on pods: charged when they are placed, released when they end.

Writes the columns of our own sending (INFLIGHT to BACKLOG_AT, CONTEXT), and those of ``recent`` and ``clock`` through them.
"""

from math import inf

from ralb_extproc.place import columns as col
from ralb_extproc.place.facts import STALE_SECONDS, Facts
from ralb_extproc.place.ledger import Flight
from ralb_extproc.place.views import PodKey
from ralb_extproc.place.ward import probe_wait


def charge(facts: Facts, key: PodKey, flight: Flight, now: float) -> None:
    """Charge a flight to its pod, and note in it how that was just before."""
    cells, slot, tokens = facts.roster.cells, flight.slot, flight.info.input_tokens
    prefill = flight.prefill
    model = facts.models.get(key.pool)
    if model is not None:
        note = flight.note = facts.clock.note(cells, slot, max(0.0, tokens - prefill), prefill, now)
        facts.clock.placed(cells, slot, note, model, now)
    flight.load = max(cells[col.INFLIGHT, slot], cells[col.SEEN, slot])
    flight.queued = cells[col.WAITING, slot] > 0.0 and now - cells[col.SCRAPED_AT, slot] < STALE_SECONDS
    cells[col.CONTEXT, slot] += tokens
    cells[col.INFLIGHT, slot] += 1.0
    cells[col.PREFILL, slot] += prefill
    cells[col.DECODE, slot] += flight.decode
    since = max(0.0, now - cells[col.BACKLOG_AT, slot])
    flight.ahead = max(0.0, cells[col.BACKLOG, slot] - cells[col.PREFILL_RATE, slot] * since)
    cells[col.BACKLOG, slot] = flight.ahead + prefill
    cells[col.BACKLOG_AT, slot] = now
    failures = cells[col.FAILURES, slot]
    if failures:
        cells[col.PROBE_AT, slot] = now + probe_wait(failures)
        facts.stale(key.pool)
    view = facts.roster.views.get(key.pool)
    if view is not None and facts.ward.placed(key.pool, view.select, slot, now):
        facts.stale(key.pool)
    facts.recent.add(cells, flight)


def first_token(facts: Facts, flight: Flight) -> None:
    """Its prefill is done."""
    if facts.roster.is_current(flight.slot, flight.generation):
        facts.roster.cells[col.PREFILL, flight.slot] -= flight.prefill
        flight.prefill = 0.0


def release(facts: Facts, flight: Flight) -> None:
    """Take a flight off its pod; one that drains is let go of with the last."""
    flight.open = False
    slot, roster = flight.slot, facts.roster
    if not roster.is_current(slot, flight.generation):
        return
    cells = roster.cells
    if flight.recent:
        facts.recent.leave(cells, flight)
    else:  # the last reading still counts it
        cells[col.SEEN, slot] = max(cells[col.SINCE, slot], cells[col.SEEN, slot] - 1.0)
    left = cells[col.INFLIGHT, slot] = cells[col.INFLIGHT, slot] - 1.0
    if left <= 0.0:  # nothing in flight: also wipe what rounding left
        cells[col.FREE_AT, slot] = -inf
        for column in (col.INFLIGHT, col.PREFILL, col.DECODE, col.CONTEXT):
            cells[column, slot] = 0.0
        if slot in roster.draining:
            roster.free(slot)
            facts.clear(slot)
    else:
        cells[col.PREFILL, slot] -= flight.prefill
        cells[col.DECODE, slot] -= flight.decode
        cells[col.CONTEXT, slot] -= flight.info.input_tokens
