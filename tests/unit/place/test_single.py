"""The small API for other programs: settle() by itself, and all of it under a queueing simulation as an outsider writes one."""

import heapq
import random
import re
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from ralb.v1.snapshot_pb2 import Balancing
from ralb_extproc.place import Ask, Dice, PodSample, PodTable, Prefix, charge, place, pool_of, settle
from ralb_extproc.place import columns as col

POOL = "sim/pool"
PODS = [f"10.0.0.{number}:8000" for number in range(4)]
DOCS = Path(__file__).parents[3] / "docs" / "placement.md"
BLOCK = 500


class World:
    """A table with a request on its way."""

    def __init__(self, **ask: object) -> None:
        self.table = PodTable()
        self.table.update([pool_of(POOL, PODS)], 0.0)
        self.ask = Ask(**{"input_tokens": 2000, "output_tokens": 100, **ask})  # type: ignore[arg-type]
        self.order = place(self.table, POOL, self.ask, 1.0, Dice(1))
        charge(self.table, POOL, "r", self.order, self.ask, 1.0)

    def of(self, column: int, tried: int = 0) -> float:
        slot = self.table.slot(POOL, self.order.addresses[tried])
        return float(self.table.data[column, slot])

    def settle(self, **said: object) -> bool:
        answer = {"ttft": 0.3, "duration": 3.0, "output_tokens": 100, "cached_tokens": 0}
        return settle(self.table, "r", 4.0, **{**answer, **said})  # type: ignore[arg-type]


class TestSettle:
    def test_the_load_is_released(self):
        world = World()
        assert world.of(col.INFLIGHT) == 1.0
        assert world.settle()
        assert not world.table.data[[col.INFLIGHT, col.PREFILL, col.DECODE, col.CONTEXT, col.SINCE]].any()
        assert not world.settle()

    def test_one_that_was_never_charged(self):
        assert not settle(PodTable(), "never seen", 1.0)

    def test_speed_is_learned(self):
        world = World()
        before = world.table.model(POOL).output
        world.settle(output_tokens=5000)
        assert world.table.model(POOL).output > before
        assert world.of(col.PREFILL_RATE) < col.INITIAL_PREFILL_RATE

    def test_of_a_failure_nothing_is(self):
        world = World()
        world.settle(ok=False, output_tokens=5000)
        assert world.table.model(POOL).output == 256.0
        assert world.of(col.FAILURES) == 1.0
        assert world.of(col.FAILURES, 1) == 0.0

    def test_tries_before_the_last_failed(self):
        world = World(prefix=Prefix((1, 2), 2000, (0, 1000, 2000)))
        world.settle(tries=3)
        assert [world.of(col.FAILURES, tried) for tried in range(4)] == [1.0, 1.0, 0.0, 0.0]
        # And the last has the prompt now.
        for tried, uncached in ((1, 2000.0), (2, 0.0)):
            only = frozenset({world.order.addresses[tried]})
            assert place(world.table, POOL, replace(world.ask, only=only), 5.0, Dice(1)).uncached == uncached

    def test_a_pod_may_be_named_that_was_not_planned(self):
        world = World()
        world.table.fail(world.table.slot(POOL, PODS[3]), 2.0)
        world.settle(tries=2, address=PODS[3])
        assert world.table.data[col.FAILURES, world.table.slot(POOL, PODS[3])] == 0.0

    def test_a_pod_that_is_gone_is_nobody(self):
        world = World()
        world.table.update([pool_of(POOL, [pod for pod in PODS if pod != world.order.addresses[0]])], 2.0)
        assert world.settle()
        assert not world.table.data[col.FAILURES].any()

    def test_hits_that_do_not_come_true_are_doubted(self):
        world = World(prefix=Prefix((1, 2), 2000, (0, 1000, 2000)))
        world.settle(cached_tokens=0)
        order = place(world.table, POOL, world.ask, 5.0, Dice(1))
        charge(world.table, POOL, "r", order, world.ask, 5.0)
        world.settle(cached_tokens=0)
        assert world.of(col.HIT_TRUST) == pytest.approx(0.95)

    def test_no_order_on_pods_that_left(self):
        world = World()
        world.table.update([pool_of(POOL, ["10.9.9.9:1"])], 2.0)
        with pytest.raises(LookupError, match="has no pod"):
            charge(world.table, POOL, "s", world.order, world.ask, 2.0)

    def test_no_place_without_pods(self):
        with pytest.raises(LookupError, match="has no pods"):
            place(PodTable(), POOL, Ask(1), 0.0, Dice(1))


