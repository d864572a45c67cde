"""``ralb sim``: placement policies compared on a trace, in simulated time."""

import argparse
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from ralb_cli.sim_values import (
    MAX_PODS,
    event,
    fleets,
    known_policies,
    names,
    number,
    objective,
    profiles,
    several,
    whole,
)

OK, FAILED, USAGE = 0, 1, 2
DEFAULT_POLICIES = "reasoning-aware,llm-d-2026,sglang,dynamo,product,least-request,round-robin,oracle"
_MAX_RUNS = 100_000

_DESCRIPTION = """\
Play a trace against simulated vLLM pods, once per placement policy, and compare what users would have seen.

  ralb sim --trace chat.jsonl.gz --pods 8 --policy reasoning-aware,least-request,oracle --load 0.8

Prints one table per set of conditions, writes a plot (PNG), and with --json one object per run. Options marked [,...] take
several values with commas between them: every combination is run.
"""

_EPILOG = """\
A trace has one JSON object per line, gzip or not:
  {"t": 0.5, "session": "a", "in": 1200, "out": 85, "blocks": [0, 1, 2], "reasoning": 40}
  t: arrival in seconds; session: conversation or null; in, out: prompt and answer tokens; blocks: ids of the full prompt
  blocks, each standing for its block and all before it, or null; reasoning: how many of `out` are reasoning, or null.

Policies: reasoning-aware (RALB's default, also `ralb`), ralb:NAME (its other strategies), and those of the field:
  round-robin, random, least-request, p2c, session-hash, longest-prefix, llm-d, llm-d-2026, sglang, sglang-least-load, dynamo,
  dynamo-lmetric, aibrix, product, lmetric; and oracle, which sees the pods' true state and the answers' lengths.

Columns: TTFT from arrival to first token (mean, p50, p90, p99); TPOT: median time per output token after the first; e2e from
  arrival to last token; output: tokens made per second; goodput: requests per second within the objective; hits: share of prompt
  tokens found in prefix caches; work: what the tokens of the busiest pod cost it over the mean of all pods. * marks the best, the
  oracle apart. With several seeds: the median, and below it least..greatest, or = where all seeds agree.

Exit code 0: done; 1: a run failed or a file could not be written; 2: wrong usage.
"""


