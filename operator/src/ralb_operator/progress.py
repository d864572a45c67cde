"""Waiting for a condition that changes only on the own event loop. No polling may enter."""

import asyncio
from collections.abc import Callable


class Progress:
    """Whoever changes what conditions depend on calls ``made``; waiters then look again.

    Attributes:
        count: how often it was called.
    """

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def made(self) -> None:
        """Something changed."""
        self.count += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait_beyond(self, count: int) -> int:
        """Wait until ``made`` was called more often than ``count``; returns how often."""
        while self.count <= count:
            await self._event.wait()
        return self.count

    async def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:  # noqa: ASYNC109  # answers, does not raise
        """Wait until ``condition()`` holds, at most ``timeout`` seconds; returns whether it does."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await self._event.wait()
        except TimeoutError:
            return condition()
        return True
