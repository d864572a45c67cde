"""Four ways of a pod to be ill, and what share of the traffic it gets meanwhile and afterwards.

Real Envoy and processor place a steady load on `ralb-sim` pods with ReasoningAware. One pod of them then, for a while,
- ``slow``: answers 200, three times slower;
- ``errors``: fails 3 % of its requests;
- ``restart``: dies at once and comes back with an empty cache;
- ``stuck``: works well, but its metrics page does not change any more.

A scenario has a gateway and pods of its own. A pod's share is that of requests placed on it first, whether or not they were then
retried elsewhere. A stream that flows when its pod dies is broken: nobody can repeat what the client already has. Prompts are of
different lengths; some begin with one of a few documents, so that caches matter.

    make bench-faults [BENCH_ARGS="--scenarios slow,errors --pods 6 --rate 36 --before 20 --ill 40 --after 40"]
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from faults_plot import Health, draw
from live import Meter, Shot, asked, fleet, gateway, pod_table, serving, shoot, wait_until, warning
from pieces import NATURAL, chat, text
from shares import Judgement, judge, share

_POOL = "bench"
_LIMIT = 60.0
_DOCUMENTS = 24
_DOCUMENT_TOKENS = 512
_OUTPUT_SIGMA, _PROMPT_SIGMA = 0.5, 0.8

FAULTS: dict[str, dict[str, Any]] = {
    "slow": {"kind": "slow", "factor": 3.0},
    "errors": {"kind": "status", "status": 500, "probability": 0.03},
    "restart": {"kind": "crash"},
    "stuck": {"kind": "metrics", "mode": "stuck"},
}


@dataclass(slots=True)
class Outcome:
    """What a scenario gave; times in seconds from the begin of the load.

    Attributes:
        onset / cure: when the pod fell ill and was well again.
        times / pods: when each request was placed, and on which pod first; -1 = not known.
        health: what the processor said of the ill pod.
        shots: what the client saw.
        cpu: share of the machine that we used, and everybody.
    """

    scenario: str
    onset: float
    cure: float
    end: float
    times: list[float] = field(default_factory=list)
    pods: list[int] = field(default_factory=list)
    health: list[Health] = field(default_factory=list)
    shots: list[tuple[float, Shot]] = field(default_factory=list)
    retried: int = 0
    cpu: tuple[float, float] = (0.0, 0.0)


class Load:
    """Requests at random times, so many per second on average."""

    def __init__(self, args: argparse.Namespace, url: str, seed: int) -> None:
        self._args, self._url = args, url
        self._rng = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.began = 0.0
        self.shots: list[tuple[float, Shot]] = []

    async def run(self, session: aiohttp.ClientSession, seconds: float) -> None:
        """Send for so long, then wait for the answers."""
        self.began = time.monotonic()
        due, number = 0.0, 0
        while (due := due + self._rng.expovariate(self._args.rate)) < seconds:
            await asyncio.sleep(max(0.0, self.began + due - time.monotonic()))
            task = asyncio.create_task(self._one(session, self._body(number)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            number += 1
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LIMIT)

    async def _one(self, session: aiohttp.ClientSession, body: bytes) -> None:
        shot = await shoot(session, self._url, body, limit=_LIMIT)
        self.shots.append((shot.sent - self.began, shot))

    def _body(self, number: int) -> bytes:
        rng, args = self._rng, self._args
        tokens = min(round(args.prompt * math.exp(rng.gauss(0.0, _PROMPT_SIGMA))), 16 * args.prompt)
        output = max(4, min(round(args.output * math.exp(rng.gauss(0.0, _OUTPUT_SIGMA))), 8 * args.output))
        shared = (
            text("document", str(rng.randrange(_DOCUMENTS)), _DOCUMENT_TOKENS) if rng.random() < args.shared else ""
        )
        return chat(shared + text("own", str(number), max(tokens, 16)), output, "auto")


async def watch(stack: Any, load: Load, address: str, out: list[Health], every: float = 0.5) -> None:
    """Note what the processor says of a pod, until cancelled."""
    while True:
        try:
            rows = [row for row in await pod_table(stack, _POOL) if row["endpoint"] == address]
        except (aiohttp.ClientError, TimeoutError):
            rows = []
        row = rows[0] if rows else {"health": "Gone", "why": ""}
        seconds = time.monotonic() - load.began
        out.append(Health(seconds, str(row.get("health", "")), str(row.get("why", "")), row.get("share")))
        await asyncio.sleep(every)


async def scenario(args: argparse.Namespace, name: str) -> Outcome:
    """One scenario on a gateway of its own."""
    pods = fleet(args.pods, profile=args.profile, time_scale=args.time_scale, **NATURAL)
    async with gateway(pods, *asked(_POOL, strategy="ReasoningAware")) as stack:
        await serving(stack, _POOL, args.pods, chat("Hello.", 1, "auto"))
        addresses = sorted(pod["address"] for pod in stack.pods("fleet"))
        ill = addresses[0]
        load = Load(args, stack.url, args.seed)
        out = Outcome(name, args.before, args.before + args.ill, args.before + args.ill + args.after)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            offset = time.time() - time.monotonic()
            meter = Meter(stack)
            sending = asyncio.create_task(load.run(session, out.end))
            await asyncio.sleep(0)
            watching = asyncio.create_task(watch(stack, load, ill, out.health))
            try:
                await _fall_ill(stack, load, name, ill, out)
                await sending
            finally:
                for task in (sending, watching):
                    task.cancel()
                await asyncio.gather(sending, watching, return_exceptions=True)
        out.cpu = meter.shares()
        out.shots = load.shots
        known = {shot.decision for _, shot in load.shots if shot.decision}
        placed = [row for row in stack.records() if row["id"] in known and "placement" in row]
        placed.sort(key=lambda row: row["time"])
        number = {address: index for index, address in enumerate(addresses)}
        out.times = [row["time"] - offset - load.began for row in placed]
        out.pods = [number.get(row["placement"]["endpoint"], -1) for row in placed]
        out.retried = sum(row.get("outcome", {}).get("attempts", 1) > 1 for row in placed)
    return out


async def _fall_ill(stack: Any, load: Load, name: str, ill: str, out: Outcome) -> None:
    """Make the pod ill at the right time and well again; sets the times at which that was so."""

    async def until(seconds: float) -> None:
        await asyncio.sleep(max(0.0, load.began + seconds - time.monotonic()))

    def pid() -> int:
        return next((int(pod["pid"]) for pod in stack.pods("fleet") if pod["address"] == ill and pod["ready"]), 0)

    await until(out.onset)
    if name == "restart":
        before = pid()
        with contextlib.suppress(aiohttp.ClientError):  # it dies before it answers
            await stack.fault(ill, FAULTS[name])
        out.onset = time.monotonic() - load.began
        await wait_until(lambda: pid() not in (0, before), 30, interval=0.05, what="the pod's return")
        out.cure = time.monotonic() - load.began
        return
    await stack.fault(ill, FAULTS[name])
    await until(out.cure)
    await stack.fault(ill)


# ---- what it says ----


def verdict(out: Outcome, pods: int) -> tuple[Judgement, dict[str, Any]]:
    """The ill pod's share judged, and what clients saw of it."""
    times, where = np.array(out.times), np.array(out.pods)
    judged = judge(times, where == 0, pods, onset=out.onset, cure=out.cure, end=out.end)
    phases = {"before": (0.25 * out.onset, out.onset), "ill": (out.onset, out.cure), "after": (out.cure, out.end)}
    if out.scenario == "restart":
        phases["ill"], phases["after"] = (out.onset, out.onset + 10.0), (out.onset + 10.0, out.end)
    seen = {
        "requests": len(out.shots),
        "errors": sum(not shot.good and not shot.broken for _, shot in out.shots),
        "broken": sum(shot.broken for _, shot in out.shots),
        "statuses": dict(Counter(str(shot.status) for _, shot in out.shots if not shot.good)),
        "retried": out.retried,
        "share_before": share(times, where == 0, *phases["before"], pods),
        "cpu": out.cpu,
        "ttft": {phase: _ttft(out.shots, *span) for phase, span in phases.items()},
        "states": states(out.health),
    }
    return judged, seen


