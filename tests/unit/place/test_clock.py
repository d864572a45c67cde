"""How long the prefill queued on a pod takes, and how slow the pod is: foreseen, then set right by what it says."""

import random

import pytest
from support_strategies import ASK, OnePool

from ralb_extproc.place import PodSample
from ralb_extproc.place import columns as col
from ralb_extproc.place.clock import Clock
from ralb_extproc.place.model import Note, SpeedModel

NOW = 1000.0
LONG = 8000.0


class OneClock:
    """The clocks of some pods, told by hand."""

    def __init__(self, pods: int = 1) -> None:
        self.clock = Clock()
        self.model = SpeedModel()
        self.data = col.empty(pods)
        self.cells = col.cells(self.data)
        self.now = NOW

    def note(self, slot: int = 0, uncached: float = LONG, cached: float = 0.0) -> Note:
        return self.clock.note(self.cells, slot, cached, uncached, self.now)

    def send(self, slot: int = 0, uncached: float = LONG) -> None:
        self.clock.placed(self.cells, slot, self.note(slot, uncached), self.model, self.now)

    def read(self, waiting: float, at: float | None = None, slot: int = 0) -> None:
        self.clock.read(self.cells, slot, waiting, self.now if at is None else at, self.model)

    @property
    def wait(self) -> float:
        return self.note().wait

    @property
    def each(self) -> float:
        """Seconds of one long prompt."""
        return self.model.own_prefill(0.0, LONG)


class TestWait:
    def test_nobody_waits_for_nothing(self):
        assert OneClock().wait == 0.0

    def test_each_prompt_waits_for_those_before_it(self):
        one = OneClock()
        one.send()
        first = one.wait
        assert one.each <= first <= one.each + one.model.step(0, 0)
        one.send()
        assert one.wait == pytest.approx(first + one.each)  # the step is joined once

    def test_it_drains(self):
        one = OneClock()
        one.send()
        before = one.wait
        one.now += 0.1
        assert one.wait == pytest.approx(before - 0.1)
        one.now += 100.0
        assert one.wait == 0.0

    def test_a_slow_pod_takes_longer(self):
        one = OneClock(2)
        one.data[col.FACTOR, 1] = 3.0
        for slot in (0, 1):
            one.send(slot)
        assert one.note(1).wait == pytest.approx(3.0 * one.note(0).wait)

    def test_pods_do_not_share_a_clock(self):
        one = OneClock(2)
        one.send(0)
        assert one.note(1).wait == 0.0


class TestReadings:
    def test_nobody_waiting_ends_the_wait(self):
        """Foreseen were four prompts; all of them are in the batch by now, so at most the last is still computed."""
        one = OneClock()
        for _ in range(4):
            one.send()
        one.now += 0.01
        one.read(0)
        assert one.wait == pytest.approx(one.each)

    def test_those_waiting_are_the_latest_of_ours(self):
        one = OneClock()
        for uncached in (100.0, 100.0, LONG, LONG):
            one.send(uncached=uncached)
        one.now += 60.0  # much longer than foreseen
        assert one.wait == 0.0
        one.read(2)
        assert one.wait == pytest.approx(2 * one.each)

    def test_strangers_waiting_count_as_usual_ones(self):
        one = OneClock()
        one.model.prefill = 0.2
        one.read(3)
        assert one.wait == pytest.approx(0.6)

    def test_a_reading_says_nothing_of_what_was_sent_since(self):
        one = OneClock()
        one.send()
        one.now += 5.0
        one.send()
        before = one.wait
        one.read(0, at=one.now - 1.0)
        assert one.wait == pytest.approx(before)

    def test_what_was_sent_since_comes_after_those_who_wait(self):
        one = OneClock()
        one.send()
        one.now += 5.0
        one.send()
        one.read(1, at=one.now - 0.01)
        assert one.wait == pytest.approx(2 * one.each, abs=0.02)

    def test_as_foreseen_nothing_changes(self):
        one = OneClock()
        one.send()
        one.send()
        one.now += 0.05
        before = one.wait
        one.read(1)
        assert one.wait == pytest.approx(before)

    @pytest.mark.parametrize("waiting", [1e300, 1e9])
    def test_no_queue_is_endless(self, waiting):
        one = OneClock()
        one.read(waiting)
        assert one.wait <= 1e6 * one.model.prefill


class TestNote:
    def test_requests_are_as_seen_or_at_least_ours(self):
        one = OneClock()
        one.data[[col.SEEN, col.INFLIGHT], 0] = 9.0, 4.0
        assert one.note().requests == 9.0
        one.data[col.INFLIGHT, 0] = 12.0
        assert one.note().requests == 12.0

    def test_context_is_what_the_cache_holds_and_what_was_sent_since(self):
        one = OneClock()
        one.data[[col.KV_CAPACITY, col.KV_USAGE, col.SINCE_TOKENS, col.CONTEXT], 0] = 10_000.0, 0.5, 700.0, 99.0
        assert one.note().context == pytest.approx(5700.0)

    def test_where_a_pod_does_not_say_it_is_what_we_sent(self):
        one = OneClock()
        one.data[[col.SINCE_TOKENS, col.CONTEXT], 0] = 700.0, 900.0
        assert one.note().context == 900.0

    @pytest.mark.parametrize(
        ("column", "value", "clear"),
        [(col.WAITING, 1.0, False), (col.KV_USAGE, 0.9, False), (col.KV_USAGE, 0.8, True), (col.RUNNING, 50.0, True)],
    )
    def test_a_queue_or_a_full_cache_is_not_clear(self, column, value, clear):
        one = OneClock()
        one.data[col.KV_CAPACITY, 0] = 10_000.0
        one.data[column, 0] = value
        assert one.note().clear is clear


