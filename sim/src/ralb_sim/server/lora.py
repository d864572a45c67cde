"""Which LoRA adapters have requests, and the series that tells it.

The trap is vLLM's form of it: the adapters are labels and the value is a time, so every change leaves another label set on the
page, and only the one with the latest time is true.
"""

import time
from collections import Counter

from ralb_sim.server.exposition import head, labels, number

_KEPT = 8


class LoraUse:
    """Requests by adapter.

    Args:
        names: Adapters there are; requests for other models are not counted.
        most: Adapters the engine holds at once.
    """

    def __init__(self, names: tuple[str, ...], most: int) -> None:
        self._names = frozenset(names)
        self._most = str(most)
        self._waiting: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._told: dict[str, float] = {}
        self._changed()

    def queued(self, name: str) -> None:
        """A request for a model came."""
        self._move(name, waiting=1)

    def admitted(self, name: str) -> None:
        """It left the queue."""
        self._move(name, waiting=-1, running=1)

    def left(self, name: str, *, running: bool) -> None:
        """It ended, in the batch or still in the queue."""
        self._move(name, waiting=-int(not running), running=-int(running))

    def _move(self, name: str, waiting: int = 0, running: int = 0) -> None:
        if name in self._names:
            self._waiting[name] += waiting
            self._running[name] += running
            self._changed()

    def _changed(self) -> None:
        listed = labels(
            max_lora=self._most,
            running_lora_adapters=",".join(sorted(+self._running)),
            waiting_lora_adapters=",".join(sorted(+self._waiting)),
        )
        self._told.pop(listed, None)
        self._told[listed] = time.time()
        if len(self._told) > _KEPT:
            del self._told[next(iter(self._told))]

    def render(self, out: list[str]) -> None:
        """Append the family; nothing where there are no adapters."""
        if self._names:
            name = "vllm:lora_requests_info"
            out.append(head(name, "Running stats on lora requests.", "gauge"))
            out.extend(f"{name}{listed} {number(at)}\n" for listed, at in self._told.items())
