"""The discrete events of a run: requests arrive at router replicas, pods work, metrics pages are taken and grow old.

One heap of events in order of time. A router replica sees a pod only by the page it last scraped and by what became of its own
requests. A request whose pod dies, or that a pod fails before its first token, is tried on the next pods of its order; after
the first token it is lost. A pod whose memory or context is too small for a request is passed over.

Trap: chance that does not depend on the policy (which replica is asked, when pages are taken) has its own sources, so that
policies compared under one seed meet the same.
"""

import heapq
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Final

from ralb_sim.offline.fleet import Event, Kind, absent_at_start, check
from ralb_sim.offline.oracle import Foresight
from ralb_sim.offline.pod import Seq, SimPod, longest
from ralb_sim.offline.policy import Done, Page, Policy, PolicyFactory, Setting, Work
from ralb_sim.offline.workload import Job
from ralb_sim.profiles import Profile

_ATTEMPTS: Final = 4
_ERROR_SECONDS: Final = 0.005


@dataclass(slots=True)
class Served:
    """What became of a request; times in simulated seconds, -1 = never.

    Attributes:
        arrived / first_token / finished: when.
        input / output / cached: tokens.
        pod: who had it last; -1 = nobody.
        preemptions: how often it was pre-empted.
        attempts: pods tried, dead ones too.
        measured: whether it counts; False for those of the warm-up.
    """

    arrived: float
    input: int
    output: int
    first_token: float = -1.0
    finished: float = -1.0
    cached: int = 0
    pod: int = -1
    preemptions: int = 0
    attempts: int = 0
    measured: bool = True


@dataclass(slots=True)
class Run:
    """A finished run.

    Attributes:
        requests: in order of the trace.
        work: seconds the tokens of each pod cost beyond the floor of its steps, during the measured part; see ``SimPod.work``.
        span_s: length of the measured part.
        rate: requests per second offered.
        decisions_s: real seconds spent in policies.
        simulated_per_second: requests simulated per real second.
        left_out: rows of the trace that no pod could ever hold.
    """

    requests: list[Served]
    work: list[float]
    span_s: float
    rate: float
    decisions_s: float = 0.0
    simulated_per_second: float = 0.0
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Play:
    """How a workload is played.

    Attributes:
        seed: of all chance.
        staleness_s: seconds between scrapes; a page is this old at most.
        replicas: router replicas; each request comes to one of them by chance.
        speedup: trace time is divided by it.
        jitter: a request comes later than the trace says by chance, at most so many mean gaps: seeds differ in who meets whom.
        closed: requests kept in flight instead of following the trace's clock; 0 = follow it.
        warmup: share of the requests that is not measured.
        events: what happens to pods.
        feedback_s: after how long a replica learns how a request went.
    """

    seed: int = 1
    staleness_s: float = 0.05
    replicas: int = 1
    speedup: float = 1.0
    jitter: float = 0.0
    closed: int = 0
    warmup: float = 0.2
    events: Sequence[Event] = field(default=())
    feedback_s: float = 0.05


