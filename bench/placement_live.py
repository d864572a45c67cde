"""Strategies through the real gateway and in the offline simulator, on the same requests: is the ordering the same?

Envoy, processor and `ralb-sim` pods run in real time, a piece of a trace is played through them once per strategy, and the
whole is repeated, so that noise of the machine hits all alike. Each turn is a pool of its own over the same pods and has prompts
of its own, so nothing learned or cached is left from the one before. The very same requests at the same times go through the
offline simulator. Live times are divided by the time scale: all are simulated seconds.

    make bench-placement-live [BENCH_ARGS="--trace F --rows 180 --load 0.9 --pods 4 --time-scale 0.5 --repeats 3"]

Offline knows a pod's readings as old as the processor's scrapes are at best. Answers are not found again by a conversation's next
prompt, on neither side. An ordering of strategies that are as good as each other is chance: the last column of the summary
counts only pairs whose ranges over the repeats do not overlap, on either side.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import aiohttp
from live import Meter, Shot, asked, fleet, gateway, serving, shoot, warning
from ordering import rank_correlation, told_apart
from pieces import MIN_ANSWER, NATURAL, body, chat, piece

from ralb_cli.sim_policies import ours
from ralb_extproc.metrics.pace import FAST
from ralb_sim.offline.capacity import capacity
from ralb_sim.offline.measure import Figures, Slo, auto_slo, figures
from ralb_sim.offline.trace import Trace, read_trace
from ralb_sim.offline.workload import Job, jobs_of
from ralb_sim.offline.world import Play, Run, Served, World
from ralb_sim.profiles import Profile, get_profile

_ROOT = Path(__file__).parents[1]
_TRACES = (_ROOT.parent / "shared/data/traces/norm/mooncake_synthetic.jsonl.gz", _ROOT / "examples/trace.jsonl")
_STRATEGIES = "ReasoningAware,RoundRobin,LeastRequest,PowerOfTwo,PrefixAware,KVAware,SessionAffinity"
_CAPACITY_ROWS = 2000
_LONGEST_PROMPT = 3_000_000  # tokens * 4 must stay below the gateway's limit on bodies
_LATE = 0.02
# What is compared: name -> whether less is better.
_COMPARED = {"ttft_mean": True, "ttft_p50": True, "ttft_p90": True, "goodput": False, "prefix_hit": False}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is played.

    Attributes:
        jobs: the requests, on the trace's own clock.
        speedup: that clock is divided by it, giving simulated seconds.
        slo: simulated seconds.
        warmup: so many requests, the first, are not measured.
    """

    jobs: Sequence[Job]
    block_tokens: int
    profile: Profile
    pods: int
    speedup: float
    rate: float
    time_scale: float
    slo: Slo
    warmup: int


@dataclass(slots=True)
class Side:
    """A strategy's figures, live or offline, one per repeat."""

    figures: list[Figures] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    machine: list[float] = field(default_factory=list)
    late: int = 0
    errors: int = 0

    def values(self, name: str) -> list[float]:
        return [getattr(one, name) for one in self.figures]


def plan_of(args: argparse.Namespace) -> Plan:
    """The piece of the trace, and the rate at which the pods have the wanted load on the whole trace."""
    whole: Trace = read_trace(args.trace)
    profile = get_profile(args.profile)
    room = min(profile.kv_tokens, profile.max_model_len, _LONGEST_PROMPT)
    whole = replace(whole, rows=tuple(row for row in whole.rows if row.input + row.output + MIN_ANSWER <= room))
    part = piece(whole, args.rows, args.seed)
    cut = [replace(row, output=max(row.output, MIN_ANSWER)) for row in part.rows]
    jobs = [replace(job, tail=()) for job in jobs_of(replace(part, rows=tuple(cut)), 0, 1)]
    most = capacity(
        jobs_of(whole, max(_CAPACITY_ROWS, args.rows), args.pods), whole.block_tokens, [profile] * args.pods
    )
    own = len(jobs) / max(jobs[-1].t - jobs[0].t, 1e-9)
    return Plan(
        jobs=jobs,
        block_tokens=whole.block_tokens,
        profile=profile,
        pods=args.pods,
        speedup=args.load * most / own,
        rate=args.load * most,
        time_scale=args.time_scale,
        slo=auto_slo(whole, profile),
        warmup=int(len(jobs) * args.warmup),
    )


# ---- offline ----


def offline(plan: Plan, strategy: str, seed: int) -> Figures:
    """One run in simulated time."""
    policies = {name.removeprefix("ralb:"): policy for name, policy in ours().items()}
    policies["ReasoningAware"] = policies["reasoning-aware"]
    play = Play(
        seed=seed,
        staleness_s=FAST / plan.time_scale,
        speedup=plan.speedup,
        warmup=(plan.warmup + 0.5) / len(plan.jobs),
    )
    world = World(plan.jobs, plan.block_tokens, [plan.profile] * plan.pods, policies[strategy], play)
    return figures(world.play(), plan.slo)