def queues(strategy: str, requests: int = 1500, seed: int = 3) -> tuple[float, float]:
    """Pods that prefill one prompt after another and remember the last 200 blocks: (mean TTFT, share of tokens cached)."""
    chance, dice, table = random.Random(seed), Dice(seed), PodTable(settle=0.0)
    table.update([pool_of(POOL, PODS, balancing=Balancing(strategy=strategy))], 0.0)
    free, caches, running = dict.fromkeys(PODS, 0.0), {pod: {} for pod in PODS}, dict.fromkeys(PODS, 0)
    talks: dict[int, list[int]] = {}
    blocks, order, waited, found, asked = count(), count(), 0.0, 0, 0
    events: list[tuple[float, int, str, tuple]] = [(0.0, next(order), "scrape", ())]
    now = 0.0
    for number in range(requests):
        now += chance.expovariate(16.0)
        heapq.heappush(events, (now, next(order), "ask", (number,)))
    while events:
        now, _, what, said = heapq.heappop(events)
        if what == "scrape":
            for pod in PODS:
                waiting = max(0.0, free[pod] - now) / 0.2
                page = PodSample(now, round(waiting), running[pod], 0.1, kv_capacity=100.0 * 1000)
                table.observe(table.slot(POOL, pod), page, now)
            if events:
                heapq.heappush(events, (now + 0.5, next(order), "scrape", ()))
        elif what == "ask":
            talk = talks.setdefault(chance.randrange(60), [])
            talk += [next(blocks) for _ in range(chance.randint(1, 6))]
            tokens = len(talk) * BLOCK
            ask = Ask(tokens, 200, Prefix(tuple(talk), tokens, range(0, tokens + 1, BLOCK)))
            plan = place(table, POOL, ask, now, dice)
            name, pod = f"r{said[0]}", plan.addresses[0]
            charge(table, POOL, name, plan, ask, now)
            cache = caches[pod]
            hits = next((depth for depth, block in enumerate(talk) if block not in cache), len(talk)) * BLOCK
            for block in talk:
                cache.pop(block, None)
                cache[block] = None
            while len(cache) > 200:
                del cache[next(iter(cache))]
            free[pod] = max(free[pod], now) + 0.01 + 5e-5 * (tokens - hits)
            ttft = free[pod] - now
            waited, found, asked, running[pod] = waited + ttft, found + hits, asked + tokens, running[pod] + 1
            heapq.heappush(events, (free[pod] + 2.0, next(order), "end", (name, pod, ttft, ttft + 2.0, hits)))
            if tokens > 12_000:
                talk.clear()
        else:
            name, pod, ttft, duration, hits = said
            running[pod] -= 1
            assert settle(table, name, now, ttft=ttft, duration=duration, output_tokens=200, cached_tokens=hits)
    assert len(table.ledger) == 0
    return waited / requests, found / asked


def test_a_queueing_simulation_can_drive_it():
    ours, hits = queues("REASONING_AWARE")
    turns, cold = queues("ROUND_ROBIN")
    assert hits > cold + 0.2
    assert ours < 0.7 * turns


def test_the_documented_example_runs(capsys):
    text = DOCS.read_text(encoding="utf-8")
    section = text[text.index("## The small API") :]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    exec(compile(code[1], str(DOCS), "exec"), {})
    shown = re.search(r"```\n(.*?)```", section[code.end() :], re.DOTALL)
    assert shown is not None
    assert capsys.readouterr().out == shown[1]