class World:
    """One run; see ``play``."""

    def __init__(
        self, jobs: Sequence[Job], block_tokens: int, profiles: Sequence[Profile], policy: PolicyFactory, play: Play
    ) -> None:
        """Set the stage; ``profiles`` has one entry per pod.

        Raises:
            ValueError: an event is of no pod, or its value is out of range.
        """
        check(play.events, len(profiles))
        self._jobs = jobs
        self._block_tokens = block_tokens
        self._profiles = profiles
        self._play = play
        self.pods = [SimPod(profile, block_tokens) for profile in profiles]
        absent = absent_at_start(play.events)
        self._alive = [index not in absent for index in range(len(profiles))]
        self._errors = [0.0] * len(profiles)
        self._frozen: list[Page | None] = [None] * len(profiles)
        self._limits = [longest(profile) for profile in profiles]
        self._least = min(self._limits)
        self._failures = random.Random(f"{play.seed} failures")
        foresight = Foresight(self.pods, self._output_of)
        self._routers: list[Policy] = [
            policy(
                Setting(
                    pods=len(profiles),
                    replica=replica,
                    replicas=play.replicas,
                    rng=random.Random(play.seed * 1000 + replica),
                    kv_tokens=[profile.kv_tokens for profile in profiles],
                    block_tokens=block_tokens,
                    truth=foresight,
                )
            )
            for replica in range(play.replicas)
        ]
        # Taken, not yet shown; None = of a pod that was not there.
        self._pages: list[list[tuple[float, Page] | None]] = [[] for _ in range(play.replicas)]
        self._fresh = [False] * play.replicas
        phases = random.Random(f"{play.seed} scrapes")
        self._phase = [phases.random() * play.staleness_s for _ in range(play.replicas)]
        self._scrapes = [0] * play.replicas
        self._served = [Served(-1.0, job.input, job.output) for job in jobs]
        replicas = random.Random(f"{play.seed} replicas")
        self._router_of = [replicas.randrange(play.replicas) for _ in jobs]
        self._asked_at = [0.0] * len(jobs)
        self._orders: list[list[int]] = [[] for _ in jobs]
        self._heap: list[tuple[float, int, str, int, object]] = []
        self._ticket = count()
        self._followers: dict[int, list[int]] = {}
        self._left = len(jobs)
        self._deciding = 0.0

    def _output_of(self, work: Work) -> int:
        return self._jobs[int(work.id)].output

    def _push(self, at: float, kind: str, which: int, what: object = None) -> None:
        heapq.heappush(self._heap, (at, next(self._ticket), kind, which, what))

    def play(self) -> Run:
        """Run to the end."""
        began = time.perf_counter()
        play = self._play
        alive = self._ready()
        for router in self._routers:
            router.pods(alive, 0.0)
        for event in play.events:
            self._push(event.at, "event", event.pod, event)
        for replica in range(play.replicas):
            self._push(self._phase[replica], "scrape", replica)
        self._begin()
        measure_from = int(len(self._jobs) * play.warmup)
        begun_at = 0.0
        handlers = {
            "arrive": self._arrive, "send": self._send, "wake": self._wake, "scrape": self._scrape, "told": self._told,
            "event": self._event,
        }  # fmt: skip
        heap = self._heap
        arrivals = 0
        before = after = [0.0] * len(self.pods)
        while self._left and heap:
            at, _, kind, which, what = heapq.heappop(heap)
            if kind == "arrive":
                arrivals += 1
                if arrivals == measure_from + 1:
                    begun_at = at
                    before = [pod.work(at) for pod in self.pods]
                if arrivals == len(self._jobs):
                    after = [pod.work(at) for pod in self.pods]
                self._served[which].measured = arrivals > measure_from
            handlers[kind](at, which, what)
        last = max((row.arrived for row in self._served), default=0.0)
        real = max(time.perf_counter() - began, 1e-9)
        span = max(last - begun_at, 1e-9)
        measured = sum(row.measured for row in self._served)
        return Run(
            requests=self._served,
            work=[end - start for start, end in zip(before, after, strict=True)],
            span_s=span,
            rate=measured / span,
            decisions_s=self._deciding,
            simulated_per_second=len(self._jobs) / real,
        )

    # ---- arrivals ----

    def _begin(self) -> None:
        """Schedule the requests that wait for nobody."""
        play = self._play
        if play.closed:
            self._queue = list(range(len(self._jobs) - 1, -1, -1))
            self._parked: dict[int, list[int]] = {}
            self._ended: set[int] = set()
            for _ in range(play.closed):
                self._next_closed(0.0)
            return
        arrivals = random.Random(f"{play.seed} arrivals")
        gap = play.jitter * self._jobs[-1].t / play.speedup / len(self._jobs)
        for index, job in enumerate(self._jobs):
            if job.before < 0:
                self._push(job.t / play.speedup + gap * arrivals.random(), "arrive", index)
            else:
                self._followers.setdefault(job.before, []).append(index)

    def _next_closed(self, now: float) -> None:
        """Send the next request of the trace whose predecessor is answered."""
        while self._queue:
            index = self._queue.pop()
            before = self._jobs[index].before
            if before >= 0 and before not in self._ended:
                self._parked.setdefault(before, []).append(index)
                continue
            self._push(now, "arrive", index)
            return

    def _ended_job(self, index: int, now: float) -> None:
        self._left -= 1
        if self._play.closed:
            self._ended.add(index)
            for parked in self._parked.pop(index, ()):
                self._queue.append(parked)
            self._next_closed(now)
            return
        for follower in self._followers.pop(index, ()):
            self._push(max(now, self._jobs[follower].t / self._play.speedup), "arrive", follower)

    def _arrive(self, now: float, index: int, _: object) -> None:
        job = self._jobs[index]
        self._served[index].arrived = self._asked_at[index] = now
        if True not in self._alive:
            self._ended_job(index, now)
            return
        replica = self._router_of[index]
        router = self._routers[replica]
        work = Work(str(index), job.input, job.blocks, self._block_tokens or 1, job.session)
        clock = time.perf_counter()
        if self._fresh[replica]:
            self._fresh[replica] = False
            for pod, taken in enumerate(self._pages[replica]):
                if taken is not None:
                    router.scraped(pod, taken[1], taken[0], now)
        order = router.place(work, now)
        self._deciding += time.perf_counter() - clock
        size = job.input + job.output
        if size > self._least:
            order = [pod for pod in order if size <= self._limits[pod]]
        self._orders[index] = list(order[:_ATTEMPTS])
        self._send(now, index, None)

    def _send(self, now: float, index: int, _: object) -> None:
        """To the first pod of what is left of its order; a pod that fails it does so a moment later."""
        served = self._served[index]
        order = self._orders[index]
        while order:
            pod = order.pop(0)
            served.attempts += 1
            if not self._alive[pod]:
                continue
            served.pod = pod
            if self._errors[pod] and self._failures.random() < self._errors[pod]:
                self._push(now + _ERROR_SECONDS, "send", index)
                return
            job = self._jobs[index]
            self._touch(pod, now, Seq(index, job.input, job.output, job.blocks, job.tail))
            return
        self._tell(index, now, cached=0, ok=False)
        self._ended_job(index, now)

    def _tell(self, index: int, now: float, *, cached: int, ok: bool) -> None:
        """Its replica will learn how it went."""
        served, asked = self._served[index], self._asked_at[index]
        ttft = served.first_token - asked if ok else -1.0
        output = served.output if ok else 0
        report = Done(str(index), served.pod, ok, ttft, now - asked, output, cached, served.attempts)
        self._push(now + self._play.feedback_s, "told", index, report)

    def _touch(self, pod: int, now: float, seq: Seq | None = None, speed: float = 0.0) -> None:
        """Give a pod a request or another speed."""
        engine = self.pods[pod]
        before = engine.next_time
        if seq is not None:
            engine.add(seq, now)
        else:
            engine.pace(speed, now)
        if engine.next_time != before:
            self._push(engine.next_time, "wake", pod, engine)

    # ---- pods ----

    def _wake(self, now: float, pod: int, engine: object) -> None:
        mine = self.pods[pod]
        if mine is not engine or mine.next_time != now:
            return  # it was cut short, or is another pod by now
        first, done = mine.wake()
        if mine.next_time < inf:
            self._push(mine.next_time, "wake", pod, mine)
        for seq in first:
            self._served[seq.key].first_token = now
            self._told(now, seq.key, None)
        for seq in done:
            served = self._served[seq.key]
            served.finished = now
            served.cached = seq.cached
            served.preemptions = seq.preemptions
            self._tell(seq.key, now, cached=seq.cached, ok=True)
            self._ended_job(seq.key, now)

    def _told(self, now: float, index: int, report: object) -> None:
        """A replica learns of a first token or of an end."""
        router = self._routers[self._router_of[index]]
        clock = time.perf_counter()
        if isinstance(report, Done):
            router.finished(report, now)
        else:
            router.first_token(str(index), now)
        self._deciding += time.perf_counter() - clock

    def _ready(self) -> list[int]:
        return [pod for pod, alive in enumerate(self._alive) if alive]

    def _event(self, now: float, pod: int, event: object) -> None:
        assert isinstance(event, Event)
        if event.kind is Kind.SPEED:
            self._touch(pod, now, speed=event.value)
        elif event.kind is Kind.ERRORS:
            self._errors[pod] = event.value
        elif event.kind is Kind.FREEZE:
            self._frozen[pod] = self.pods[pod].page(now) if event.value else None
        else:
            self._replace(pod, now, alive=event.kind is Kind.START)

    def _replace(self, pod: int, now: float, *, alive: bool) -> None:
        """The pod is gone with all it had; another may take its place, empty and well."""
        old = self.pods[pod]
        self.pods[pod] = SimPod(self._profiles[pod], self._block_tokens)
        self.pods[pod].inherit(old.work(now))
        self._alive[pod], self._errors[pod], self._frozen[pod] = alive, 0.0, None
        for pages in self._pages:
            if pages:
                pages[pod] = None
        ready = self._ready()
        for router in self._routers:
            router.pods(ready, now)
        for seq in old.lost():
            if seq.first_at >= 0.0:
                self._orders[seq.key].clear()
            self._send(now, seq.key, None)

    def _scrape(self, now: float, replica: int, _: object) -> None:
        self._pages[replica] = [
            (now, frozen or pod.page(now)) if alive else None
            for pod, alive, frozen in zip(self.pods, self._alive, self._frozen, strict=True)
        ]
        self._fresh[replica] = True
        self._scrapes[replica] += 1 + self._needless(now)
        self._push(self._phase[replica] + self._scrapes[replica] * self._play.staleness_s, "scrape", replica)

    def _needless(self, now: float) -> int:
        """How many scrapes to come would be overwritten before anything can happen."""
        following = self._heap[0][0] if self._heap else now
        return max(0, int((following - now) / self._play.staleness_s) - 1)
