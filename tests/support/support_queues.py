"""Pools of pods with slots and a queue each, in virtual time, placed on by the processor's own code."""

from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from ralb.v1.snapshot_pb2 import Cost, Endpoint, Pool
from ralb_extproc.place import Ask, Dice, PodSample, PodTable, commit, place_plan
from ralb_extproc.place.flow import work_of
from ralb_extproc.types import Candidate, Placement, Plan

STEP = 0.04
OUTPUT = 100.0  # mean answer tokens


@dataclass
class Job:
    """One request; times in seconds."""

    id: str
    pool: str
    arrived: float
    left: float  # tokens
    tokens: float
    started: float = 0.0


@dataclass
class Pod:
    """``slots`` requests run at ``speed`` tokens per second each, the others wait in line."""

    speed: float
    slots: int
    running: list[Job] = field(default_factory=list)
    queue: deque[Job] = field(default_factory=deque)
    made: float = 0.0

    def step(self, now: float) -> list[Job]:
        """Go on by ``STEP``; returns what finished."""
        while self.queue and len(self.running) < self.slots:
            job = self.queue.popleft()
            job.started = now
            self.running.append(job)
        for job in self.running:
            done = min(job.left, self.speed * STEP)
            job.left -= done
            self.made += done
        finished = [job for job in self.running if job.left <= 0.0]
        self.running = [job for job in self.running if job.left > 0.0]
        return finished


@dataclass(frozen=True)
class Kind:
    """How a pool is made."""

    pods: int
    speed: float
    slots: int
    cap: int = 0
    cost: float = 0.0  # dollars per million answer tokens
    counts: bool = True  # whether its pods tell anything of themselves


class World:
    """Pools by name and what was placed on them.

    Attributes:
        now: virtual seconds.
        placements: of every request, in order, with its time.
        finished: every request that ended, with the time it waited in line.
    """

    def __init__(self, kinds: dict[str, Kind], plan: Plan, seed: int = 1, every: float = 0.16) -> None:
        self.kinds = kinds
        self.plan = plan
        self.now = 1000.0
        self.placements: list[tuple[float, Placement]] = []
        self.finished: list[tuple[str, float]] = []
        self._every = every
        self._random = np.random.default_rng(seed)
        self._dice = Dice(seed)
        pools = [_pool(name, kind) for name, kind in kinds.items()]
        self.table = SimpleNamespace(pools={pool.id: pool for pool in pools})
        self.pods = PodTable()
        self.pods.update(pools, self.now)
        self.servers = {
            (name, f"{name}-{i}:80"): Pod(kind.speed, kind.slots)
            for name, kind in kinds.items()
            for i in range(kind.pods)
        }
        self._at = {key: self.now + self._every * self._random.random() for key in self.servers}
        self._count = 0

    def arrive(self) -> None:
        """Place one request of random length."""
        self._count += 1
        tokens = float(self._random.gamma(4.0, OUTPUT / 4.0)) + 1.0
        ask = Ask(10, round(OUTPUT))
        placement = place_plan(self.table, self.pods, self.plan, ask, self.now, self._dice)
        commit(self.pods, f"r{self._count}", placement, self.plan, ask, self.now)
        first = placement.attempts[0]
        self.servers[first.pool, first.endpoint].queue.append(
            Job(f"r{self._count}", first.pool, self.now, tokens, tokens)
        )
        self.placements.append((self.now, placement))

    def run(self, seconds: float, rate: float = 0.0, clients: int = 0) -> None:
        """Go on for so long, with ``rate`` arrivals per second, or ``clients`` that ask again once they are answered."""
        waiting = max(0, clients - sum(len(pod.queue) + len(pod.running) for pod in self.servers.values()))
        end = self.now + seconds
        while self.now < end:
            for _ in range(int(self._random.poisson(rate * STEP)) if rate else waiting):
                self.arrive()
            waiting = 0
            self.now += STEP
            for (pool, address), pod in self.servers.items():
                for job in pod.step(self.now):
                    waiting += clients > 0
                    self._finish(job, pool, address)
                if self.kinds[pool].counts and self.now >= self._at[pool, address]:
                    self._at[pool, address] += self._every
                    sample = PodSample(
                        self.now,
                        len(pod.queue),
                        len(pod.running),
                        0.5,
                        prompt_tokens=0.0,
                        generation_tokens=pod.made,
                    )
                    self.pods.observe(self.pods.slot(pool, address), sample, self.now)

    def _finish(self, job: Job, pool: str, address: str) -> None:
        slot = self.pods.slot(pool, address)
        self.pods.finish(job.id)
        self.pods.learn_work(slot, work_of(0, 0, job.tokens), self.now - job.arrived, self.now)
        self.finished.append((pool, job.started - job.arrived))

    def shares(self, since: float) -> dict[str, float]:
        """Pool -> its share of the requests placed since."""
        pools = [placement.attempts[0].pool for at, placement in self.placements if at >= since]
        return {name: pools.count(name) / len(pools) for name in self.kinds}

    def in_line(self, pool: str) -> int:
        """Requests waiting in a pool."""
        return sum(len(pod.queue) for (name, _), pod in self.servers.items() if name == pool)


def _pool(name: str, kind: Kind) -> Pool:
    return Pool(
        id=name,
        cluster=f"plain/{name}",
        rewrite_cluster=f"rewrite/{name}",
        endpoints=[Endpoint(address=f"{name}-{i}:80") for i in range(kind.pods)],
        concurrency_per_replica=kind.cap,
        metrics_path="/metrics" if kind.counts else "",
        cost=Cost(output_per_million=kind.cost),
    )


def tier_plan(*home: str, spill: tuple[str, ...] = (), weights: tuple[int, ...] = (), **fields: bool) -> Plan:
    """Tier ``home`` with these pools, spilling over to tier ``other``."""
    share = weights or (1,) * len(home)
    return Plan(
        "p",
        "r",
        "home",
        "home",
        tuple(Candidate(name, "m", "home", 0, weight, **fields) for name, weight in zip(home, share, strict=True)),
        spill=tuple(Candidate(name, "m", "other", 1000, 1, dynamic=True) for name in spill),
    )