def _ttft(shots: Sequence[tuple[float, Shot]], begin: float, end: float) -> dict[str, float]:
    found = [shot.first - shot.sent for sent, shot in shots if begin <= sent < end and shot.good]
    if not found:
        return {}
    return {"mean": statistics.fmean(found), "p50": float(np.median(found)), "p90": float(np.percentile(found, 90))}


def states(health: Sequence[Health]) -> list[tuple[float, str]]:
    """The states a pod went through, with times."""
    found: list[tuple[float, str]] = []
    for row in health:
        if not found or found[-1][1] != row.label:
            found.append((round(row.at, 1), row.label))
    return found


def cells(out: Outcome, judged: Judgement, seen: dict[str, Any]) -> dict[str, str]:
    """A row of the table, by column."""

    def seconds(value: float | None) -> str:
        return "never" if value is None else f"{value:.1f} s"

    return {
        "pod": out.scenario,
        "before": f"{seen['share_before']:.2f}",
        "below half after": seconds(judged.fell_after),
        "while ill": f"{judged.share_ill:.2f}",
        "least": f"{judged.floor:.2f}",
        "most": f"{judged.peak:.2f}",
        "at 0.8 after": seconds(judged.recovered_after),
        "at the end": f"{judged.share_after:.2f}",
        "oscillations": str(judged.oscillations),
        "client errors": str(seen["errors"]),
        "broken": str(seen["broken"]),
        "retried": f"{seen['retried']} of {seen['requests']}",
        "TTFT p90 before/ill/after ms": " / ".join(
            f"{1000 * seen['ttft'][phase].get('p90', math.nan):.0f}" for phase in ("before", "ill", "after")
        ),
        "CPU ours/all": f"{out.cpu[0]:.0%}/{out.cpu[1]:.0%}",
    }


