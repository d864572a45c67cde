"""Policies with the prefix cache in mind: their decisive behaviour, by cases worked out by hand."""

import pytest
from support_policies import BLOCK, end, page, policy, send, work


def first(made, name, blocks=(), **kwargs):
    return made.place(work(name, blocks, **kwargs), 0.0)[0]


class TestLongestPrefix:
    def test_follows_the_prefix_whatever_the_load(self):
        made = policy("longest-prefix", 3)
        send(made, "a", range(4), to=1)
        send(made, "b", range(2), to=2)
        page(made, 1, waiting=1000, kv_usage=1.0)
        assert list(made.place(work("r", range(10)), 0.0)) == [1, 2, 0]
        assert all(first(made, f"r{i}", range(10)) == 1 for i in range(50))

    def test_misses_are_random(self):
        made = policy("longest-prefix", 3)
        assert {first(made, f"r{i}", [1000 + i]) for i in range(60)} == {0, 1, 2}

    def test_remembers_more_than_the_cache_holds(self):
        made = policy("longest-prefix", 2, kv_tokens=BLOCK)
        send(made, "a", range(40), to=1)
        assert made.index.matches(range(40)) == [0, 40]


class TestLlmD:
    def test_blend_by_hand(self):
        made = policy("llm-d", 3)
        send(made, "a", range(6), to=1)
        page(made, 0, waiting=2, kv_usage=0.25)
        page(made, 1, waiting=6, kv_usage=0.5)
        page(made, 2, waiting=5, kv_usage=0.0)
        # queue (6 - q) / 4, KV 1 - usage, prefix 6 of 10
        assert made.scores(range(10)) == pytest.approx([2 + 1.5, 0 + 1 + 1.8, 0.5 + 2])
        assert list(made.place(work("r", range(10)), 0.0)) == [0, 1, 2]
        assert made.index.matches(range(10)) == [10, 6, 0]  # optimistic, at dispatch

    def test_equal_queues_count_one_each(self):
        made = policy("llm-d", 2)
        page(made, 0, waiting=7)
        page(made, 1, waiting=7, kv_usage=1.0)
        assert made.scores(()) == [4.0, 2.0]

    def test_a_burst_between_scrapes_herds(self):
        made = policy("llm-d", 3)
        for pod in range(3):
            page(made, pod, waiting=pod)
        assert {first(made, f"r{i}", [1000 + i]) for i in range(30)} == {0}

    def test_no_more_than_the_tokens_of_the_limit_are_looked_up(self):
        made = policy("llm-d", 2, kv_tokens=10_000_000)
        first(made, "r", range(2000))
        assert len(made.index) == 131_072 // BLOCK


class TestLlmD2026:
    def test_sticks_at_80_percent_even_when_busier(self):
        made = policy("llm-d-2026", 3)
        send(made, "a", range(8), to=1, tokens=200_000)
        assert made.ledger.prefill == [0, 200_000, 0]
        assert first(made, "r", range(10)) == 1
        made = policy("llm-d-2026", 3)
        send(made, "a", range(7), to=1, tokens=200_000)
        assert first(made, "r", range(10)) != 1

    def test_gate_opens_beyond_18_seconds(self):
        at_gate = 18 * 15_928
        for tokens, sticks in ((at_gate, True), (at_gate + 1, False)):
            made = policy("llm-d-2026", 2)
            send(made, "cached", range(8), to=1)
            made.first_token("cached", 0.0)
            send(made, "busy", to=1, tokens=tokens)
            assert (first(made, "r", range(10)) == 1) is sticks

    def test_load_is_uncached_tokens_until_the_first_token(self):
        made = policy("llm-d-2026", 2)
        send(made, "a", range(10), to=0)
        send(made, "b", range(8), to=0)  # a full hit costs nothing
        assert made.ledger.prefill == [1000, 0]
        assert first(made, "miss", [900], tokens=50) == 1
        made.first_token("a", 0.0)
        assert first(made, "miss2", [901], tokens=50) == 0

    def test_no_page_is_read(self):
        made = policy("llm-d-2026", 2)
        send(made, "a", to=1, tokens=10)
        page(made, 0, waiting=100, kv_usage=1.0)
        assert first(made, "r") == 0


class TestSglang:
    def busy(self, requests, other):
        """Pod 0 holds the prefix and ``requests`` in flight, pod 1 ``other``."""
        made = policy("sglang", 2)
        send(made, "warm", range(10), to=0)
        end(made, "warm")
        for pod, count in ((0, requests), (1, other)):
            for i in range(count):
                send(made, f"{pod}-{i}", to=pod)
        return made

    def test_hit_wins_while_balanced(self):
        assert first(self.busy(64, 0), "r", range(10)) == 0

    def test_both_thresholds_must_be_passed_to_switch_to_least_load(self):
        assert first(self.busy(65, 0), "r", range(10)) == 1
        assert first(self.busy(200, 135), "r", range(10)) == 0  # 65 apart, but under 1.5 times
        assert first(self.busy(200, 133), "r", range(10)) == 1

    def test_what_least_load_took_enters_the_tree(self):
        made = self.busy(65, 0)
        first(made, "r", range(10))
        assert made.index.matches(range(10)) == [10, 10]

    def test_match_of_at_most_the_threshold_goes_to_least_load(self):
        made = policy("sglang", 3)
        send(made, "a", range(4), to=0)
        assert first(made, "at", [0, 1, 2, 70, 71, 72, 73, 74, 75, 76]) != 0
        assert first(made, "over", [0, 1, 2, 3, 90, 91, 92, 93, 94, 95]) == 0

    def test_partial_blocks_count_in_the_ratio(self):
        made = policy("sglang", 2)
        send(made, "a", range(4), to=0)
        assert first(made, "r", range(4), tokens=1334) == 1  # 400 of 1334 tokens

    def test_longest_match_then_least_load(self):
        made = policy("sglang", 3)
        send(made, "a", range(8), to=0)
        send(made, "b", range(8), to=2)
        send(made, "c", range(5), to=1)
        send(made, "d", [999], to=0)
        assert first(made, "r", range(8)) == 2