# ---- live ----


class Player:
    """Sends the jobs as a client would: at their times, a session's next request not before its last was answered."""

    def __init__(self, plan: Plan, url: str, bodies: Sequence[bytes]) -> None:
        self._plan, self._url, self._bodies = plan, url, bodies
        self.shots: list[Shot] = [Shot() for _ in plan.jobs]
        self.order: list[int] = []  # as sent
        self.late = 0
        self._ended = [asyncio.Event() for _ in plan.jobs]

    async def play(self, limit: float) -> None:
        """Play all, for at most ``limit`` seconds after the last was due."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            began = time.monotonic()
            tasks = [asyncio.create_task(self._one(session, began, number, limit)) for number in range(len(self.shots))]
            await asyncio.gather(*tasks)

    async def _one(self, session: aiohttp.ClientSession, began: float, number: int, limit: float) -> None:
        job = self._plan.jobs[number]
        due = began + job.t / self._plan.speedup * self._plan.time_scale
        try:
            if job.before >= 0:
                await self._ended[job.before].wait()
                due = max(due, time.monotonic())
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.late += time.monotonic() - due > _LATE
            self.order.append(number)
            name = job.session.partition("/")[0]
            self.shots[number] = await shoot(session, self._url, self._bodies[number], session_id=name, limit=limit)
        finally:
            self._ended[number].set()


def live_run(plan: Plan, player: Player) -> Run:
    """What was played, as the offline simulator would tell it; simulated seconds."""
    begun = min(shot.sent for shot in player.shots)

    def at(value: float) -> float:
        return (value - begun) / plan.time_scale if value >= 0.0 else -1.0

    served = []
    for job, shot in zip(plan.jobs, player.shots, strict=True):
        served.append(
            Served(
                arrived=at(shot.sent),
                input=job.input,
                output=job.output,
                first_token=at(shot.first) if shot.good else -1.0,
                finished=at(shot.done) if shot.good else -1.0,
                cached=shot.cached,
                measured=False,
            )
        )
    for number in player.order[plan.warmup :]:
        served[number].measured = True
    last = max(one.arrived for one in served)
    span = last - min(one.arrived for one in served if one.measured)
    return Run(requests=served, work=[], span_s=span, rate=plan.rate)


async def turn(plan: Plan, stack: Any, strategy: str, number: int, side: Side) -> None:
    """One strategy once."""
    name = f"turn-{number}"
    stack.write(*asked(name, strategy=strategy), name="asked.yaml")
    bodies = [body(job, at, plan.block_tokens, f"{number:x}", "auto") for at, job in enumerate(plan.jobs)]
    await serving(stack, name, plan.pods, chat("Hello.", 1, "auto"))
    player = Player(plan, stack.url, bodies)
    meter = Meter(stack)
    await player.play(limit=120.0)
    cpu, machine = meter.shares()
    side.cpu.append(cpu)
    side.machine.append(machine)
    side.late += player.late
    side.errors += sum(not shot.good for shot in player.shots)
    wrong = [shot for shot, job in zip(player.shots, plan.jobs, strict=True) if shot.good and shot.output != job.output]
    if wrong:
        raise RuntimeError(f"{len(wrong)} answers of another length than the trace says: the pods cut them short")
    side.figures.append(figures(live_run(plan, player), plan.slo))


async def bench(args: argparse.Namespace, plan: Plan) -> tuple[dict[str, Side], dict[str, Side]]:
    """All turns, live and offline."""
    lives = {name: Side() for name in args.strategies}
    simulated = {name: Side() for name in args.strategies}
    base = fleet(plan.pods, profile=args.profile, time_scale=plan.time_scale, **NATURAL)
    async with gateway(base, *asked("turn-0")) as stack:
        stack.write(base)  # what is asked for has a file of its own
        number = 0
        for repeat in range(args.repeats):
            # Another begin each time: whoever is first has the coldest machine.
            names = args.strategies[repeat % len(args.strategies) :] + args.strategies[: repeat % len(args.strategies)]
            for strategy in names:
                number += 1
                await turn(plan, stack, strategy, number, lives[strategy])
                simulated[strategy].figures.append(offline(plan, strategy, args.seed + repeat))
                print(progress(repeat, strategy, lives[strategy], simulated[strategy]), flush=True)
    return lives, simulated


# ---- comparison ----


def compare(lives: dict[str, Side], simulated: dict[str, Side]) -> dict[str, dict[str, Any]]:
    """For each figure: the rank correlation of the medians, and how many of the pairs told apart on both sides agree."""
    out = {}
    for figure in _COMPARED:
        here, there = ({name: side.values(figure) for name, side in sides.items()} for sides in (lives, simulated))
        pairs = [
            (told_apart(here[a], here[b]), told_apart(there[a], there[b])) for a, b in combinations(sorted(here), 2)
        ]
        clear = [pair for pair in pairs if all(pair)]
        medians = [[statistics.median(values) for values in side.values()] for side in (here, there)]
        out[figure] = {
            "rank_correlation": _finite(rank_correlation(*medians)),
            "pairs": len(pairs),
            "clear": len(clear),
            "same": sum(a == b for a, b in clear),
        }
    return out


# ---- tables ----


def progress(repeat: int, strategy: str, here: Side, there: Side) -> str:
    one, other = here.figures[-1], there.figures[-1]
    return (
        f"  {repeat + 1} {strategy:>16}: live TTFT {one.ttft_mean:.3f} s, offline {other.ttft_mean:.3f} s; "
        f"CPU {here.cpu[-1]:.0%} of the machine, with others {here.machine[-1]:.0%}"
    )


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median and range."""
    scale = 100.0 if unit == "%" else 1.0
    shown = [statistics.median(values), min(values), max(values)]
    digits = 1 if unit == "%" else 3
    return "{:.{d}f} ({:.{d}f}-{:.{d}f})".format(*(value * scale for value in shown), d=digits)


