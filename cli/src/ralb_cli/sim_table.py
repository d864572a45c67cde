"""What ``ralb sim`` prints and writes: a table per set of conditions, the objects of ``--json``, the panels of the plot.

Several seeds give the median, and below it the least and the greatest value, or "=" where all are alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from math import floor, isfinite, isnan, log10
from statistics import median
from typing import Any

from ralb_cli.sim_runs import ALIASES, Outcome, Stage, Task
from ralb_sim.offline.plot import Panel, Point

UNKNOWN = "-"
SAME = "="


def three_digits(value: float) -> str:
    """With three significant digits and no exponent, at most five decimals."""
    if value == 0:
        return "0"
    decimals = 2 - floor(log10(abs(float(f"{value:.3g}"))))  # 9.999 is 10.0, not 10.00
    return f"{value:.{min(5, max(0, decimals))}f}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table."""

    title: str
    unit: str
    field: str
    least_is_best: bool = True
    shown: Callable[[float], str] = three_digits


def _milliseconds(value: float) -> str:
    return three_digits(value * 1000)


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _percent(value: float) -> str:
    return f"{value * 100:.1f}"


def _two_decimals(value: float) -> str:
    return f"{value:.2f}"


COLUMNS = (
    Column("TTFT mean", "s", "ttft_mean"),
    Column("p50", "s", "ttft_p50"),
    Column("p90", "s", "ttft_p90"),
    Column("p99", "s", "ttft_p99"),
    Column("TPOT", "ms", "tpot_p50", shown=_milliseconds),
    Column("e2e p50", "s", "e2e_p50"),
    Column("p99", "s", "e2e_p99"),
    Column("output", "tokens/s", "output_tok_s", False, _whole),
    Column("goodput", "req/s", "goodput", False),
    Column("hits", "%", "prefix_hit", False, _percent),
    Column("work", "max/mean", "max_mean_work", shown=_two_decimals),
)
_FAILED = Column("failed", "requests", "failed", shown=_whole)


def groups(outcomes: Sequence[Outcome]) -> Iterator[dict[str, list[Outcome]]]:
    """Runs that differ in policy and seed alone, by policy; in the order of the tasks."""
    for _, found in groupby(outcomes, key=lambda outcome: _conditions(outcome.task)):
        by_policy: dict[str, list[Outcome]] = {}
        for outcome in found:
            by_policy.setdefault(outcome.task.policy, []).append(outcome)
        yield by_policy


def _conditions(task: Task) -> tuple[float, ...]:
    return (task.trace, task.pods, task.staleness_ms, task.replicas, task.load)


