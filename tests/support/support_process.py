"""A program that tests run beside them, ended by the pid that was started here, however the test run ends.

On Linux the kernel kills the child when its parent *thread* ends, so one thread that lives as long as the process starts them
all: started from a thread of an event loop's executor, a child would die with that loop.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

# Runs in the child: ask for the signal, see that the parent did not end before that, become the program.
_GUARD = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]): sys.exit("parent is gone")
os.execvpe(sys.argv[2], sys.argv[2:], os.environ)
"""


class Daemon:
    """One program with its log file; may be started and stopped many times.

    Args:
        name: for messages.
        command: program and arguments.
        log: file its output is appended to.
        environment: its whole environment; None: ours.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log = log
        self.environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def exit_code(self) -> int | None:
        """Of the last run; None while it runs or before."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it; does nothing while it runs."""
        if not self.pid:
            self._process = _SPAWNER.call(self._spawn)

    def stop(self, *, signum: int = signal.SIGTERM, grace: float = 10.0) -> int | None:
        """Send ``signum``, SIGKILL after ``grace`` seconds; returns the exit code once it ended."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signum)
        try:
            return process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def tail(self, lines: int = 25) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _spawn(self) -> "subprocess.Popen[bytes]":
        command = self.command
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )


class _Spawner:
    """Runs calls in one thread that never ends before the process does."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def call(self, function: Callable[[], Any]) -> Any:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="spawner", daemon=True)
                self._thread.start()
        done = threading.Event()
        outcome: list[Any] = []

        def job() -> None:
            try:
                outcome.extend((function(), None))
            except BaseException as error:
                outcome.extend((None, error))
            done.set()

        self._calls.put(job)
        done.wait()
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _run(self) -> None:
        while True:
            self._calls.get()()


_SPAWNER = _Spawner()


def alive(pid: int) -> bool:
    """Whether a process of this id runs (a zombie does not)."""
    try:
        if Path("/proc/self").exists():
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        os.kill(pid, 0)
    except OSError:
        return False
    return True
