"""Free ports and waiting for conditions."""

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def free_port() -> int:
    return free_ports(1)[0]


async def wait_until(
    condition: Callable[[], T | Awaitable[T]],
    timeout: float = 10.0,  # noqa: ASYNC109  # says what was not reached
    *,
    interval: float = 0.01,
    what: str = "",
) -> T:
    """Wait until ``condition()`` (a function or coroutine function) is true; returns its value.

    An exception of the condition counts as not yet, and is shown when the time is over.
    """
    deadline = time.monotonic() + timeout
    while True:
        problem: BaseException | None = None
        value = None
        try:
            result = condition()
            value = await result if inspect.isawaitable(result) else result
            if value:
                return value
        except Exception as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition} (last value {value!r})") from problem
        await asyncio.sleep(interval)