def table(stage: Stage, by_policy: dict[str, list[Outcome]]) -> str:
    """One row per policy that has a result; empty when none has."""
    results = {name: [one.figures for one in runs if one.figures is not None] for name, runs in by_policy.items()}
    results = {name: found for name, found in results.items() if found}
    if not results:
        return ""
    some_failed = any(figures.failed for found in results.values() for figures in found)
    columns = (*COLUMNS, _FAILED) if some_failed else COLUMNS
    spread = any(len(found) > 1 for found in results.values())
    lines: list[list[str]] = [["policy", *(c.title + " " for c in columns)], ["", *(c.unit + " " for c in columns)]]
    lines += [[name] for name in results for _ in range(1 + spread)]
    for column in columns:
        values = {
            name: [value for figures in found if not isnan(value := getattr(figures, column.field))]
            for name, found in results.items()
        }
        best = _best(column, values)
        for index, found in enumerate(values.values()):
            at = 2 + index * (1 + spread)
            shown = column.shown(median(found)) if found else UNKNOWN
            lines[at].append(shown + ("*" if shown == best and list(values)[index] != "oracle" else " "))
            if spread:
                least, greatest = (column.shown(choose(found)) if found else UNKNOWN for choose in (min, max))
                lines[at + 1].append((least + ".." + greatest if least != greatest else SAME) + " ")
    if spread:
        for at in range(3, len(lines), 2):
            lines[at][0] = "  min..max"
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    rows = (
        "  ".join(
            [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        )
        for cells in lines
    )
    return "\n".join([title(stage, by_policy), *(row.rstrip() for row in rows)]) + "\n"


def _best(column: Column, values: dict[str, list[float]]) -> str:
    """The best median, the oracle's apart, as shown; nothing where all look alike."""
    medians = [median(found) for name, found in values.items() if found and name != "oracle"]
    if len({column.shown(value) for value in medians}) < 2:
        return ""
    return column.shown(min(medians) if column.least_is_best else max(medians))


def title(stage: Stage, by_policy: dict[str, list[Outcome]]) -> str:
    """The conditions of a group, on two lines."""
    runs = [outcome for found in by_policy.values() for outcome in found]
    task, slo = runs[0].task, stage.slos[runs[0].task.trace]
    good = [outcome for outcome in runs if outcome.figures is not None]
    rate, played = median(outcome.rate for outcome in good), good[0].requests
    lost = f" ({good[0].left_out:,} rows are too long for the pods)" if good[0].left_out else ""
    seeds = len({outcome.task.seed for outcome in runs})
    events = f", {len(stage.events)} event{'s' * (len(stage.events) > 1)}" if stage.events else ""
    return (
        f"{_played(stage, task)}, load {task.load:g}: {played:,} requests at {three_digits(rate)}/s{lost}\n"
        f"{_routed(task)}{f', {seeds} seeds' if seeds > 1 else ''}{events}; "
        f"objective: TTFT {three_digits(slo.ttft_s)} s, TPOT {_milliseconds(slo.tpot_s)} ms"
    )


def _played(stage: Stage, task: Task) -> str:
    kinds = groupby(profile.name for profile in stage.fleets[task.pods])
    return f"{stage.traces[task.trace].name}: {', '.join(f'{len(list(same))} x {name}' for name, same in kinds)}"


def _routed(task: Task) -> str:
    return f"metrics every {task.staleness_ms:g} ms, {task.replicas} router replica{'s' * (task.replicas > 1)}"


def rows(stage: Stage, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The objects of ``--json``, one per run; null = nothing to measure."""
    found = []
    for outcome in outcomes:
        if outcome.figures is None:
            continue
        task, figures = outcome.task, asdict(outcome.figures)
        found.append(
            {
                "policy": task.policy,
                "trace": stage.traces[task.trace].name,
                "load": task.load,
                "seed": task.seed,
                "pods": task.pods,
                "staleness_ms": task.staleness_ms,
                "replicas": task.replicas,
                **{c.field: value if isfinite(value := figures[c.field]) else None for c in COLUMNS},
            }
        )
    return found


def panels(stage: Stage, outcomes: Sequence[Outcome]) -> list[Panel]:
    """One panel per set of conditions that differ in more than the load."""
    found: dict[tuple[float, ...], Panel] = {}
    for by_policy in groups(outcomes):
        task = next(iter(by_policy.values()))[0].task
        panel = Panel(
            f"{_played(stage, task)}\n{_routed(task)}",
            stage.slos[task.trace].ttft_s,
            {},
            frozenset({*ALIASES, *ALIASES.values()}),
        )
        panel = found.setdefault(_conditions(task)[:-1], panel)
        for name, runs in by_policy.items():
            if good := [one for one in runs if one.figures is not None]:
                panel.policies.setdefault(name, []).append(_point(task.load, good))
    for panel in found.values():
        for points in panel.policies.values():
            points.sort(key=lambda point: point.load)
    return [panel for panel in found.values() if panel.policies]


def _point(load: float, runs: Sequence[Outcome]) -> Point:
    figures = [one.figures for one in runs if one.figures is not None]
    curves = [one.curve for one in runs if one.curve]
    return Point(
        load=load,
        curve=[median(values) for values in zip(*curves, strict=True)],
        ttft_p90=_median([one.ttft_p90 for one in figures]),
        goodput=_median([one.goodput for one in figures]),
    )


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not isnan(value)]
    return median(known) if known else float("nan")
