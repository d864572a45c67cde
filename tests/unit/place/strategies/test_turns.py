from itertools import pairwise

import pytest
from support_strategies import OnePool


class TestRoundRobin:
    def test_everyone_in_turn(self):
        pool = OnePool("ROUND_ROBIN", 4)
        assert [pool.send() for _ in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]

    def test_asking_takes_no_turn(self):
        pool = OnePool("ROUND_ROBIN", 3)
        assert [pool.first() for _ in range(3)] == [0, 0, 0]

    def test_a_failed_pod_gets_no_arrears(self):
        pool = OnePool("ROUND_ROBIN", 3)
        pool.breaks(1)
        assert [pool.send() for _ in range(4)] == [0, 2, 0, 2]
        pool.works(1)
        assert [pool.send() for _ in range(4)] == [1, 0, 2, 1]

    def test_turns_go_on_when_pods_come(self):
        pool = OnePool("ROUND_ROBIN", 2)
        assert [pool.send() for _ in range(3)] == [0, 1, 0]
        pool.have(range(3))
        pool.now += 600.0  # long past its slow start
        assert [pool.send() for _ in range(4)] == [2, 1, 0, 2]

    def test_a_part_of_the_pool(self):
        pool = OnePool("ROUND_ROBIN", 4)
        only = frozenset({"10.0.0.1:80", "10.0.0.3:80"})
        assert [pool.send(only=only) for _ in range(4)] == [1, 3, 1, 3]


class TestWeightedRoundRobin:
    def test_equals_take_turns(self):
        pool = OnePool("WEIGHTED_ROUND_ROBIN", 3)
        assert [pool.send() for _ in range(6)] == [0, 1, 2, 0, 1, 2]

    def test_shares_follow_speed(self):
        pool = OnePool("WEIGHTED_ROUND_ROBIN", 3)
        for _ in range(200):
            for number, seconds in enumerate((1.0, 1.0, 4.0)):
                pool.table.begin("warm", pool.slot(number), 0, 0, pool.now)
                pool.open.setdefault(f"10.0.0.{number}:80", []).append("warm")
                pool.answer(number, seconds)
        taken = [0, 0, 0]
        for _ in range(900):
            number = pool.send()
            pool.answer(number, (1.0, 1.0, 4.0)[number])
            taken[number] += 1
        # Weights 1 : 1 : 1/4.
        assert taken[0] == pytest.approx(400, abs=5)
        assert taken[2] == pytest.approx(100, abs=5)

    def test_turns_are_spaced(self):
        """A pod of half the weight comes every fifth time, not twice in a row at the end."""
        pool = OnePool("WEIGHTED_ROUND_ROBIN", 3)
        pool.say(0, waiting=1)
        pool.say(1, waiting=1)
        pool.say(2, waiting=3)
        times = [at for at, number in enumerate(pool.send() for _ in range(100)) if number == 2]
        gaps = {later - earlier for earlier, later in pairwise(times)}
        assert len(times) == pytest.approx(20, abs=1)
        assert gaps <= {4, 5, 6}

    def test_shares_follow_queue_and_memory(self):
        pool = OnePool("WEIGHTED_ROUND_ROBIN", 4)
        pool.say(0)
        pool.say(1, waiting=9)
        pool.say(2, kv=0.95)
        pool.say(3)
        shares = pool.shares(1000)
        assert shares[0] == pytest.approx(shares[3], abs=2)
        assert shares[1] == pytest.approx(shares[0] / 10, abs=5)
        assert shares[2] < shares[0] / 2

    def test_stale_queues_are_forgotten(self):
        pool = OnePool("WEIGHTED_ROUND_ROBIN", 2)
        pool.say(0, waiting=9)
        pool.now += 600.0
        assert pool.shares(100) == {0: 50, 1: 50}

    def test_adapters_go_where_they_are(self):
        pool = OnePool("WEIGHTED_ROUND_ROBIN", 2, adapters=("there",))
        pool.say(0)
        pool.say(1, adapters=("there",))
        shares = pool.shares(300, adapter="there")
        assert shares[1] == pytest.approx(200, abs=2)
        assert pool.shares(100, adapter="nowhere") == {0: 50, 1: 50}

    def test_a_pod_that_was_away_gets_no_arrears(self):
        pool = OnePool("WEIGHTED_ROUND_ROBIN", 3)
        pool.breaks(1)
        for _ in range(20):
            assert pool.ask_and_answer() != 1
        pool.works(1)
        assert pool.shares(30)[1] == pytest.approx(10, abs=1)

    def test_a_slow_pod_is_tried_again(self):
        pool = OnePool("WEIGHTED_ROUND_ROBIN", 2)
        for _ in range(200):
            number = pool.send()
            pool.answer(number, (1.0, 20.0)[number])
        slow = pool.shares(100)[1]
        pool.now += 300.0
        assert slow < 30 < pool.shares(100)[1]
