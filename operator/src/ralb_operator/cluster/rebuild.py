"""When to compile: after changes have been quiet for a moment, and at the latest a second after the first of them.

What is compiled and published may not enter. The trap: an exception must not end the loop; what was published stays.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

_LOG = logging.getLogger(__name__)

QUIET_S: Final = 0.1
CAP_S: Final = 1.0
_FIRST_S: Final = 1.0
_MOST_S: Final = 30.0
_MAX_TOLD: Final = 64


class Debounce:
    """Says when a burst of changes is over. Times are seconds of any clock that only goes forward.

    Args:
        quiet: so long without a change ends a burst.
        cap: no burst is longer.
    """

    def __init__(self, quiet: float = QUIET_S, cap: float = CAP_S) -> None:
        self._quiet = quiet
        self._cap = cap
        self._first: float | None = None
        self._due = 0.0

    def changed(self, now: float) -> None:
        """There was a change."""
        if self._first is None:
            self._first = now
        self._due = min(now + self._quiet, self._first + self._cap)

    @property
    def due(self) -> float | None:
        """When to build; None if there is nothing to build for."""
        return None if self._first is None else self._due

    def taken(self) -> None:
        """What changed so far is being built."""
        self._first = None


class Rebuilder:
    """Calls ``build`` after changes, one at a time.

    Attributes:
        builds, failures: calls so far, and how many of them raised.
        again: a try is planned because the last build failed or asked for it.
        last_error: what the last build failed with; "" if it did not.
    """

    def __init__(
        self,
        dirty: asyncio.Event,
        build: Callable[[], Awaitable[bool]],
        *,
        quiet: float = QUIET_S,
        cap: float = CAP_S,
        first: float = _FIRST_S,
        most: float = _MOST_S,
    ) -> None:
        """See the class.

        Args:
            dirty: set on each change; cleared here.
            build: builds everything anew; False asks to be called again after a while (Envoys refused it, for now).
            quiet: see ``Debounce``.
            cap: see ``Debounce``.
            first: seconds until the first try after a build that failed or asked for it; doubled with each.
            most: seconds between tries at most.
        """
        self.builds = 0
        self.failures = 0
        self.last_error = ""
        self.last_duration_s = 0.0
        self.again = False
        self._dirty = dirty
        self._build = build
        self._debounce = Debounce(quiet, cap)
        self._first = first
        self._most = most
        self._tries = 0
        self._told: set[str] = set()

    async def run(self) -> None:
        """Build whenever there is reason to; returns only by cancellation."""
        while True:
            await self._reason()
            await self._once()

    async def _reason(self) -> None:
        """Wait for the end of a burst of changes, or for the time of the next try."""
        loop = asyncio.get_running_loop()
        retry_at = loop.time() + self._retry() if self.again else None
        while True:
            if self._dirty.is_set():
                self._dirty.clear()
                self._debounce.changed(loop.time())
            until = min((at for at in (self._debounce.due, retry_at) if at is not None), default=None)
            if until is not None and loop.time() >= until:
                break
            try:
                async with asyncio.timeout_at(until):
                    await self._dirty.wait()
            except TimeoutError:
                break
        self._debounce.taken()

    def _retry(self) -> float:
        wait = min(self._first * 2.0 ** min(self._tries, 16), self._most) * random.uniform(0.8, 1.0)
        self._tries += 1
        return wait

    async def _once(self) -> None:
        self.builds += 1
        start = time.monotonic()
        try:
            self.again = not await self._build()
            self.last_error = ""
        except Exception as error:
            self.failures += 1
            self.again = True
            self.last_error = f"{type(error).__name__}: {error}"[:500]
            self._tell(error)
        self.last_duration_s = time.monotonic() - start
        if not self.again:
            self._tries = 0

    def _tell(self, error: Exception) -> None:
        if self.last_error not in self._told:
            if len(self._told) >= _MAX_TOLD:
                self._told.clear()
            self._told.add(self.last_error)
            _LOG.error("configuration cannot be built; what is served stays", exc_info=error)
