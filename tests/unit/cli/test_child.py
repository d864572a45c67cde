import asyncio
import os
import signal
import sys
from pathlib import Path

from support_net import wait_until

from ralb_cli.stack.processes import Child

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_killed_child_is_started_again_and_news_is_told(tmp_path: Path) -> None:
    codes: list[int] = []
    back = asyncio.Event()

    async def gone(code: int) -> None:
        codes.append(code)
        raise RuntimeError("whoever is told may fail")

    async def again() -> None:
        back.set()

    child = Child("one", SLEEP, log=tmp_path / "log", on_exit=gone, on_start=again)
    await child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(back.wait(), 10)
    assert codes == [-signal.SIGKILL]
    assert child.restarts == 1
    assert child.pid not in (0, first)
    second = child.pid
    await child.stop()
    assert child.pid == 0
    assert not _alive(second)


async def test_stopped_while_waiting_to_start_again() -> None:
    told = asyncio.Event()

    async def gone(_: int) -> None:
        told.set()

    child = Child("one", [sys.executable, "-c", ""], on_exit=gone)
    await child.start()
    await asyncio.wait_for(told.wait(), 10)
    await child.stop()
    assert child.pid == 0


async def test_child_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child("one", STUBBORN, log=log)
    await child.start()
    pid = child.pid
    await wait_until(lambda: "up" in log.read_text(), what="the child's first words")
    await child.stop(grace=0.2)
    assert not _alive(pid)
