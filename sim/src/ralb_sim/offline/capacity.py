"""How much a fleet can do on a workload: what load 1.0 means.

The workload is played closed: as many requests in flight as the pods' memory takes, the next one sent when one ends, each placed
by the oracle. Where much is found in prefix caches, fewer in flight leave more room for those and can do more, so fewer are tried
for as long as that helps. Requests per second in the middle of the best such run are the capacity.
"""

from collections.abc import Sequence
from statistics import mean
from typing import Final

from ralb_sim.offline.policies import REFERENCE
from ralb_sim.offline.workload import Job
from ralb_sim.offline.world import Play, World
from ralb_sim.profiles import Profile

_SHARES: Final = (1.0, 0.7, 0.5, 0.35, 0.25)


def resident(held: float, profiles: Sequence[Profile]) -> float:
    """How many requests of ``held`` tokens fit into a fleet at once."""
    return sum(min(profile.max_num_seqs, max(2.0, profile.kv_tokens / held)) for profile in profiles)


def capacity(jobs: Sequence[Job], block_tokens: int, profiles: Sequence[Profile]) -> float:
    """Requests per second at which the fleet saturates."""
    # Long answers stay longest: what is held at a moment can be more than what a request holds on average.
    answers = sum(job.output for job in jobs)
    lasting = sum(job.output * (job.input + job.output / 2) for job in jobs) / answers
    room = resident(max(lasting, mean(job.input + job.output for job in jobs)), profiles)
    best = 0.0
    for share in _SHARES:
        rate = _throughput(jobs, block_tokens, profiles, max(1, round(share * room)))
        if rate <= best:
            break
        best = rate
    return best


def _throughput(jobs: Sequence[Job], block_tokens: int, profiles: Sequence[Profile], inflight: int) -> float:
    """Requests per second with so many in flight.

    The middle of a run says most, but a short one has none: there the whole run, from the first request to the last answer, is
    the measure, and the middle never counts for more than twice that.
    """
    run = World(jobs, block_tokens, profiles, REFERENCE["oracle"], Play(closed=inflight, warmup=0.0)).play()
    ends = sorted(served.finished for served in run.requests if served.finished >= 0.0)
    whole = len(ends) / ends[-1]
    low, high = int(len(ends) * 0.3), int(len(ends) * 0.9)
    middle = ends[high] - ends[low]
    return min(2 * whole, (high - low) / middle) if middle else whole