def table(lives: dict[str, Side], simulated: dict[str, Side]) -> str:
    """Live and offline side by side, the best by live mean TTFT first."""
    rows = [
        f"{'strategy':>16} {'':>7} {'TTFT mean s':>22} {'p50 s':>22} {'p90 s':>22} {'goodput req/s':>22} {'hits %':>18} "
        f"{'CPU':>5} late err"
    ]
    for name in sorted(lives, key=lambda name: statistics.median(lives[name].values("ttft_mean"))):
        for kind, side in (("live", lives[name]), ("offline", simulated[name])):
            cells = " ".join(f"{spread(side.values(figure)):>22}" for figure in list(_COMPARED)[:-1])
            more = f"{max(side.cpu):>5.0%} {side.late:>4} {side.errors:>3}" if side.cpu else ""
            label = name if kind == "live" else ""
            rows.append(f"{label:>16} {kind:>7} {cells} {spread(side.values('prefix_hit'), '%'):>18} {more}")
    return "\n".join(rows)


def summary(compared: dict[str, dict[str, Any]]) -> str:
    """A line per figure."""
    rows = [
        f"{'figure':>12} {'rank correlation':>17} {'told apart on both sides':>25} {'of these in the same order':>27}"
    ]
    for figure, found in compared.items():
        rho = found["rank_correlation"]
        told = f"{found['clear']} of {found['pairs']} pairs"
        rows.append(f"{figure:>12} {'-' if rho is None else f'{rho:.2f}':>17} {told:>25} {found['same']:>27}")
    return "\n".join(rows)


def as_json(value: Any) -> Any:
    """Without NaN."""
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def main() -> int:
    """Run, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--trace", type=Path, default=next(path for path in _TRACES if path.exists()))
    add("--strategies", type=lambda text: text.split(","), default=_STRATEGIES.split(","))
    add("--rows", type=int, default=180, help="requests of the piece")
    add("--pods", type=int, default=4)
    add("--profile", default="llama-3-8b-h100")
    add("--load", type=float, default=0.9, help="1.0 is what the pods can do on the whole trace")
    add("--time-scale", type=float, default=0.5, help="real seconds per simulated second")
    add("--repeats", type=int, default=3)
    add("--warmup", type=float, default=0.25, help="share of the requests, the first, that is not measured")
    add("--seed", type=int, default=1, help="which conversations are drawn; chance in the offline simulator")
    add("--out", type=Path, default=Path("bench/results/placement_live.json"))
    args = parser.parse_args()
    plan = plan_of(args)
    seconds = len(plan.jobs) / plan.rate * plan.time_scale
    turns = len(args.strategies) * args.repeats
    print(
        f"{args.trace.name}: {len(plan.jobs)} requests, {plan.rate:.2f} per simulated second to {plan.pods} x {args.profile}; "
        f"{turns} turns of {seconds:.0f} s and what the last answers take"
    )
    lives, simulated = asyncio.run(bench(args, plan))
    compared = compare(lives, simulated)
    print(f"\nSimulated seconds; objective: TTFT {plan.slo.ttft_s:.2f} s, TPOT {plan.slo.tpot_s * 1000:.0f} ms\n")
    print(table(lives, simulated))
    print(f"\n{summary(compared)}")
    if said := warning(*(max(max(getattr(side, kind)) for side in lives.values()) for kind in ("cpu", "machine"))):
        print(f"\n{said}")
    facts = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "time": time.time()}
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    result = {
        **facts,
        "options": shown,
        "requests_per_second": plan.rate,
        "slo": asdict(plan.slo),
        "compared": compared,
        "live": {name: asdict(side) for name, side in lives.items()},
        "offline": {name: asdict(side) for name, side in simulated.items()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(as_json(result), indent=1))
    print(f"Written to {args.out}.")
    return 1 if any(side.errors for side in lives.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
