"""When each pod will have worked off the prefill that is queued on it, and how much slower than its peers a pod is.

FREE_AT is a virtual clock per pod: a request put there moves it on by the step it joins (where nothing was queued) and by its own
prefill. Foresight drifts, so every metrics page that tells who is waiting sets it right: all that is not waiting any more has at
most one prefill under way, the latest of those waiting are ours, and what was sent since comes on top, each no sooner than it
was sent. Waiting requests that are not ours (another replica's) count as a typical one.

FACTOR is how many times as long per token as its peers the pod takes: 1 unless it is clearly off, which a few dozen answers
show. So pools of unlike cards, and a card that runs hot, are seen without being told of. It fades while the pod is sent nothing
(``load``).
"""

from collections import deque
from math import exp, log
from typing import Final

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Cells
from ralb_extproc.place.model import Note, SpeedModel

_KEPT: Final = 64  # requests per pod
_LEAD: Final = 0.7  # of the joined step that the next request will no longer have to wait for
_FULL: Final = 0.85  # of the cache, beyond which waiting may be for room
_SLOW_RATE: Final = 0.05
_SLOW_MOST: Final = 3.0  # log
_ODDITY: Final = 0.3  # log; less is noise, and twice that is believed in full


class Clock:
    """The clocks of a table's slots."""

    def __init__(self) -> None:
        self._sent: dict[int, deque[tuple[float, float]]] = {}  # (when, seconds of prefill), latest last
        self._slowness: dict[int, float] = {}

    def forget(self, slot: int) -> None:
        """The slot is another pod's, or its process is a new one."""
        self._sent.pop(slot, None)
        self._slowness.pop(slot, None)

    def note(self, cells: Cells, slot: int, cached: float, uncached: float, now: float) -> Note:
        """What is known of a pod before a request is put there."""
        capacity = cells[col.KV_CAPACITY, slot]
        context = (
            cells[col.KV_USAGE, slot] * capacity + cells[col.SINCE_TOKENS, slot]
            if capacity
            else cells[col.CONTEXT, slot]
        )
        return Note(
            requests=max(cells[col.INFLIGHT, slot], cells[col.SEEN, slot]),
            context=context,
            cached=cached,
            uncached=uncached,
            wait=max(0.0, cells[col.FREE_AT, slot] - now),
            factor=cells[col.FACTOR, slot],
            clear=bool(cells[col.WAITING, slot] == 0.0) and (not capacity or context < _FULL * capacity),
        )

    def placed(self, cells: Cells, slot: int, note: Note, model: SpeedModel, now: float) -> None:
        """A request was put on a pod."""
        seconds = model.own_prefill(note.cached, note.uncached) * note.factor
        joined = now + _LEAD * note.factor * model.step(note.requests, note.context)
        cells[col.FREE_AT, slot] = max(cells[col.FREE_AT, slot], joined) + seconds
        sent = self._sent.get(slot)
        if sent is None:
            sent = self._sent[slot] = deque(maxlen=_KEPT)
        sent.append((now, seconds))
        model.placed(note.uncached, seconds, now)

    def read(self, cells: Cells, slot: int, waiting: float, at: float, model: SpeedModel) -> None:
        """A page said how many were waiting at ``at``; what was sent later is not among them."""
        queued = under_way = 0.0
        since: list[tuple[float, float]] = []
        left = int(min(waiting, 1e6))
        for sent in reversed(self._sent.get(slot, ())):
            if sent[0] >= at:
                since.append(sent)
            elif left > 0:
                queued += sent[1]
                left -= 1
            else:
                under_way = sent[1]
                break
        queued += left * model.prefill
        least = at + queued
        most = least + under_way
        for when, seconds in reversed(since):
            least = max(least, when) + seconds
            most = max(most, when + _LEAD * model.base) + seconds
        cells[col.FREE_AT, slot] = min(max(cells[col.FREE_AT, slot], least), most)

    def served(self, cells: Cells, slot: int, ratio: float) -> None:
        """An answer took ``ratio`` times as long per token as expected of any pod of its pool."""
        old = self._slowness.get(slot, 0.0)
        said = min(max(log(max(ratio, 1e-6)), -_SLOW_MOST), _SLOW_MOST)
        slowness = self._slowness[slot] = old + _SLOW_RATE * (said - old)
        belief = min(max(abs(slowness) / _ODDITY - 1.0, 0.0), 1.0)
        cells[col.FACTOR, slot] = exp(belief * slowness)