class TestDynamo:
    def test_cost_by_hand(self):
        made = policy("dynamo", 3)
        send(made, "a", range(10), to=0)
        send(made, "b", [50, 51], to=1, tokens=250)
        asked = work("r", [0, 1, 2, 3, 60], tokens=520)
        matches = made.index.matches(asked.blocks)
        assert matches == [4, 0, 0]
        expected = [
            (1000 + 520 - 400) + (1000 + 120),  # prefill waiting, less the hit; blocks 0 to 3 are held already
            (250 + 520) + (250 + 520),
            520 + 520,
        ]
        assert made.costs(asked, matches) == pytest.approx([tokens / 16 for tokens in expected])

    def test_prefill_is_released_at_the_first_token_and_decode_at_the_end(self):
        made = policy("dynamo", 2)
        asked = work("r", [70], tokens=160)
        send(made, "a", range(10), to=0)
        costs = [made.costs(asked, [0, 0])]
        made.first_token("a", 1.0)
        costs.append(made.costs(asked, [0, 0]))
        end(made, "a")
        costs.append(made.costs(asked, [0, 0]))
        assert costs == [[20 + 125, 20], [20 + 62.5, 20], [20, 20]]

    def test_credit_never_makes_prefill_negative(self):
        made = policy("dynamo", 1)
        assert made.costs(work("r", range(3), tokens=300), [9]) == [300 / 16]

    def test_a_hit_is_given_up_for_more_decode_blocks_than_it_saves(self):
        made = policy("dynamo", 2, kv_tokens=10_000_000)
        send(made, "warm", range(10), to=0)
        made.first_token("warm", 0.0)
        end(made, "warm")
        for i, other in enumerate((900, 200)):
            send(made, f"d{i}", to=0, tokens=other)
            made.first_token(f"d{i}", 0.0)
            assert first(made, f"r{i}", range(10)) == (0, 1)[i]
            end(made, f"r{i}")

    def test_lmetric_multiplies(self):
        made = policy("dynamo-lmetric", 2)
        send(made, "a", range(10), to=0)
        asked = work("r", [70], tokens=160)
        assert made.costs(asked, [0, 0]) == pytest.approx([72.5 * 73.5, 10 * 11])
        made.first_token("a", 1.0)
        assert made.costs(asked, [0, 0]) == pytest.approx([10 * 73.5, 10 * 11])


class TestAibrix:
    def loaded(self, *requests):
        made = policy("aibrix", len(requests))
        for pod, count in enumerate(requests):
            for i in range(count):
                send(made, f"{pod}-{i}", to=pod)
        return made

    def warm(self, made, blocks, pod):
        send(made, "warm", blocks, to=pod)
        end(made, "warm")

    def test_spread_over_eight_goes_to_the_fewest_requests(self):
        for most, chosen in ((8, 0), (9, 3)):
            made = self.loaded(most, most, most, 0)
            self.warm(made, range(10), 0)
            assert first(made, "r", range(10)) == chosen

    def test_best_match_within_one_deviation(self):
        made = self.loaded(4, 0, 0, 0)  # mean 1, deviation 1.73: pod 0 is above, pod 1 not
        self.warm(made, range(10), 0)
        self.warm(made, range(5), 1)
        assert first(made, "r", range(10)) == 1
        made = self.loaded(4, 4, 0, 0)  # mean 2, deviation 2: the limit itself is within
        self.warm(made, range(10), 0)
        assert first(made, "r", range(10)) == 0

    def test_equal_matches_take_the_fewer_requests(self):
        made = self.loaded(2, 1, 2)
        for pod in range(3):
            self.warm(made, range(10), pod)
        assert first(made, "r", range(10)) == 1

    def test_no_match_takes_the_fewest_requests(self):
        made = self.loaded(2, 1, 2)
        assert first(made, "r", [77]) == 1

    def test_pages_are_not_read(self):
        made = self.loaded(0, 1)
        page(made, 0, running=50)
        assert first(made, "r", [77]) == 0


class TestProduct:
    def test_product_by_hand(self):
        made = policy("product", 3)
        send(made, "a", range(6), to=0)
        send(made, "b", to=0)
        send(made, "c", to=1)
        # 401 x 3, 1001 x 2, 1001 x 1
        assert list(made.place(work("r", range(10)), 0.0)) == [2, 0, 1]
        made = policy("product", 3)
        send(made, "a", range(6), to=0)
        # 401 x 2 against 1001
        assert first(made, "r", range(10)) == 0

    def test_lmetric_sees_the_prompts_that_wait(self):
        for name, chosen in (("product", 0), ("lmetric", 1)):
            made = policy(name, 2)
            send(made, "long", range(30), to=0)
            for i in range(3):
                send(made, f"short{i}", to=1, tokens=10)
            # product 401 x 2 against 1001 x 4; lmetric 3401 x 2 against 1031 x 4
            assert first(made, "r", [*range(6), 60, 61, 62, 63]) == chosen
        made.first_token("long", 0.0)
        made.first_token("r", 0.0)
        assert first(made, "r2", [*range(6), 80, 81, 82, 83]) == 0
