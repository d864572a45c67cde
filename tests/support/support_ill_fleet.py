"""A fleet in event time whose pods can be slow, fail, restart cold or freeze their metrics, placed by the real code.

A pod works on up to ``slots`` requests; prompts are computed one after another, answers together, slower the more there are.
"""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from ralb.v1.snapshot_pb2 import Balancing, Health
from ralb_extproc.place import Ask, Dice, PodSample, PodTable, charge, place, pool_of

POOL = "ns/p"
SCRAPE = 0.2


@dataclass
class IllPod:
    slots: int = 16
    slow: float = 1.0
    errors: float = 0.0
    frozen: bool = False
    down: bool = False
    limited: float = 0.0  # Retry-After it answers with; 0 = none
    queue: list = field(default_factory=list)
    running: int = 0
    prefill_free: float = 0.0
    prompts: float = 0.0
    answers: float = 0.0
    page: tuple | None = None


class IllFleet:
    """``rate`` requests per second over ``count`` pods."""

    def __init__(self, count=8, rate=40.0, seed=1, strategy=0, health=None, scraped=True, stream=True):
        self.pods = [IllPod() for _ in range(count)]
        self.rate, self.rng, self.dice = rate, random.Random(seed), Dice(seed)
        self.table = PodTable()
        self.scraped, self.stream = scraped, stream
        self.now, self.count = 0.0, 0
        self.events: list = []
        self.sent: list[tuple[float, int]] = []
        self.states: list[tuple[float, int, str]] = []
        self.addresses = [f"10.0.0.{i}:80" for i in range(count)]
        self.fields = {"balancing": Balancing(strategy=strategy)} | ({"health": Health(**health)} if health else {})
        self.there = set(range(count))
        self.update()
        self.at(0.0, "arrive")
        for i in range(count):
            self.at(0.01 * i, "scrape", i)

    def update(self):
        self.table.update([pool_of(POOL, (self.addresses[i] for i in sorted(self.there)), **self.fields)], self.now)

    def at(self, when, what, *args):
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what, args))

    def slot(self, number):
        return self.table.slot(POOL, self.addresses[number])

    def run(self, seconds):
        """Go on for so long; the share of requests that each pod was sent, of its fair part."""
        until, begun = self.now + seconds, len(self.sent)
        while self.events and self.events[0][0] <= until:
            self.now, _, what, args = heapq.heappop(self.events)
            getattr(self, what)(*args)
        self.now = until
        got = Counter(number for _, number in self.sent[begun:])
        total = max(1, sum(got.values()))
        return [got[i] * len(self.there) / total for i in range(len(self.pods))]

    # ---- events ----

    def arrive(self):
        self.at(self.now + self.rng.expovariate(self.rate), "arrive")
        tokens, output = int(self.rng.lognormvariate(6.5, 0.8)), max(2, int(self.rng.lognormvariate(4.5, 0.6)))
        ask = Ask(tokens, 100, stream=self.stream)
        order = place(self.table, POOL, ask, self.now, self.dice)
        name = f"r{self.count}"
        charge(self.table, POOL, name, order, ask, self.now)
        number = self.addresses.index(order.addresses[0])
        self.sent.append((self.now, number))
        pod = self.pods[number]
        if pod.down or pod.limited or self.rng.random() < pod.errors:
            self.at(self.now + 0.01, "broke", name, number)
        else:
            pod.queue.append((name, number, self.now, tokens, output))
            self.admit(pod)

    def admit(self, pod):
        while pod.queue and pod.running < pod.slots:
            name, number, arrived, tokens, output = pod.queue.pop(0)
            pod.running += 1
            begin = max(self.now, pod.prefill_free)
            pod.prefill_free = begin + pod.slow * (0.005 + tokens / 20_000) * self.rng.lognormvariate(0.0, 0.25)
            first = pod.prefill_free
            pace = pod.slow * (0.008 + 0.0015 * pod.running) * self.rng.lognormvariate(0.0, 0.1)
            pod.prompts += tokens
            self.at(first, "first", name)
            self.at(first + output * pace, "end", name, number, arrived, first, tokens, output)

    def first(self, name):
        self.table.first_token(name)

    def end(self, name, number, arrived, first, tokens, output):
        pod = self.pods[number]
        if pod.down:
            return self.broke(name, number)
        pod.running -= 1
        pod.answers += output
        self.admit(pod)
        flight = self.table.finish(name)
        if number not in self.there:
            return None
        self.table.succeed(self.slot(number), self.now)
        ttft = first - arrived
        self.table.learn_times(
            flight, ttft=ttft if self.stream else None, duration=self.now - arrived, output=output, cached=None
        )
        self.table.learn_prefill(flight, ttft)
        return None

    def broke(self, name, number):
        pod = self.pods[number]
        self.table.finish(name)
        if number not in self.there:
            return
        if pod.limited:
            self.table.limit(self.slot(number), pod.limited, self.now)
        else:
            self.table.fail(self.slot(number), self.now, refused=pod.down)

    def scrape(self, number):
        self.at(self.now + SCRAPE, "scrape", number)
        if not self.scraped or number not in self.there:
            return
        pod, slot = self.pods[number], self.slot(number)
        if pod.down:
            self.table.unreachable(slot, self.now)
            return
        if pod.page is None or not pod.frozen:
            used = min(1.0, pod.running / (2.0 * pod.slots))
            pod.page = (len(pod.queue), pod.running, used, pod.prompts, pod.answers)
        waiting, running, used, prompts, answers = pod.page
        sample = PodSample(
            self.now, waiting, running, used, kv_capacity=1e5, prompt_tokens=prompts, generation_tokens=answers
        )
        self.table.observe(slot, sample, self.now)
        state = self.table.ward.condition(slot, self.table.data, self.now)[0]
        if not self.states or self.last(number) != state:
            self.states.append((self.now, number, state))

    def last(self, number):
        return next((state for _, who, state in reversed(self.states) if who == number), "")

    # ---- what happens to pods ----

    def restart(self, number):
        """A new process at once: what it was working on is lost."""
        pod = self.pods[number]
        pod.down = False
        pod.queue.clear()
        pod.running, pod.prompts, pod.answers, pod.page, pod.prefill_free = 0, 0.0, 0.0, None, self.now

    def changes(self, number):
        """States that a pod went through, with times."""
        return [(round(when, 1), state) for when, who, state in self.states if who == number]
