"""Child processes that are kept running until they are told to stop.

Every child dies with this process, even when it is killed outright (Linux: a parent-death signal; elsewhere only on orderly
ends).
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

_LOG = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_STEADY_S = 10.0
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One process, restarted with growing waits whenever it ends by itself.

    Args:
        name: for messages.
        command: what to run.
        log: file that gets its stdout and stderr; None lets both through to ours.
        on_exit: told the exit code each time it ended by itself.
        on_start: called each time it was started again.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path | None = None,
        on_exit: Callable[[int], Awaitable[None]] | None = None,
        on_start: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.restarts = 0
        self.log = log
        self._on_exit = on_exit
        self._on_start = on_start
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 while it is not running."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start it and keep it.

        Raises:
            OSError: the program cannot be run.
        """
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def stop(self, *, grace: float = 5.0, signum: int = signal.SIGTERM) -> None:
        """End it: ``signum`` first, SIGKILL after ``grace`` seconds."""
        if self._keeper is not None:
            # Before anything else, lest it starts what is being ended.
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)
        try:
            await asyncio.wait_for(process.wait(), grace)
        except TimeoutError:
            _LOG.warning("%s did not end within %.0f s and is killed", self.name, grace)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self) -> None:
        output = self.log.open("ab") if self.log is not None else None
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent if os.name == "posix" else None,
            )
        finally:
            if output is not None:
                output.close()

    async def _keep(self) -> None:
        wait = _FIRST_WAIT_S
        loop = asyncio.get_running_loop()
        while self._process is not None:
            started = loop.time()
            code = await self._process.wait()
            _LOG.warning("%s ended by itself (%s)", self.name, _exit_text(code))
            if self._on_exit is not None:
                await self._tell(self._on_exit(code))
            wait = _FIRST_WAIT_S if loop.time() - started > _STEADY_S else min(wait * 2, _LONGEST_WAIT_S)
            while not await self._again(wait):
                wait = _LONGEST_WAIT_S
            if self._on_start is not None:
                await self._tell(self._on_start())

    async def _again(self, wait: float) -> bool:
        await asyncio.sleep(wait)
        try:
            await self._spawn()
        except OSError as error:
            _LOG.error("%s cannot be started again: %s", self.name, error)
            return False
        self.restarts += 1
        return True

    async def _tell(self, told: Awaitable[None]) -> None:
        """Whoever is told may fail; the process is kept all the same."""
        try:
            await told
        except Exception:
            _LOG.exception("after a change of %s", self.name)


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for error messages."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
