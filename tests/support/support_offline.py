"""Small workloads on one pod, by the exact engine and by the leaping one; and worlds with policies of a few lines."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import hypot, inf
from typing import Any

from ralb_sim.engine import Engine, EngineConfig, EngineRequest
from ralb_sim.offline.pod import Seq, SimPod
from ralb_sim.offline.policy import Done, Page, Setting, Work
from ralb_sim.offline.workload import Job
from ralb_sim.offline.world import Play, Run, World
from ralb_sim.profiles import PROFILES, Profile

BLOCK = 16


@dataclass(frozen=True)
class Arrival:
    """A request of ``ids`` blocks, prompt and answer together; fewer ids = the rest is shared with nobody."""

    at: float
    prompt: int
    output: int
    ids: Sequence[int] = ()


@dataclass
class Seen:
    """What became of the requests, by number, and the pod's counters at the end."""

    first: dict[int, float] = field(default_factory=dict)
    finish: dict[int, float] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    preempted: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, list[float]] = field(default_factory=dict)  # when each token came; the exact engine's only
    counters: tuple[int, int, int] = (0, 0, 0)  # pre-emptions, prompt tokens looked up, found
    work: float = 0.0  # seconds beyond the floor of the steps


def profile(name: str = "llama-3-8b-h100", **changes: Any) -> Profile:
    return replace(PROFILES[name], **changes)


def exactly(arrivals: Sequence[Arrival], on: Profile, block: int = BLOCK) -> Seen:
    """By ``ralb_sim.engine``, step by step. Arrivals must be in order."""
    engine = Engine(replace(EngineConfig.of(on), block_size=block))
    seen, left = Seen(), list(enumerate(arrivals))
    end, step = inf, None
    while left or step:
        if left and left[0][1].at <= end:
            number, arrival = left.pop(0)
            engine.add(EngineRequest(str(number), arrival.prompt, arrival.output, arrival.ids))
            now = arrival.at
        else:
            now = end
            for name in step.first_tokens:
                seen.first[int(name)] = now
            for name in step.tokens:
                seen.tokens.setdefault(int(name), []).append(now)
            for done in step.finished:
                seen.finish[int(done.id)] = now
                seen.cached[int(done.id)] = done.cached_tokens
                seen.preempted[int(done.id)] = done.preemptions
            step = None
        if step is None and engine.has_work:
            step = engine.step()
            end = now + step.duration_s
            tokens = on.b * step.scheduled_tokens
            seen.work += step.duration_s - (hypot(on.t_w, tokens) + on.r0 + on.h - tokens) / 1000
        elif step is None:
            end = inf
    stats = engine.stats()
    seen.counters = (stats.preemptions, stats.prefix_queries, stats.prefix_hits)
    return seen


def sequence(number: int, arrival: Arrival) -> Seq:
    full = arrival.prompt // BLOCK
    return Seq(number, arrival.prompt, arrival.output, arrival.ids[:full], arrival.ids[full:])


def leaping(
    arrivals: Sequence[Arrival], on: Profile, at_event: Callable[[SimPod, float], None] = lambda pod, now: None
) -> tuple[Seen, SimPod]:
    """By ``SimPod``; ``at_event`` is called after every event."""
    pod, seen, left, now = SimPod(on, BLOCK), Seen(), list(enumerate(arrivals)), 0.0
    while left or pod.next_time < inf:
        before = now
        if left and left[0][1].at <= pod.next_time:
            number, arrival = left.pop(0)
            now = arrival.at
            pod.add(sequence(number, arrival), now)
        else:
            now = pod.next_time
            first, done = pod.wake()
            for seq in first:
                seen.first[seq.key] = seq.first_at
                assert seq.first_at == now
            for seq in done:
                seen.finish[seq.key], seen.cached[seq.key], seen.preempted[seq.key] = now, seq.cached, seq.preemptions
        assert before <= now <= pod.next_time
        at_event(pod, now)
    seen.counters, seen.work = (pod.preemptions, pod.prefix_queries, pod.prefix_hits), pod.work(now)
    return seen, pod


def books_add_up(pod: SimPod, now: float) -> None:
    """What the pod says it uses is what its requests hold."""
    pod.kv.check()
    size, used, findable = pod.kv.block_tokens, 0, set()
    for seq in pod.running.values():
        held = seq.computed
        if seq.finish_step >= 0:
            held = seq.prompt + seq.output - (seq.finish_step - pod.step) - 1
            assert seq not in pod.prefilling
        else:
            assert seq in pod.prefilling
        used += held - len(seq.held) * size
        findable.update(seq.held)
    decoding = [seq for seq in pod.running.values() if seq.finish_step >= 0]
    under_way = pod.decodes + sum(count for _, count in pod._chunks) if pod.next_time < inf else 0
    assert pod.kv.used == used + len(findable) * size + under_way
    assert pod.decodes == len(decoding)
    assert pod.context == sum(seq.prompt + seq.output - (seq.finish_step - pod.step) - 1 for seq in decoding)


def job(at: float, prompt: int = 100, output: int = 20, before: int = -1, **more: Any) -> Job:
    return Job(at, prompt, output, more.get("blocks", ()), more.get("tail", ()), more.get("session", ""), before)


def stream(count: int, every: float = 0.05, prompt: int = 300, output: int = 60, seed: int = 1) -> list[Job]:
    """Requests of a steady rate, half to one and a half times so long."""
    rng, now, jobs = random.Random(seed), 0.0, []
    for _ in range(count):
        jobs.append(
            job(now, max(1, round(prompt * rng.uniform(0.5, 1.5))), max(1, round(output * rng.uniform(0.5, 1.5))))
        )
        now += rng.expovariate(1 / every)
    return jobs


def plain_world(
    jobs: Sequence[Job],
    pods: int | Sequence[Profile] = 2,
    order: Sequence[int] | None = None,
    block: int = 0,
    **play: Any,
) -> "tuple[Run, list[Plain], World]":
    """A run of ``Plain`` routers: what came of it, and the routers."""
    routers: list[Plain] = []

    def make(setting: Setting) -> Plain:
        routers.append(Plain(setting, order))
        return routers[-1]

    fleet = [profile()] * pods if isinstance(pods, int) else pods
    world = World(jobs, block, fleet, make, Play(**{"warmup": 0.0, "jitter": 0.0, **play}))
    return world.play(), routers, world


class Plain:
    """A policy that keeps to one order of pods and writes down what it hears."""

    def __init__(self, setting: Setting, order: Sequence[int] | None = None) -> None:
        self.setting, self.order = setting, order
        self.alive: list[int] = []
        self.heard: list[tuple[str, float, Any]] = []
        self.pages: dict[int, tuple[float, Page]] = {}

    def place(self, work: Work, now: float) -> Sequence[int]:
        self.heard.append(("place", now, work))
        return list(self.order if self.order is not None else self.alive)

    def scraped(self, pod: int, page: Page, at: float, now: float) -> None:
        self.pages[pod] = (at, page)
        self.heard.append(("scraped", now, (pod, at, page)))

    def first_token(self, request: str, now: float) -> None:
        self.heard.append(("first", now, request))

    def finished(self, done: Done, now: float) -> None:
        self.heard.append(("finished", now, done))

    def pods(self, alive: Sequence[int], now: float) -> None:
        self.alive = list(alive)
        self.heard.append(("pods", now, list(alive)))

    def of(self, kind: str) -> list[tuple[float, Any]]:
        return [(now, what) for one, now, what in self.heard if one == kind]