class TestFactor:
    def served(self, paces: list[float], *, noise: float, count: int = 3000, seed: int = 1) -> list[list[float]]:
        """Factors of pods that take so many times as long as any, after each of the last answers."""
        dice, one = random.Random(seed), OneClock(len(paces))
        last = []
        for number in range(count):
            slot = dice.randrange(len(paces))
            one.data[[col.SEEN, col.CONTEXT], slot] = requests, context = dice.uniform(1, 60), dice.uniform(1e3, 1e5)
            output = dice.randint(20, 400)
            each = paces[slot] * (0.01 + 1e-4 * requests + 5e-8 * context) * dice.lognormvariate(0.0, noise)
            ttft = 0.05 * paces[slot]
            note = one.note(slot, 500.0)
            ratio = one.model.served(note, requests, ttft, ttft + each * (output - 1), output, None)
            assert ratio is not None
            one.clock.served(one.cells, slot, ratio)
            if number >= count - 500:
                last.append(one.data[col.FACTOR].tolist())
        return last

    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_equal_pods_are_equal(self, seed):
        last = self.served([1.0] * 4, noise=0.3, seed=seed)
        assert all(0.95 < factor < 1.05 for factors in last for factor in factors)
        assert sum(factor != 1.0 for factors in last for factor in factors) < 0.05 * 4 * len(last)

    def test_a_pod_three_times_slower(self):
        last = self.served([1.0, 1.0, 1.0, 3.0], noise=0.2)
        means = [sum(column) / len(last) for column in zip(*last, strict=True)]
        assert means[:3] == pytest.approx([1.0] * 3, abs=0.05)
        assert means[3] == pytest.approx(3.0, rel=0.15)

    def test_two_kinds_of_cards(self):
        last = self.served([1.0, 1.0, 2.0, 2.0], noise=0.1)
        means = [sum(column) / len(last) for column in zip(*last, strict=True)]
        assert means[2] / means[0] == pytest.approx(2.0, rel=0.2)

    def test_a_pool_that_is_slow_as_a_whole_has_nobody_slower(self):
        last = self.served([4.0] * 3, noise=0.1)
        assert all(0.9 < factor < 1.1 for factors in last for factor in factors)

    def test_some_tens_of_answers_show_it(self):
        assert self.served([1.0, 1.0, 1.0, 3.0], noise=0.1, count=200)[-1][3] > 1.5

    def test_it_is_bounded(self):
        one = OneClock()
        for ratio in (1e300, 1e-300, 0.0):
            for _ in range(500):
                one.clock.served(one.cells, 0, ratio)
            assert 0.04 < one.data[col.FACTOR, 0] < 21.0

    def test_forgotten(self):
        one = OneClock()
        for _ in range(100):
            one.clock.served(one.cells, 0, 3.0)
        assert one.data[col.FACTOR, 0] > 2.0
        one.clock.forget(0)
        one.clock.served(one.cells, 0, 3.0)
        assert one.data[col.FACTOR, 0] == 1.0


class TestInTheTable:
    def test_a_restarted_pod_has_nothing_to_do(self):
        pool = OnePool("REASONING_AWARE", 2)
        pool.say(0, generation_tokens=100.0)
        for _ in range(3):
            pool.send(ASK, input_tokens=8000, only={"10.0.0.0:80"})
        slot = pool.slot(0)
        pool.table.data[col.FACTOR, slot] = 3.0
        assert pool.table.data[col.FREE_AT, slot] > pool.now
        pool.now += 0.1
        pool.table.observe(slot, PodSample(pool.now, 0, 0, 0.0, generation_tokens=0.0), pool.now)
        assert pool.table.data[col.FREE_AT, slot] <= pool.now
        assert pool.table.data[col.FACTOR, slot] == 1.0

    def test_nothing_in_flight_nothing_to_wait_for(self):
        pool = OnePool("REASONING_AWARE", 1)
        for _ in range(3):
            pool.send(ASK, input_tokens=100_000)
        for _ in range(3):
            pool.answer(0)
        assert pool.table.data[col.FREE_AT, pool.slot(0)] <= pool.now

    def test_a_successor_in_the_slot_starts_afresh(self):
        pool = OnePool("REASONING_AWARE", 1)
        pool.send(ASK, input_tokens=100_000)
        slot = pool.slot(0)
        pool.have([5])
        assert pool.slot(5) == slot
        assert pool.table.data[col.FREE_AT, slot] <= pool.now
