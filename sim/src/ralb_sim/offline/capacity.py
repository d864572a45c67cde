"""How much a fleet can do on a workload: what load 1.0 means.

The workload is played closed: as many requests in flight as the pods' memory takes comfortably, the next one sent when one
ends, each placed by the oracle. Requests per second in the middle of such a run are the capacity.
"""

from collections.abc import Sequence
from statistics import mean

from ralb_sim.offline.policies import REFERENCE
from ralb_sim.offline.workload import Job
from ralb_sim.offline.world import Play, World
from ralb_sim.profiles import Profile


def resident(held: float, profiles: Sequence[Profile]) -> float:
    """How many requests of ``held`` tokens fit into a fleet at once."""
    return sum(min(profile.max_num_seqs, max(2.0, profile.kv_tokens / held)) for profile in profiles)


def capacity(jobs: Sequence[Job], block_tokens: int, profiles: Sequence[Profile]) -> float:
    """Requests per second at which the fleet saturates.

    The middle of a run says most, but a short one has none: there the whole run, from the first request to the last answer, is
    the measure, and the middle never counts for more than twice that.
    """
    held = mean(job.input + job.output for job in jobs)
    play = Play(closed=max(1, round(resident(held, profiles))), warmup=0.0)
    run = World(jobs, block_tokens, profiles, REFERENCE["oracle"], play).play()
    ends = sorted(served.finished for served in run.requests if served.finished >= 0.0)
    whole = len(ends) / ends[-1]
    low, high = int(len(ends) * 0.3), int(len(ends) * 0.9)
    middle = ends[high] - ends[low]
    return min(2 * whole, (high - low) / middle) if middle else whole