def row(found: dict[str, str]) -> str:
    """The values below their columns."""
    return "  ".join(f"{value:>{max(len(name), 7)}}" for name, value in found.items())


def head(found: dict[str, str]) -> str:
    """The columns."""
    return row({name: name for name in found})


def main() -> int:
    """Run, print, draw, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--scenarios", type=lambda names: names.split(","), default=list(FAULTS))
    add("--pods", type=int, default=6)
    add("--profile", default="llama-3-8b-a100")
    add("--time-scale", type=float, default=1.0)
    add("--rate", type=float, default=36.0, help="requests per second, all pods together")
    add("--prompt", type=int, default=400, help="median tokens")
    add("--output", type=int, default=40, help="median tokens")
    add("--shared", type=float, default=0.3, help="share of the prompts that begin with one of a few documents")
    add("--before", type=float, default=20.0, help="seconds")
    add("--ill", type=float, default=40.0, help="seconds")
    add("--after", type=float, default=60.0, help="seconds")
    add("--seed", type=int, default=1)
    add("--out", type=Path, default=Path("bench/results/faults.json"), help="plots are written beside it")
    args = parser.parse_args()
    unknown = set(args.scenarios) - set(FAULTS)
    if unknown:
        parser.error(f"unknown scenarios: {', '.join(sorted(unknown))}; known: {', '.join(FAULTS)}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(
        f"{args.pods} x {args.profile}, {args.rate:g} requests/s; shares in fair shares (1 = 1/{args.pods} of the traffic)"
    )
    facts = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "time": time.time()}
    options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    results: dict[str, Any] = {}
    errors = 0
    for name in args.scenarios:
        out = asyncio.run(scenario(args, name))
        judged, seen = verdict(out, args.pods)
        errors += seen["errors"] + (seen["broken"] if name != "restart" else 0)
        shown = cells(out, judged, seen)
        if not results:
            print(head(shown))
        print(row(shown), flush=True)
        if said := warning(*out.cpu):
            print(f"{'':>8} {said}")
        picture = args.out.with_name(f"{args.out.stem}_{name}.png")
        draw(
            picture, name, np.array(out.times), np.array(out.pods), args.pods, out.health, out.onset, out.cure, out.end
        )
        per_second = [[0] * args.pods for _ in range(math.ceil(out.end))]
        for at, pod in zip(out.times, out.pods, strict=True):
            if pod >= 0 and 0.0 <= at < out.end:
                per_second[int(at)][pod] += 1
        results[name] = {
            "onset": out.onset,
            "cure": out.cure,
            **asdict(judged),
            **seen,
            "placed_per_second": per_second,
            "health": [asdict(row) for row in out.health],
            "plot": picture.name,
        }
        args.out.write_text(json.dumps({**facts, "options": options, "scenarios": results}, indent=1))
    print(f"Written to {args.out}, plots beside it.")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
