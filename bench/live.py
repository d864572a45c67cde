"""What benches of the running gateway share: `ralb up` with simulated pods, streamed requests timed at the client, CPU used.

The client runs on the machine it measures, so it looks at no more of an answer than its first bytes and its last.
"""

import os
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

_ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(_ROOT / "tests" / "support")]

from support_net import wait_until  # noqa: E402  # the tests' stack is the benches' too
from support_stack import PREFIX, Stack, policy, running_stack, tier  # noqa: E402

MODEL = "bench-8b"
_TICK = os.sysconf("SC_CLK_TCK")
_KEPT = 4096  # bytes of an answer's end: the usage is in it
_JSON = {"content-type": "application/json"}
_USAGE = {name: re.compile(rb'"' + name.encode() + rb'":(\d+)') for name in ("completion_tokens", "cached_tokens")}


@dataclass(slots=True)
class Shot:
    """One request; times in monotonic seconds, -1 = never.

    Attributes:
        sent / first / done: when it was sent, had its first bytes, was over.
        status: 0 = no answer.
        broken: the answer had begun and was not complete.
        output / cached: tokens, as the pod counted.
        decision: id of its record.
        attempts: pods tried.
    """

    sent: float = -1.0
    first: float = -1.0
    done: float = -1.0
    status: int = 0
    broken: bool = False
    output: int = 0
    cached: int = 0
    decision: str = ""
    attempts: int = 0

    @property
    def good(self) -> bool:
        """Whether it was answered completely."""
        return self.status == 200 and not self.broken and self.done >= 0.0


async def shoot(session: aiohttp.ClientSession, url: str, body: bytes, *, session_id: str = "", limit: float) -> Shot:
    """Send a streamed chat request and wait for its end, for at most ``limit`` seconds."""
    shot = Shot(sent=time.monotonic())
    headers = _JSON | ({"x-ralb-session": session_id} if session_id else {})
    end = b""
    try:
        async with session.post(
            f"{url}/v1/chat/completions", data=body, headers=headers, timeout=aiohttp.ClientTimeout(limit)
        ) as answer:
            shot.status = answer.status
            shot.decision = answer.headers.get("x-ralb-decision-id", "")
            shot.attempts = int(answer.headers.get("x-ralb-attempts", "1"))
            async for data in answer.content.iter_any():
                if shot.first < 0.0:
                    shot.first = time.monotonic()
                end = (end + data)[-_KEPT:]
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        shot.broken = shot.status != 0
    shot.done = time.monotonic()
    shot.broken |= shot.status == 200 and b"data: [DONE]" not in end
    if not shot.broken:
        shot.output, shot.cached = (
            _last(pattern, end) for pattern in (_USAGE["completion_tokens"], _USAGE["cached_tokens"])
        )
    return shot


def _last(pattern: re.Pattern[bytes], data: bytes) -> int:
    found = pattern.findall(data)
    return int(found[-1]) if found else 0


# ---- the gateway ----


def fleet(pods: int, **options: Any) -> dict[str, Any]:
    """A pool that is never asked for: it only keeps the simulated pods running; options as of ``ralb-sim``."""
    annotations = {PREFIX + "replicas": str(pods)}
    annotations |= {PREFIX + key.replace("_", "-"): str(value) for key, value in options.items()}
    return _pool("fleet", "Generic", {}, annotations)


def asked(name: str, **balancing: Any) -> list[dict[str, Any]]:
    """A pool of the fleet's pods that is asked for, with its tier and policy. A new name means that nothing is known yet."""
    return [_pool(name, "vLLM", balancing, {}), tier("main", 1, {"name": name}), policy("auto", "main")]


def _pool(name: str, engine: str, balancing: Mapping[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
    backend = {"pods": {"selector": {"matchLabels": {"app": "bench"}}, "engine": engine}}
    return {
        "apiVersion": "ralb.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": name, "annotations": dict(annotations)},
        "spec": {"model": {"name": MODEL}, "backend": backend, "balancing": dict(balancing)},
    }


@asynccontextmanager
async def gateway(*objects: Mapping[str, Any]) -> AsyncIterator[Stack]:
    """`ralb up` with these objects: Envoy with one worker, the processor, simulated pods."""
    async with running_stack(*objects, arguments=["--concurrency", "1"]) as stack:
        yield stack


async def pod_table(stack: Stack, pool: str) -> list[dict[str, Any]]:
    """What the processor knows of a pool's pods."""
    url = f"http://127.0.0.1:{stack.ready['admin_port']}/debug/pods?pool=default/{pool}"
    async with stack.session.get(url, timeout=aiohttp.ClientTimeout(5)) as answer:
        rows: list[dict[str, Any]] = (await answer.json())["pods"]
        return rows


async def serving(stack: Stack, pool: str, pods: int, probe: bytes) -> None:
    """Wait until the processor has read all pods of a pool and requests are answered by it.

    Raises:
        AssertionError: not within 30 seconds.
    """

    async def read() -> bool:
        rows = await pod_table(stack, pool)
        return len(rows) == pods and all(row["age_seconds"] is not None and row["age_seconds"] < 3.0 for row in rows)

    async def answered() -> bool:
        async with stack.session.post(
            f"{stack.url}/v1/chat/completions", data=probe, headers=_JSON, timeout=aiohttp.ClientTimeout(10)
        ) as answer:
            await answer.read()
            return answer.status == 200 and answer.headers.get("x-ralb-pool") == f"default/{pool}"

    await wait_until(read, 30, interval=0.1, what=f"readings of {pods} pods of {pool}: {stack.log()[-2000:]}")
    await wait_until(answered, 30, interval=0.1, what=f"an answer from {pool}: {stack.log()[-2000:]}")


# ---- the machine ----


class Meter:
    """CPU used by this process and the gateway's, from its making on.

    Args:
        stack: the gateway.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._began = time.monotonic()
        self._before = self._used()
        self._machine = _machine()

    def shares(self) -> tuple[float, float]:
        """Shares of the whole machine, 0 to 1: ours, without processes that ended meanwhile, and everybody's."""
        used = sum(seconds - self._before.get(pid, 0.0) for pid, seconds in self._used().items())
        busy, total = (now - before for now, before in zip(_machine(), self._machine, strict=True))
        return used / max(time.monotonic() - self._began, 1e-9) / (os.cpu_count() or 1), busy / max(total, 1e-9)

    def _used(self) -> dict[int, float]:
        found = {}
        for pid in (os.getpid(), self._stack.process.pid, *self._stack.family()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[pid] = (int(fields[11]) + int(fields[12])) / _TICK
        return found


def _machine() -> tuple[float, float]:
    """Busy and all ticks of the machine so far."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def warning(ours: float, everybody: float) -> str:
    """What to say of figures taken on a machine that was so busy; "" = nothing."""
    if ours > 0.6:
        return (
            f"Up to {ours:.0%} of the machine was used: pods may have been slower than they should; raise --time-scale."
        )
    if everybody > 0.85:
        return f"The machine was {everybody:.0%} busy, mostly with something else: these figures say little."
    return ""
