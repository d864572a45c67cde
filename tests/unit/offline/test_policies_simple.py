"""Policies without a cache in mind, the oracle, and hashing."""

from collections import Counter

import pytest
from support_policies import end, page, policy, send, work


def first(made, name, *args, now=0.0, **kwargs):
    return made.place(work(name, *args, **kwargs), now)[0]


def test_round_robin_takes_turns_and_goes_on_when_pods_change():
    made = policy("round-robin", 3)
    orders = [list(made.place(work(f"r{i}"), 0.0)) for i in range(6)]
    assert [order[0] for order in orders[:3]] == [order[0] for order in orders[3:]]
    assert {order[0] for order in orders} == {0, 1, 2}
    assert all((order[1] - order[0]) % 3 == 1 for order in orders)
    made.pods([0, 2], 1.0)
    assert {first(made, f"x{i}") for i in range(2)} == {0, 2}


def test_random_spreads_evenly():
    made = policy("random", 4)
    count = Counter(first(made, f"r{i}") for i in range(4000))
    assert all(850 < count[pod] < 1150 for pod in range(4))


def test_least_request_counts_its_own_and_draws_between_equals():
    made = policy("least-request", 4)
    send(made, "a", to=0)
    send(made, "b", to=2)
    assert {first(made, f"r{i}") for i in range(2)} == {1, 3}
    for name in ("a", "r0", "r1"):
        end(made, name)
    assert list(made.place(work("c"), 0.0))[-1] == 2
    page(made, 0, waiting=100, kv_usage=1.0)  # not read
    assert policy("least-request", 4, seed=1).place(work("r"), 0.0) != policy("least-request", 4, seed=3).place(
        work("r"), 0.0
    )


def test_p2c_never_takes_the_busiest_of_many_and_looks_at_two_only():
    made = policy("p2c", 5)
    for i in range(40):
        send(made, f"busy{i}", to=3)
    chosen = []
    for i in range(300):
        order = made.place(work(f"r{i}"), 0.0)
        chosen.append(order[0])
        assert made.ledger.requests[order[0]] - 1 <= made.ledger.requests[order[1]]
        end(made, f"r{i}")
    assert set(chosen) == {0, 1, 2, 4}
    made = policy("p2c", 5)
    send(made, "one", to=0)
    send(made, "two", to=1)
    assert {first(made, f"r{i}") for i in range(200) if not end(made, f"r{i - 1}")} == {0, 1, 2, 3, 4}


def test_p2c_with_one_pod():
    made = policy("p2c", 1)
    assert list(made.place(work("r"), 0.0)) == [0]


def test_session_hash_sticks_spreads_and_agrees_between_replicas():
    made, other = policy("session-hash", 8, seed=1), policy("session-hash", 8, seed=2)
    homes = {f"s{i}": list(made.place(work(f"r{i}", session=f"s{i}"), 0.0)) for i in range(400)}
    for session, order in homes.items():
        assert list(other.place(work("again", range(30), session=session), 5.0)) == order
    count = Counter(order[0] for order in homes.values())
    assert all(25 < count[pod] < 80 for pod in range(8))


def test_session_hash_moves_only_the_keys_of_the_pod_that_left():
    made = policy("session-hash", 8)
    before = {i: list(made.place(work("r", session=f"s{i}"), 0.0)) for i in range(200)}
    made.pods([0, 1, 2, 4, 5, 6, 7], 1.0)
    for i, order in before.items():
        assert list(made.place(work("r", session=f"s{i}"), 1.0)) == [pod for pod in order if pod != 3]


def test_session_hash_without_a_session_takes_the_head_of_the_prompt():
    made = policy("session-hash", 16)
    head = list(range(21))  # 2048 tokens are the first 21 blocks of 100
    assert len({first(made, f"r{i}", [*head, 1000 + i]) for i in range(30)}) == 1
    assert len({first(made, f"r{i}", [*head[:20], 1000 + i]) for i in range(30)}) > 5
    assert first(made, "short", [1, 2]) == first(made, "short", [1, 2])


def test_session_hash_without_any_key_is_random():
    made = policy("session-hash", 4)
    assert {first(made, f"r{i}") for i in range(60)} == {0, 1, 2, 3}


def test_oracle_takes_the_earliest_completion():
    made = policy("oracle", 4, truth=[3.0, 0.5, 2.0, 0.7])
    assert list(made.place(work("r"), 0.0)) == [1, 3, 2, 0]
    made = policy("oracle", 3, truth=[1.0, 1.0, 2.0])
    assert {first(made, f"r{i}") for i in range(40)} == {0, 1}


class TestSglangLeastLoad:
    def test_no_reports_is_shortest_queue(self):
        made = policy("sglang-least-load", 3)
        send(made, "a", to=0)
        send(made, "b", to=0)
        send(made, "c", to=2, tokens=90_000)
        assert made.scores(0.0) == [2, 0, 1]

    def test_seconds_by_hand(self):
        made = policy("sglang-least-load", 3)
        page(made, 0, waiting=5, kv_usage=0.5)
        page(made, 1, waiting=0, kv_usage=0.9)
        send(made, "a", to=1, tokens=3000)
        send(made, "b", to=2, tokens=9000)  # no report: counts as one mean prompt
        assert made.scores(0.0) == pytest.approx([5 * 1024 / 2000 + 0.15, 3000 / 2000 + 0.15 * 9, 1024 / 2000])
        assert list(made.place(work("r"), 0.0)) == [2, 0, 1]

    def test_full_cache_is_finite(self):
        made = policy("sglang-least-load", 1)
        page(made, 0, kv_usage=1.0)
        assert made.scores(0.0) == pytest.approx([0.15 * 999])

    def test_reports_are_read_every_ten_seconds_and_reset_what_was_sent(self):
        made = policy("sglang-least-load", 2)
        page(made, 0, 0.0)
        page(made, 1, 0.0)
        send(made, "a", to=0, tokens=2000)
        page(made, 0, 9.9, waiting=50)
        assert made.scores(9.9) == [1.0, 0.0]
        page(made, 0, 10.0, waiting=50)
        assert made.scores(10.0) == pytest.approx([50 * 1024 / 2000, 0.0])
        end(made, "a")
        assert made.scores(10.0)[0] == pytest.approx(25.6)  # an end changes nothing before the next report

    def test_a_report_of_over_thirty_seconds_is_void(self):
        made = policy("sglang-least-load", 2)
        page(made, 0, 0.0, kv_usage=0.5)
        page(made, 1, 20.0, kv_usage=0.5)
        assert made.scores(30.0) == pytest.approx([0.15, 0.15])
        assert made.scores(30.1) == pytest.approx([0.0, 0.15])
        assert made.scores(50.1) == [0, 0]
