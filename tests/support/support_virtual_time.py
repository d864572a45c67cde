"""An event loop whose clock jumps to the next timer when there is nothing to do: hours pass in no time, to the microsecond."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everybody waits, and there is no timer: the test would hang")
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run in virtual time; ``loop.time()`` starts at 0. Threads and sockets may not be waited for."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
