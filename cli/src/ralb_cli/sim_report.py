"""What ``ralb sim`` says and leaves behind besides its tables: progress, mistakes, the JSON file, the plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import orjson

from ralb_cli.sim_runs import Outcome, Stage
from ralb_cli.sim_table import panels, rows
from ralb_sim.offline.plot import MAX_PANELS, PlotError, draw

OK, FAILED = 0, 1


class Progress:
    """Says how far it is: one line that changes on a terminal, else a line now and then."""

    def __init__(self, stage: Stage, total: int, stream: TextIO) -> None:
        """Of ``total`` runs; to ``stream``."""
        self._stage, self._total, self._stream = stage, total, stream
        self._terminal = stream.isatty()
        self._done = 0

    def __call__(self, outcome: Outcome) -> None:
        """Another run is done."""
        self._done += 1
        task = outcome.task
        text = f"{self._done}/{self._total} {self._stage.traces[task.trace].name} load {task.load:g} {task.policy}"
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
        elif self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line back."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def speed(done: Sequence[Outcome], seconds: float, processes: int) -> str:
    """The line below the tables."""
    pace = sorted(one.simulated_per_second for one in done)[len(done) // 2]
    plural = "es" * (processes > 1)
    return (
        f"* best, the oracle apart. {len(done)} run{'s' * (len(done) > 1)} in {seconds:.0f} s by {processes} process{plural}, "
        f"{pace:,.0f} requests per second each.\n"
    )


def mistakes(stage: Stage, outcomes: Sequence[Outcome], errors: TextIO) -> int:
    """Says each once; the exit code."""
    failed: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.figures is None:
            failed.setdefault(outcome.error, []).append(outcome)
    for error, runs in failed.items():
        task = runs[0].task
        more = f" (and {len(runs) - 1} more runs)" if len(runs) > 1 else ""
        print(f"ralb sim: {stage.traces[task.trace].name}, {task.policy}{more}: {error}", file=errors)
    return FAILED if failed else OK


def written(path: str | None, stage: Stage, outcomes: Sequence[Outcome], errors: TextIO) -> int:
    """Write the JSON file, if asked for; the exit code."""
    if not path:
        return OK
    try:
        Path(path).write_bytes(orjson.dumps(rows(stage, outcomes), option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        print(f"ralb sim: {error}", file=errors)
        return FAILED
    return OK


def drawn(path: str | None, stage: Stage, outcomes: Sequence[Outcome], errors: TextIO) -> int:
    """Write the plot, under a name made of the traces' if none is given; the exit code."""
    if path == "none":
        return OK
    target = path or f"ralb-sim-{'-'.join(dict.fromkeys(trace.name for trace in stage.traces))[:100]}.png"
    shown = panels(stage, outcomes)
    try:
        draw(target, shown)
    except PlotError as error:
        print(f"ralb sim: no plot: {error}", file=errors)
        return FAILED if path else OK  # who did not ask for one has what was asked for
    except OSError as error:
        print(f"ralb sim: no plot: {error}", file=errors)
        return FAILED
    left = f", the first {MAX_PANELS} of {len(shown)} sets of conditions" if len(shown) > MAX_PANELS else ""
    print(f"plot: {target}{left}", file=errors)
    return OK
