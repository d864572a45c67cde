"""What pods say of themselves, taken over into the table, or that one says nothing because nobody listens."""

from ralb_extproc.place import columns as col
from ralb_extproc.place.facts import STALE_SECONDS, Facts
from ralb_extproc.place.flow import count_read
from ralb_extproc.place.sample import PodSample
from ralb_extproc.place.ward import UNREACHABLE_AS


def observe(facts: Facts, slot: int, sample: PodSample, now: float, settle: float) -> None:
    """Take over a reading; ``settle``: seconds from placing a request until the pod's gauges count it."""
    key = facts.roster.member(slot)
    if key is None:
        return
    roster, pool = facts.roster, key.pool
    cells = roster.cells
    if now - cells[col.SCRAPED_AT, slot] > STALE_SECONDS:
        facts.stale(pool)
    if cells[col.UNREACHABLE, slot] and sample.started > cells[col.FAILED_AT, slot]:
        facts.came_back(slot, pool, now)
    if facts.ward.read(slot, sample, now):
        facts.stale(pool)
    view = roster.views[pool]
    if sample.kv_usage is not None:
        cells[col.KV_USAGE, slot] = sample.kv_usage
    if sample.kv_capacity is not None and sample.kv_capacity != cells[col.KV_CAPACITY, slot]:
        cells[col.KV_CAPACITY, slot] = sample.kv_capacity
        facts.prefixes.measure(view, roster.data)
    if facts.observer.take(cells, slot, sample):
        # A new process: its cache is empty.
        facts.forget_cache(pool, slot)
        facts.restarted(slot, pool, sample.started)
    facts.residency.take(view, slot, sample.adapters, sample.adapter_room)
    if sample.waiting is None or sample.running is None:
        return
    count_read(cells, slot, sample)
    cells[col.WAITING, slot] = sample.waiting
    cells[col.RUNNING, slot] = sample.running
    cells[col.SCRAPED_AT, slot] = min(now, sample.started)
    cutoff = sample.started - settle
    facts.recent.counted(cells, slot, cutoff, sample.waiting + sample.running)
    model = facts.models.get(pool)
    if model is not None:
        facts.clock.read(cells, slot, sample.waiting, cutoff, model)


def unreachable(facts: Facts, slot: int, now: float) -> None:
    """The pod refused the scraper's connection: it goes last, and its cache is gone."""
    key, cells = facts.roster.member(slot), facts.roster.cells
    if key is not None and not cells[col.UNREACHABLE, slot]:
        cells[col.FAILURES, slot] = max(UNREACHABLE_AS, cells[col.FAILURES, slot])
        facts.put_last(slot, key.pool, now)
        cells[col.UNREACHABLE, slot] = 1.0
        facts.forget_cache(key.pool, slot)