def register(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Adds the parser."""
    parser = subparsers.add_parser(
        "sim",
        help="compare placement policies on a trace, in simulated time",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--trace",
        action="append",
        required=True,
        metavar="FILE",
        help="trace to play; `-` = standard input; may be repeated",
    )
    add("--policy", type=names, default=names(DEFAULT_POLICIES), metavar="P[,...]",
        help=f"policies, or `all` (default: {DEFAULT_POLICIES})")  # fmt: skip
    add("--load", type=several(number(0.0, 10.0, above=True)), default=[0.8], metavar="L[,...]",
        help="offered load; 1.0 is the rate at which these pods saturate on this trace (default: 0.8)")  # fmt: skip
    add("--pods", type=several(whole(1, MAX_PODS)), metavar="N[,...]", help="how many pods (default: 8)")
    add("--profile", type=profiles, default=[("llama-3-8b-h100", 0)], metavar="NAME | NAME:N,...",
        help="model and cards of the pods; mixed: llama-3-8b-h100:4,llama-3-8b-l4:4 (default: llama-3-8b-h100)")  # fmt: skip
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument(
        "--seed", type=several(whole(0, 2**31)), default=[1], metavar="S[,...]", help="seeds of chance (default: 1)"
    )
    seeds.add_argument(
        "--seeds", type=whole(1, 1000), metavar="N", help="seeds 1 to N; tables then show median, least, greatest"
    )
    add("--staleness-ms", type=several(number(1.0, 60_000.0)), default=[50], metavar="MS[,...]",
        help="milliseconds between two looks at a pod's metrics: the age they reach (default: 50)")  # fmt: skip
    add("--replicas", type=several(whole(1, 64)), default=[1], metavar="R[,...]",
        help="router replicas that do not see each other's requests (default: 1)")  # fmt: skip
    add(
        "--requests",
        type=whole(0, 10**7),
        default=0,
        metavar="N",
        help="play only the first N requests (default: 0, all)",
    )
    add("--warmup", type=number(0.0, 0.9), default=0.25, metavar="SHARE",
        help="share of the requests, the first ones, that is played but not measured (default: 0.25)")  # fmt: skip
    add("--event", action="append", type=event, default=[], metavar="S:pod=N,KIND",
        help="what happens to a pod after S seconds of simulated time, as in 30:pod=2,speed=0.33; KIND is start, stop, speed=X, "
        "freeze, freeze=0 or errors=SHARE; pods count from 0; one whose first event is a start is not there before; "
        "may be repeated")  # fmt: skip
    add("--slo-ttft", type=number(0.0, 1e6, above=True), metavar="S",
        help="objective: time to first token (default: 5 x what an idle pod needs, 90th percentile of the trace)")  # fmt: skip
    add("--slo-tpot", type=number(0.0, 1e6, above=True), metavar="S",
        help="objective: time per output token (default: 8 x what an idle pod needs)")  # fmt: skip
    add("--block-tokens", type=whole(1, 10**6), metavar="B",
        help="tokens per prefix block of the trace (default: worked out from the rows)")  # fmt: skip
    add(
        "--plot",
        metavar="FILE.png",
        help="where to draw; `none` = nowhere (default: ralb-sim-TRACE.png); needs ralb[sim]",
    )
    add("--json", metavar="FILE", help="write one object per run; seconds and tokens")
    add("--jobs", type=whole(1, 256), metavar="N", help="processes (default: one per CPU)")


def run(args: argparse.Namespace) -> int:
    """Exit code: see the help."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no process is left behind
    return sim(args, stream=sys.stdout, errors=sys.stderr)


def sim(args: argparse.Namespace, *, stream: TextIO, errors: TextIO) -> int:
    """Reads, runs, reports: tables to ``stream``, progress and mistakes to ``errors``."""
    # Here, not above, so that `ralb --help` need not wait for numpy.
    from ralb_cli import sim_report, sim_runs, sim_table
    from ralb_sim.offline.fleet import check
    from ralb_sim.offline.trace import read_trace

    try:
        chosen = known_policies(args.policy, list(sim_runs.policies()))
        fleet_of = fleets(args.profile, args.pods)
        for path in (args.json, args.plot):
            if path and path != "none" and not Path(path).parent.is_dir():
                raise ValueError(f"{path}: there is no folder {Path(path).parent}")
        check(args.event, min(fleet_of))
        traces = [read_trace(path, block_tokens=args.block_tokens) for path in args.trace]
        slos = [objective(trace, fleet_of, args.slo_ttft, args.slo_tpot) for trace in traces]
        seeds = range(1, args.seeds + 1) if args.seeds else args.seed
        choices = (fleet_of, args.staleness_ms, args.replicas, args.load, seeds, chosen)
        if (runs := len(args.trace) * math.prod(map(len, choices))) > _MAX_RUNS:
            raise ValueError(f"{runs:,} runs asked for; at most {_MAX_RUNS:,}")
        todo = sim_runs.tasks(len(traces), *choices)
    except (ValueError, OSError) as error:
        print(f"ralb sim: {error}", file=errors)
        return USAGE
    stage = sim_runs.Stage(traces, slos, fleet_of, args.requests, args.warmup, args.event)
    processes = min(args.jobs or os.cpu_count() or 1, len(todo))
    began = time.monotonic()
    progress = sim_report.Progress(stage, len(todo), errors)
    try:
        outcomes = sim_runs.run_all(stage, todo, processes, progress)
    except RuntimeError as error:
        print(f"ralb sim: {error}", file=errors)
        return FAILED
    finally:
        progress.clear()
    for by_policy in sim_table.groups(outcomes):
        if text := sim_table.table(stage, by_policy):
            stream.write(text + "\n")
    done = [outcome for outcome in outcomes if outcome.figures is not None]
    if done:
        stream.write(sim_report.speed(done, time.monotonic() - began, processes))
        stream.flush()
    code = sim_report.mistakes(stage, outcomes, errors)
    if not done:
        return code
    return max(
        code,
        sim_report.written(args.json, stage, outcomes, errors),
        sim_report.drawn(args.plot, stage, outcomes, errors),
    )
