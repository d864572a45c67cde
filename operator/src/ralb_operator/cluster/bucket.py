"""A token bucket: so many at once, so many per second in the long run."""

import asyncio
import time
from collections.abc import Callable


class Bucket:
    """Full at first.

    Args:
        rate: tokens per second, more than 0.
        burst: most tokens at once, at least 1.
        clock: monotonic seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("a bucket needs a rate above 0 and room for a token")
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    def take_now(self) -> bool:
        """Take a token if there is one."""
        now = self._clock()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def full(self) -> bool:
        """Nothing was taken for so long that it is as new."""
        return self._tokens + (self._clock() - self._at) * self._rate >= self._burst

    async def take(self) -> None:
        """Wait for a token and take it."""
        while not self.take_now():  # noqa: ASYNC110  # time is all it waits for
            await asyncio.sleep((1.0 - self._tokens) / self._rate)
