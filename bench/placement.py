"""ReasoningAware against the field on traces, in the offline simulator.

Every trace at several loads, fleets, staleness of metrics and numbers of router replicas, three seeds each; one row per policy
with medians over the seeds and their spread, and after each table where ours stands. Runs are kept in a JSON-lines file as they
come, so an interrupted bench goes on where it was. Nothing here depends on how busy the machine is.

    python bench/placement.py                     # the whole matrix: hours
    python bench/placement.py --quick             # 8 pods, loads 0.7 and 0.85, one replica with fresh and three with old metrics
"""

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

from ralb_cli import sim_runs
from ralb_sim.offline.measure import auto_slo
from ralb_sim.offline.trace import read_trace
from ralb_sim.profiles import get_profile

HERE = Path(__file__).resolve().parent
TRACES = HERE.parent.parent / "shared" / "data" / "traces" / "norm"
OURS = "reasoning-aware"
ORACLE = "oracle"
SHOWN = (
    "ttft_mean",
    "ttft_p50",
    "ttft_p90",
    "ttft_p99",
    "tpot_p50",
    "e2e_p50",
    "goodput",
    "prefix_hit",
    "max_mean_work",
)
Row = dict[str, float | str]
Key = tuple[str, int, float, float, int]


def main() -> int:
    """Run what is missing, then print everything."""
    args = _arguments()
    paths = args.trace or sorted(TRACES.glob("*.jsonl.gz")) or [HERE.parent / "examples" / "trace.jsonl"]
    traces = [read_trace(path) for path in paths]
    profile = get_profile(args.profile)
    names = args.policy.split(",") if args.policy else list(sim_runs.policies())
    names = [name for name in names if not name.startswith("ralb:")]
    stage = sim_runs.Stage(
        traces,
        [auto_slo(trace, profile) for trace in traces],
        {n: [profile] * n for n in args.pods},
        args.requests,
        0.25,
    )
    todo = [
        sim_runs.Task(trace, pods, stale, replicas, load, seed, name)
        for trace, pods, (stale, replicas), load, seed, name in product(
            range(len(traces)), args.pods, args.view, args.load, range(1, args.seeds + 1), names
        )
    ]
    kept = _kept(args.json, args.fresh)
    missing = [task for task in todo if _identity(stage, task) not in kept]
    print(f"{len(todo)} runs, {len(missing)} of them to be done", file=sys.stderr)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    with args.json.open("a") as out:
        done = 0

        def told(outcome: sim_runs.Outcome) -> None:
            nonlocal done
            done += 1
            if outcome.figures is None:
                print(f"{outcome.task}: {outcome.error}", file=sys.stderr)
                return
            row = _row(stage, outcome)
            kept[_identity(stage, outcome.task)] = row
            out.write(json.dumps(row) + "\n")
            out.flush()
            if done % 50 == 0:
                print(f"{done} of {len(missing)}", file=sys.stderr)

        sim_runs.run_all(stage, missing, min(args.jobs, max(1, len(missing))), told)
    rows = [kept[identity] for task in todo if (identity := _identity(stage, task)) in kept]
    _report(rows)
    return 0 if len(rows) == len(todo) else 1


def _identity(stage: sim_runs.Stage, task: sim_runs.Task) -> str:
    return json.dumps([stage.traces[task.trace].name, *asdict(task).values(), stage.requests])


def _row(stage: sim_runs.Stage, outcome: sim_runs.Outcome) -> Row:
    assert outcome.figures is not None
    task = asdict(outcome.task) | {"trace": stage.traces[outcome.task.trace].name}
    return {**task, **asdict(outcome.figures), "offered": outcome.rate, "id": _identity(stage, outcome.task)}


def _kept(path: Path, fresh: bool) -> dict[str, Row]:
    if fresh or not path.exists():
        path.unlink(missing_ok=True)
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    return {row["id"]: row for row in rows}


def _report(rows: Sequence[Row]) -> None:
    groups: dict[Key, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = (
            str(row["trace"]),
            int(row["pods"]),
            float(row["staleness_ms"]),
            float(row["load"]),
            int(row["replicas"]),
        )
        groups[key][str(row["policy"])].append(row)
    verdicts = []
    for key, by_policy in sorted(groups.items()):
        trace, pods, stale, load, replicas = key
        print(
            f"\n{trace}, {pods} pods, load {load:g}, metrics {stale:g} ms old, {replicas} replica(s), {_seeds(by_policy)} seeds"
        )
        print(f"{'policy':18s}" + "".join(f"{name:>16s}" for name in SHOWN))
        for name, runs in by_policy.items():
            cells = [_cell([float(run[figure]) for run in runs]) for figure in SHOWN]
            print(f"{name:18s}" + "".join(f"{cell:>16s}" for cell in cells))
        verdicts.append((key, _stand(by_policy, "ttft_p90", -1), _stand(by_policy, "goodput", 1)))
    print("\nOurs beside the best other policy without foresight (1.00 = as good; higher is better)")
    print(f"{'trace':22s}{'pods':>5s}{'load':>6s}{'age':>6s}{'repl':>5s}   {'p90 TTFT':28s}goodput")
    for (trace, pods, stale, load, replicas), ttft, goodput in verdicts:
        print(f"{trace:22s}{pods:5d}{load:6.2f}{stale:6.0f}{replicas:5d}   {ttft:28s}{goodput}")


def _seeds(by_policy: dict[str, list[Row]]) -> int:
    return max(len(runs) for runs in by_policy.values())


def _cell(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    spread = (max(values) - min(values)) / 2
    return f"{middle:.4g}±{spread:.1g}"


def _stand(by_policy: dict[str, list[Row]], figure: str, sign: int) -> str:
    medians = {name: statistics.median(float(run[figure]) for run in runs) for name, runs in by_policy.items()}
    others = {name: value for name, value in medians.items() if name not in (OURS, ORACLE)}
    if OURS not in medians or not others:
        return "-"
    best = max(others, key=lambda name: sign * others[name])
    if not others[best] or not medians[OURS]:
        return f"- ({best})"
    ratio = medians[OURS] / others[best] if sign > 0 else others[best] / medians[OURS]
    return f"{ratio:.3f} ({best})"


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _views(text: str) -> list[tuple[float, int]]:
    return [(float(age), int(replicas)) for age, replicas in (part.split("x") for part in text.split(","))]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, action="append", help="a trace; default: all that are there")
    parser.add_argument("--pods", type=lambda text: [int(n) for n in _numbers(text)], default=[8, 32])
    parser.add_argument("--load", type=_numbers, default=[0.5, 0.7, 0.85, 0.95, 1.1])
    parser.add_argument(
        "--view", type=_views, default=_views("50x1,50x3,500x1,500x3"), help="age in ms x replicas, ..."
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--policy", default="", help="comma-separated; default: all")
    parser.add_argument("--profile", default="llama-3-8b-h100")
    parser.add_argument("--requests", type=int, default=0, help="per run; 0 = enough for the fleet")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "placement.jsonl")
    parser.add_argument("--fresh", action="store_true", help="begin anew instead of going on")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.pods, args.load, args.view = [8], [0.7, 0.85], _views("50x1,500x3")
    return args


if __name__ == "__main__":
    sys.exit(main())
