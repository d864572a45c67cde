"""The runs behind ``ralb sim``: every combination of policy and conditions, in parallel processes.

A run depends on its task and the stage alone, so results are the same however many processes there are. Processes are
spawned, never forked: numpy has threads. They get the traces once, end with their parent however that ends, and leave Ctrl-C
to it.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

from ralb_sim.offline.fleet import Event
from ralb_sim.offline.measure import Figures, Slo, figures, ttft_curve
from ralb_sim.offline.policy import PolicyFactory
from ralb_sim.offline.trace import Trace
from ralb_sim.profiles import Profile

ALIASES = {"ralb": "reasoning-aware"}
"""Other names of policies; ``all`` leaves them out."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run: a policy under some conditions. ``trace`` is the index of the trace."""

    trace: int
    pods: int
    staleness_ms: float
    replicas: int
    load: float
    seed: int
    policy: str


@dataclass(frozen=True, slots=True)
class Stage:
    """What all runs share.

    Attributes:
        traces: what is played.
        slos: the objective of each trace.
        fleets: the pods' profiles, by number of pods.
        requests: how many are played; 0 = enough for the pods.
        warmup: share of the requests that is not measured.
        events: what happens to pods, in every run.
    """

    traces: Sequence[Trace]
    slos: Sequence[Slo]
    fleets: dict[int, Sequence[Profile]]
    requests: int
    warmup: float
    events: Sequence[Event] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave.

    Attributes:
        task: which run.
        figures: None when it failed.
        rate: requests offered per second.
        requests: how many were played.
        left_out: rows of the trace that no pod could hold.
        curve: TTFT quantiles, seconds.
        simulated_per_second: requests simulated per second of real time.
        error: why it failed.
    """

    task: Task
    figures: Figures | None
    rate: float = 0.0
    requests: int = 0
    left_out: int = 0
    curve: Sequence[float] = ()
    simulated_per_second: float = 0.0
    error: str = ""


def policies() -> dict[str, PolicyFactory]:
    """Every policy by name: those of the field, and ours."""
    from ralb_cli.sim_policies import ours
    from ralb_sim.offline.policies import REFERENCE

    return {**ours(), **REFERENCE}


def tasks(
    traces: int,
    pods: Iterable[int],
    staleness_ms: Iterable[float],
    replicas: Iterable[int],
    loads: Iterable[float],
    seeds: Iterable[int],
    names: Iterable[str],
) -> list[Task]:
    """All combinations; those that can share what a process has worked out come one after another."""
    return [Task(*values) for values in product(range(traces), pods, staleness_ms, replicas, loads, seeds, names)]


def run_all(stage: Stage, todo: Sequence[Task], processes: int, told: Callable[[Outcome], None]) -> list[Outcome]:
    """Run the tasks; outcomes in their order.

    Args:
        stage: what they share.
        todo: the tasks.
        processes: how many run at a time; 1 = in this process.
        told: hears of every outcome as it comes.

    Raises:
        KeyboardInterrupt: Ctrl-C; the processes are gone.
        RuntimeError: a process was killed, as happens when memory runs out.
    """
    outcomes: dict[Task, Outcome] = {}
    for outcome in _in_processes(stage, todo, processes) if processes > 1 else _here(stage, todo):
        outcomes[outcome.task] = outcome
        told(outcome)
    return [outcomes[task] for task in todo]


def play(stage: Stage, task: Task) -> Outcome:
    """Do one run."""
    from ralb_sim.offline.simulate import Conditions, simulate

    conditions = Conditions(
        load=task.load,
        seed=task.seed,
        staleness_s=task.staleness_ms / 1000,
        replicas=task.replicas,
        requests=stage.requests,
        warmup=stage.warmup,
        events=stage.events,
    )
    try:
        policy = policies()[ALIASES.get(task.policy, task.policy)]
        run = simulate(stage.traces[task.trace], stage.fleets[task.pods], policy, conditions)
        result = figures(run, stage.slos[task.trace])
        return Outcome(
            task, result, run.rate, len(run.requests), run.left_out, ttft_curve(run), run.simulated_per_second
        )
    except ValueError as error:
        return Outcome(task, None, error=str(error))
    except Exception:
        # One policy's mistake must not cost the others' results.
        return Outcome(task, None, error=traceback.format_exc().strip())


def _here(stage: Stage, todo: Sequence[Task]) -> Iterator[Outcome]:
    return (play(stage, task) for task in todo)


def _in_processes(stage: Stage, todo: Sequence[Task], processes: int) -> Iterator[Outcome]:
    executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(stage,)
    )
    try:
        with _interrupts_held():
            futures = [executor.submit(_play_here, task) for task in todo]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise RuntimeError("a process of the simulation was killed; out of memory? Try fewer --jobs") from None
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C: they inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_stage: Stage | None = None


def _begin(stage: Stage) -> None:
    global _stage
    _stage = stage
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _play_here(task: Task) -> Outcome:
    assert _stage is not None
    return play(_stage, task)
