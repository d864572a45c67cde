"""One run under given conditions: the trace as a workload, the load as a rate, then the world.

Load 1.0 is what the fleet can do on this very workload (``capacity``), so 0.8 means the same strain on any trace and fleet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import mean
from typing import Final

from ralb_sim.offline.capacity import capacity, resident
from ralb_sim.offline.fleet import Event
from ralb_sim.offline.pod import longest
from ralb_sim.offline.policy import PolicyFactory
from ralb_sim.offline.trace import Trace
from ralb_sim.offline.workload import Job, jobs_of
from ralb_sim.offline.world import Play, Run, World
from ralb_sim.profiles import Profile

_PER_POD: Final = 500
_TURNOVERS: Final = 8


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a run is like.

    Attributes:
        load: share of the fleet's capacity on this workload; above 1 is overload.
        seed: of all chance.
        staleness_s: seconds between two scrapes of a pod, 0.001 to 60.
        replicas: router replicas that do not see each other.
        requests: how many rows are played; 0 = enough for the fleet to turn over several times.
        warmup: share of the requests, from the first, that is not measured.
        feedback_s: after how long a replica learns how a request went.
        events: what happens to pods.
    """

    load: float = 0.8
    seed: int = 1
    staleness_s: float = 0.05
    replicas: int = 1
    requests: int = 0
    warmup: float = 0.25
    feedback_s: float = 0.05
    events: Sequence[Event] = field(default=())


def simulate(trace: Trace, profiles: Sequence[Profile], policy: PolicyFactory, conditions: Conditions) -> Run:
    """Play a trace on a fleet.

    Args:
        trace: the workload.
        profiles: one entry per pod.
        policy: makes one router replica.
        conditions: the rest.

    Raises:
        ValueError: a condition is out of range, or no request of the trace fits on a pod.
    """
    if not conditions.load > 0:
        raise ValueError(f"load must be above 0, not {conditions.load}")
    if not 0.001 <= conditions.staleness_s <= 60:
        raise ValueError(f"staleness must be 0.001 to 60 seconds, not {conditions.staleness_s}")
    if conditions.replicas < 1:
        raise ValueError(f"there must be at least one router replica, not {conditions.replicas}")
    fleet = tuple(profiles)
    jobs, most = _workload(trace, fleet, conditions.requests)
    rate = conditions.load * most
    own = len(jobs) / max(jobs[-1].t - jobs[0].t, 1e-9)
    play = Play(
        seed=conditions.seed,
        staleness_s=conditions.staleness_s,
        replicas=conditions.replicas,
        speedup=rate / own,
        jitter=1.0,
        warmup=conditions.warmup,
        events=conditions.events,
        feedback_s=conditions.feedback_s,
    )
    run = World(jobs, trace.block_tokens, fleet, policy, play).play()
    limit = max(longest(profile) for profile in fleet)
    run.left_out = sum(row.input + row.output > limit for row in trace.rows)
    return run


@lru_cache(maxsize=4)
def _workload(trace: Trace, fleet: tuple[Profile, ...], requests: int) -> tuple[tuple[Job, ...], float]:
    """The workload and the fleet's capacity on it; kept, since runs of many policies share them."""
    limit = max(longest(profile) for profile in fleet)
    if not requests:
        held = mean(row.input + row.output for row in trace.rows)
        requests = max(_PER_POD * len(fleet), round(_TURNOVERS * resident(held, fleet)))
    jobs = tuple(jobs_of(trace, requests, len(fleet), limit))
    return jobs, capacity(jobs, trace.block_tokens, fleet)
