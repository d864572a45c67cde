import math

import pytest

from ralb.v1.snapshot_pb2 import Endpoint, Pool
from ralb_extproc.place import FlightInfo, PodSample, PodTable, hash_blocks
from ralb_extproc.place import columns as col
from ralb_extproc.place import pods as pods_module


def pool(pool_id="ns/p", count=2, first=0, cap=0):
    endpoints = [Endpoint(address=f"10.0.0.{i}:80") for i in range(first, first + count)]
    return Pool(id=pool_id, endpoints=endpoints, concurrency_per_replica=cap, metrics_path="/metrics")


def table(*pools, **options):
    out = PodTable(**options)
    out.update(pools or [pool()], 0.0)
    return out


def state(pods, slot, *columns):
    return [float(pods.data[c, slot]) for c in columns]


class TestUpdate:
    def test_survivors_keep_slot_and_state(self):
        pods = table(pool(count=3))
        slot = pods.slot("ns/p", "10.0.0.1:80")
        pods.observe(slot, PodSample(1.0, 5, 6), 1.0)
        pods.begin("r", slot, 100, 10, 1.0)
        change = pods.update([pool(count=3, first=1)], 2.0)
        assert pods.slot("ns/p", "10.0.0.1:80") == slot
        assert state(pods, slot, col.WAITING, col.RUNNING, col.INFLIGHT) == [5, 6, 1]
        assert (len(change.added), len(change.dropped)) == (1, 1)
        assert pods.slot("ns/p", "10.0.0.0:80") is None

    def test_same_address_in_two_pools_is_two_rows(self):
        pods = table(pool("ns/a"), pool("ns/b"))
        assert pods.slot("ns/a", "10.0.0.0:80") != pods.slot("ns/b", "10.0.0.0:80")
        assert len(pods) == 4

    def test_new_pool_is_adjacent_and_late_joiners_start_slowly(self):
        pods = table(pool(count=5))
        assert isinstance(pods.view("ns/p").select, slice)
        assert all(pods.data[col.FIRST_SEEN, s] == -math.inf for s in pods.view("ns/p").slots)
        pods.update([pool(count=6)], 7.0)
        assert pods.data[col.FIRST_SEEN, pods.slot("ns/p", "10.0.0.5:80")] == 7.0

    def test_fragmented_pool_still_reads_its_own_rows(self):
        pods = table(pool("ns/a", 3), pool("ns/b", 3), pool("ns/c", 10))
        pods.update([pool("ns/a", 6), pool("ns/c", 10), pool("ns/d", 3, first=50)], 1.0)
        for view in pods.views():
            for i, (address, slot) in enumerate(zip(view.addresses, view.slots, strict=True)):
                assert pods.slot(view.pool, address) == slot
                pods.data[col.WAITING, slot] = slot
                assert pods.block(view)[col.WAITING, i] == slot

    def test_growth_keeps_state(self):
        pods = table(pool(count=2))
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.begin("r", slot, 7, 3, 0.0)
        pods.update([pool(count=200)], 1.0)
        assert len(pods) == 200
        assert state(pods, slot, col.INFLIGHT, col.PREFILL, col.DECODE) == [1, 7, 3]

    def test_pool_gone(self):
        pods = table()
        pods.update([], 1.0)
        assert pods.view("ns/p") is None
        assert len(pods) == 0

    def test_too_many_pods_are_refused_and_counted(self, monkeypatch):
        monkeypatch.setattr(pods_module, "MAX_PODS", 3)
        pods = PodTable()
        change = pods.update([pool("ns/a", 2), pool("ns/b", 5)], 0.0)
        assert (len(pods), change.refused) == (3, 4)

    def test_unchanged_pool_keeps_its_view(self):
        pods = table()
        view = pods.view("ns/p")
        pods.update([pool(), pool("ns/q")], 1.0)
        assert pods.view("ns/p") is view

    def test_cap_change_is_taken_over(self):
        pods = table()
        pods.update([pool(cap=9)], 1.0)
        assert pods.view("ns/p").cap == 9


