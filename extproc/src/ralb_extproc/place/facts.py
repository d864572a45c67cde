"""All that is kept of pods and pools, in one place: shared data of the rooms behind ``pods``.

Data flows one way: ``charges``, ``readings`` and ``outcomes`` note what happened, ``standing`` makes of it what a decision needs.
None of them calls another; what several find out (a pod does not answer, or is a new process) is noted here, the same for all.
"""

from math import inf
from typing import Final

from ralb.v1.snapshot_pb2 import Balancing
from ralb_extproc.place import columns as col
from ralb_extproc.place.adapters import Residency
from ralb_extproc.place.clock import Clock
from ralb_extproc.place.flow import Flow
from ralb_extproc.place.load import Steady
from ralb_extproc.place.model import SpeedModel
from ralb_extproc.place.observe import Observer
from ralb_extproc.place.prefixes import PoolPrefixes
from ralb_extproc.place.recent import Recent
from ralb_extproc.place.roster import FIRST_SLOTS, Roster
from ralb_extproc.place.strategy import Strategy
from ralb_extproc.place.ward import Ward, probe_wait

# An older reading is of the past.
STALE_SECONDS: Final = 1.0


class Facts:
    """What is kept.

    Attributes:
        roster: which pod is in which slot, and the matrix.
        recent: requests that the last readings cannot have counted.
        observer / ward / clock / residency: what readings and outcomes told, by slot.
        prefixes / models / strategies / balancing: by pool id.
        steady / flow: what was last made of it, by pool id; see ``standing``.
    """

    def __init__(self, prefix_entries: int) -> None:
        self.roster = Roster()
        self.recent = Recent()
        self.observer = Observer()
        self.ward = Ward(FIRST_SLOTS)
        self.clock = Clock()
        self.residency = Residency()
        self.prefixes = PoolPrefixes(prefix_entries)
        self.models: dict[str, SpeedModel] = {}
        self.strategies: dict[str, Strategy] = {}
        self.balancing: dict[str, Balancing] = {}
        self.steady: dict[str, Steady] = {}
        self.flow: dict[str, Flow] = {}

    def stale(self, pool: str) -> None:
        """Something jumped: what was made of the pool's pods is to be made again."""
        self.steady.pop(pool, None)

    def clear(self, slot: int) -> None:
        """The slot was freed."""
        self.recent.forget(slot)
        self.observer.forget(slot)
        self.ward.reset(slot)
        self.clock.forget(slot)

    def forget_cache(self, pool: str, slot: int) -> None:
        """The pod's cache is gone, and what a strategy remembers of it."""
        self.prefixes[pool].forget(slot)
        self.strategies[pool].forget(slot)
        self.residency.forget(pool, slot)

    def put_last(self, slot: int, pool: str, now: float) -> None:
        """The pod did not answer: it is tried again after a while, longer with every failure in a row."""
        self.stale(pool)
        cells = self.roster.cells
        failures = cells[col.FAILURES, slot] = min(cells[col.FAILURES, slot] + 1.0, 1000.0)
        cells[col.FAILED_AT, slot] = now
        cells[col.PROBE_AT, slot] = now + probe_wait(failures)

    def came_back(self, slot: int, pool: str, now: float) -> None:
        """A pod that failed answers again."""
        cells = self.roster.cells
        if cells[col.UNREACHABLE, slot] or self.ward.was_down(slot):
            self.restarted(slot, pool, now)
            return
        cells[col.FAILURES, slot] = 0.0
        cells[col.PROBE_AT, slot] = -inf
        self.stale(pool)

    def restarted(self, slot: int, pool: str, now: float) -> None:
        """A new process answers: it is to be judged by what it does itself."""
        cells = self.roster.cells
        cells[col.FIRST_SEEN, slot] = now
        cells[col.FAILURES, slot] = cells[col.UNREACHABLE, slot] = 0.0
        cells[col.FREE_AT, slot] = cells[col.PROBE_AT, slot] = -inf
        cells[col.FACTOR, slot] = 1.0
        self.clock.forget(slot)
        self.ward.restarted(pool, slot)
        self.stale(pool)
