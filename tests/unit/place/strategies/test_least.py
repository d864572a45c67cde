from collections import Counter

from support_strategies import OnePool


class TestLeastRequest:
    def test_the_fewest(self):
        pool = OnePool("LEAST_REQUEST", 3)
        for number, running in enumerate((5, 2, 4)):
            pool.say(number, running=running)
        assert [pool.send() for _ in range(3)][:1] == [1]
        assert pool.order().addresses[-1] == "10.0.0.0:80"

    def test_without_readings_by_its_own_count(self):
        pool = OnePool("LEAST_REQUEST", 3)
        assert Counter(pool.send() for _ in range(30)) == {0: 10, 1: 10, 2: 10}

    def test_equals_at_random(self):
        assert len({OnePool("LEAST_REQUEST", 8, seed=seed).first() for seed in range(20)}) > 3

    def test_a_full_cache_counts(self):
        pool = OnePool("LEAST_REQUEST", 2)
        pool.say(0, running=10, kv=0.98)
        pool.say(1, running=12, kv=0.2)
        assert pool.first() == 1


class TestPowerOfTwo:
    def test_of_two_the_better(self):
        pool = OnePool("POWER_OF_TWO", 4)
        pool.say(0, running=20)
        for number in (1, 2, 3):
            pool.say(number, running=1)
        # It is never the better one, whoever the other is.
        assert pool.shares(300)[0] == 0

    def test_only_two_are_looked_at(self):
        pool = OnePool("POWER_OF_TWO", 8)
        pool.say(0, running=0)
        for number in range(1, 8):
            pool.say(number, running=10)
        taken = pool.shares(2000)[0]
        # In 1 - (7 x 6) / (8 x 7) = 1/4 of the draws.
        assert 430 < taken < 570

    def test_slow_pods_get_less(self):
        pool = OnePool("POWER_OF_TWO", 4)
        for _ in range(400):
            number = pool.send()
            pool.answer(number, 3.0 if number == 0 else 1.0)
        assert pool.shares(400)[0] < 40

    def test_long_answers_are_not_slowness(self):
        pool = OnePool("POWER_OF_TWO", 2)
        for _ in range(300):
            number = pool.send()
            pool.answer(number, *((10.0, 1000) if number == 0 else (1.32, 104)))
        shares = pool.shares(300)
        assert min(shares.values()) > 100

    def test_a_failed_pod_wastes_no_choice(self):
        pool = OnePool("POWER_OF_TWO", 3)
        pool.breaks(0)
        pool.say(1, running=5)
        pool.say(2, running=1)
        assert {pool.first() for _ in range(50)} == {2}

    def test_tries_after_the_first_are_the_next_best(self):
        pool = OnePool("POWER_OF_TWO", 4)
        for number, running in enumerate((1, 3, 5, 7)):
            pool.say(number, running=running)
        orders = {pool.order().addresses for _ in range(100)}
        assert all(set(order) == {f"10.0.0.{number}:80" for number in range(4)} for order in orders)
        assert all(order[2:] == tuple(sorted(order[2:])) for order in orders)

    def test_one_pod(self):
        assert OnePool("POWER_OF_TWO", 1).send() == 0


class TestKVAware:
    def test_the_emptiest(self):
        pool = OnePool("KV_AWARE", 3)
        for number, kv in enumerate((0.5, 0.2, 0.4)):
            pool.say(number, kv=kv, kv_capacity=100_000)
        assert pool.first() == 1

    def test_what_was_sent_since_counts(self):
        pool = OnePool("KV_AWARE", 2)
        pool.say(0, kv=0.30, kv_capacity=100_000)
        pool.say(1, kv=0.35, kv_capacity=100_000)
        # 11,000 tokens of 100,000 are 0.11.
        assert [pool.send(input_tokens=10_000, output_tokens=1000) for _ in range(3)] == [0, 1, 0]

    def test_capacity_counts(self):
        pool = OnePool("KV_AWARE", 2)
        pool.say(0, kv=0.10, kv_capacity=50_000)
        pool.say(1, kv=0.15, kv_capacity=500_000)
        assert pool.first(input_tokens=10_000) == 1
        assert pool.first(input_tokens=10, output_tokens=0) == 0

    def test_who_does_not_say_counts_as_the_others(self):
        pool = OnePool("KV_AWARE", 3)
        pool.say(0, kv=0.3, kv_capacity=1000)
        pool.say(1, kv=0.1)
        pool.say(2, kv=0.2, kv_capacity=1000)
        assert pool.first(input_tokens=100) == 1

    def test_stale_readings_fade(self):
        pool = OnePool("KV_AWARE", 2)
        pool.say(0, kv=0.9, kv_capacity=100_000)
        pool.now += 600.0
        assert len({pool.first() for _ in range(50)}) == 2

    def test_nothing_known_is_at_random(self):
        assert len({OnePool("KV_AWARE", 8, seed=seed).first() for seed in range(20)}) > 3