class TestFlights:
    def test_begin_and_finish_balance(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.begin("a", slot, 100, 10, 0.0)
        pods.begin("b", slot, 50, 5, 0.0)
        assert state(pods, slot, col.INFLIGHT, col.PREFILL, col.DECODE, col.SINCE, col.SEEN) == [2, 150, 15, 2, 2]
        assert pods.finish("a").prefill == 100
        assert state(pods, slot, col.INFLIGHT, col.PREFILL, col.DECODE, col.SINCE, col.SEEN) == [1, 50, 5, 1, 1]
        assert pods.finish("a") is None
        pods.finish("b")
        assert state(pods, slot, col.INFLIGHT, col.PREFILL, col.DECODE, col.SINCE, col.SEEN) == [0, 0, 0, 0, 0]

    def test_first_token_releases_prefill_once(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.begin("a", slot, 100, 10, 0.0)
        pods.first_token("a")
        pods.first_token("a")
        pods.first_token("unknown")
        assert state(pods, slot, col.PREFILL, col.DECODE, col.INFLIGHT) == [0, 10, 1]
        pods.finish("a")
        assert state(pods, slot, col.PREFILL, col.DECODE, col.INFLIGHT) == [0, 0, 0]

    def test_same_id_again_releases_the_first(self):
        pods = table()
        a, b = (pods.slot("ns/p", f"10.0.0.{i}:80") for i in (0, 1))
        pods.begin("x", a, 10, 1, 0.0)
        pods.begin("x", b, 20, 2, 0.0)
        assert pods.data[col.INFLIGHT, a] == 0
        assert pods.data[col.INFLIGHT, b] == 1
        assert (len(pods.ledger), pods.lost) == (1, 1)

    def test_full_ledger_lets_the_oldest_go(self):
        pods = table(ledger_limit=3)
        slot = pods.slot("ns/p", "10.0.0.0:80")
        for i in range(5):
            pods.begin(str(i), slot, 1, 1, float(i))
        assert (len(pods.ledger), pods.lost) == (3, 2)
        assert pods.data[col.INFLIGHT, slot] == 3
        assert pods.finish("0") is None
        assert pods.finish("4") is not None

    def test_sweep_releases_what_is_too_old(self):
        pods = table(ttl=10.0)
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.begin("old", slot, 1, 1, 0.0)
        pods.begin("new", slot, 1, 1, 5.0)
        assert pods.sweep(9.9) == 0
        assert pods.sweep(10.0) == 1
        assert pods.data[col.INFLIGHT, slot] == 1
        assert pods.finish("old") is None

    def test_a_gone_pods_flight_does_not_touch_its_successor(self):
        pods = table(pool(count=1))
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.begin("r", slot, 100, 10, 0.0)
        pods.update([pool(count=1, first=9)], 1.0)
        assert pods.slot("ns/p", "10.0.0.9:80") == slot
        assert pods.data[col.INFLIGHT, slot] == 0
        pods.begin("s", slot, 5, 5, 1.0)
        pods.first_token("r")
        assert pods.finish("r") is not None
        assert state(pods, slot, col.INFLIGHT, col.PREFILL, col.DECODE, col.SINCE) == [1, 5, 5, 1]

    def test_flight_without_a_pod(self):
        pods = table()
        info = FlightInfo(pool="ns/service")
        pods.begin("r", -1, 10, 10, 0.0, info)
        pods.first_token("r")
        assert pods.finish("r").info is info
        assert not pods.data[col.INFLIGHT].any()

    def test_backlog_drains_at_the_learned_rate(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.begin("a", slot, 10_000, 1, 0.0)
        pods.begin("b", slot, 10_000, 1, 0.5)
        assert pods.ledger.get("b").ahead == pytest.approx(5_000)
        pods.begin("c", slot, 1, 1, 100.0)
        assert pods.ledger.get("c").ahead == 0


class TestObserve:
    def test_since_counts_what_the_reading_cannot_have_seen(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.begin("before", slot, 1, 1, 1.0)
        pods.begin("just before", slot, 1, 1, 1.99)
        pods.begin("after", slot, 1, 1, 2.05)
        pods.observe(slot, PodSample(2.0, 3, 4), 2.1)
        assert state(pods, slot, col.SINCE, col.SEEN, col.SCRAPED_AT) == [2, 9, 2.0]
        pods.finish("before")  # the reading counted it
        assert state(pods, slot, col.SINCE, col.SEEN) == [2, 8]
        pods.finish("after")
        assert state(pods, slot, col.SINCE, col.SEEN) == [1, 7]
        pods.observe(slot, PodSample(3.0, 1, 1), 3.0)
        assert state(pods, slot, col.SINCE, col.SEEN) == [0, 2]

    def test_reading_without_load_leaves_the_old_one_to_age(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.observe(slot, PodSample(1.0, 3, 4, 0.5), 1.0)
        pods.observe(slot, PodSample(2.0, None, 9, 0.7, missing=("vllm:num_requests_waiting",)), 2.0)
        assert state(pods, slot, col.WAITING, col.RUNNING, col.KV_USAGE, col.SCRAPED_AT) == [3, 4, 0.7, 1.0]

    def test_prefix_rates(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        for i in range(200):
            pods.observe(slot, PodSample(float(i), 0, 0, prefix_queries=100.0 * i, prefix_hits=25.0 * i), float(i))
        assert pods.data[col.QUERY_RATE, slot] == pytest.approx(100, rel=0.01)
        assert pods.data[col.HIT_RATE, slot] == pytest.approx(25, rel=0.01)

    def test_counters_that_fall_mean_a_restart(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        prompt = hash_blocks(b"x" * 1000)
        pods.record_prefix(prompt, slot)
        pods.observe(slot, PodSample(1.0, 0, 0, prefix_queries=100, prefix_hits=50), 1.0)
        assert pods.prefix_hits(prompt, pods.view("ns/p"), 1000)[0] > 0
        pods.observe(slot, PodSample(2.0, 0, 0, prefix_queries=5, prefix_hits=0), 2.0)
        assert pods.prefix_hits(prompt, pods.view("ns/p"), 1000) is None
        assert pods.data[col.FIRST_SEEN, slot] == 2.0

    def test_unknown_slots_are_ignored(self):
        pods = table()
        before = pods.data.copy()
        pods.observe(15, PodSample(1.0, 1, 1), 1.0)
        pods.observe(999, PodSample(1.0, 1, 1), 1.0)
        pods.fail(999, 1.0)
        pods.succeed(-1, 1.0)
        pods.unreachable(999, 1.0)
        pods.learn_hits(999, 1.0, 1.0)
        assert (pods.data == before).all()


class TestPrefixes:
    def test_each_pool_has_its_own(self):
        pods = table(pool("ns/p"), pool("ns/q"))
        prompt = hash_blocks(b"x" * 1000)
        pods.record_prefix(prompt, pods.slot("ns/p", "10.0.0.0:80"))
        assert pods.prefix_hits(prompt, pods.view("ns/p"), 1000).tolist() == [768, 0]
        assert pods.prefix_hits(prompt, pods.view("ns/q"), 1000) is None
        pods.record_prefix(prompt, -1)
        assert pods.prefix_entries == 3
        pods.update([pool("ns/q")], 1.0)
        assert pods.prefix_entries == 0

    def test_index_follows_the_size_of_the_caches(self):
        pods = table(pool(count=4))
        first, other = (hash_blocks(letter * 4096) for letter in (b"x", b"y"))
        slots = [pods.slot("ns/p", f"10.0.0.{i}:80") for i in range(4)]
        pods.observe(slots[0], PodSample(1.0, 0, 0, kv_capacity=1500.0), 1.0)
        pods.observe(slots[1], PodSample(1.0, 0, 0, kv_capacity=5000.0), 1.0)
        for slot in slots:
            for prompt in (first, other):
                pods.record_prefix(prompt, slot, 1000)
        # 1,500 tokens hold one and a half, 5,000 both; those that do not say count as the others on average.
        held = pods.prefix_hits(first, pods.view("ns/p"), 1000)
        assert 300 < held[0] < 600
        assert held[1:].tolist() == [1000] * 3


class TestFailures:
    def test_probe_comes_later_with_every_failure(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        waits = []
        for _ in range(8):
            pods.fail(slot, 100.0)
            waits.append(float(pods.data[col.PROBE_AT, slot]) - 100.0)
        assert waits == [0.5, 1, 2, 4, 8, 10, 10, 10]
        pods.succeed(slot, 100.0)
        assert state(pods, slot, col.FAILURES, col.PROBE_AT) == [0, -math.inf]

    def test_a_scrape_clears_only_what_the_scraper_found(self):
        pods = table()
        a, b = (pods.slot("ns/p", f"10.0.0.{i}:80") for i in (0, 1))
        pods.unreachable(a, 1.0)
        pods.unreachable(a, 2.0)
        pods.fail(b, 1.0)
        for slot in (a, b):
            pods.observe(slot, PodSample(3.0, 0, 0), 3.0)
        assert pods.data[col.FAILURES, a] == 0
        assert pods.data[col.FAILURES, b] == 1

    def test_an_unreachable_pod_has_lost_its_cache_and_is_still_probed(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        prompt = hash_blocks(b"x" * 1000)
        pods.record_prefix(prompt, slot)
        for second in range(30):
            pods.unreachable(slot, float(second))
        assert pods.prefix_hits(prompt, pods.view("ns/p"), 1000) is None
        assert pods.data[col.PROBE_AT, slot] <= 10.0


class TestLearning:
    def test_prefill_rate_moves_to_the_truth(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        for i in range(300):
            pods.begin("r", slot, 4000, 1, i * 100.0)
            pods.learn_prefill(pods.finish("r"), 2.0)
        assert pods.data[col.PREFILL_RATE, slot] == pytest.approx(2000, rel=0.01)

    def test_replicas_share_their_prefill_rate_and_pools_do_not(self):
        pods = table(pool("ns/p"), pool("ns/q"))
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.begin("r", slot, 4000, 1, 0.0)
        pods.learn_prefill(pods.finish("r"), 2.0)
        rate = pods.data[col.PREFILL_RATE, slot]
        assert rate < col.INITIAL_PREFILL_RATE
        pods.update([pool("ns/p", count=3), pool("ns/q")], 1.0)
        for i in range(3):
            assert pods.data[col.PREFILL_RATE, pods.slot("ns/p", f"10.0.0.{i}:80")] == rate
        assert pods.data[col.PREFILL_RATE, pods.slot("ns/q", "10.0.0.0:80")] == col.INITIAL_PREFILL_RATE

    def test_tiny_prompts_say_nothing(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        pods.begin("r", slot, 10, 1, 0.0)
        pods.learn_prefill(pods.finish("r"), 5.0)
        assert pods.data[col.PREFILL_RATE, slot] == col.INITIAL_PREFILL_RATE

    def test_trust_settles_at_the_share_that_came_true(self):
        pods = table()
        slot = pods.slot("ns/p", "10.0.0.0:80")
        for _ in range(400):
            raw = 1000.0
            pods.learn_hits(slot, raw * col.belief(pods.data)[slot], 300.0)
        assert pods.data[col.HIT_TRUST, slot] == pytest.approx(0.3, rel=0.01)
