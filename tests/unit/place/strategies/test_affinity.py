import pytest
from support_strategies import OnePool

from ralb_extproc.place import PodSample, hash_blocks
from ralb_extproc.place.strategies import homes
from ralb_extproc.place.strategies.session_affinity import SessionAffinity

PROMPT = hash_blocks(b"a" * 4096)
OTHER = hash_blocks(b"b" * 4096)


class TestPrefixAware:
    def test_the_warm_pod(self):
        pool = OnePool("PREFIX_AWARE", 4)
        home = pool.ask_and_answer(prefix=PROMPT)
        assert {pool.ask_and_answer(prefix=PROMPT) for _ in range(20)} == {home}

    def test_the_longest(self):
        pool = OnePool("PREFIX_AWARE", 3)
        pool.table.record_prefix(hash_blocks(b"a" * 2048), pool.slot(0))
        pool.table.record_prefix(PROMPT, pool.slot(1))
        assert pool.first(prefix=PROMPT) == 1

    def test_not_beyond_the_bound(self):
        pool = OnePool("PREFIX_AWARE", 4)
        for _ in range(40):
            pool.send(prefix=PROMPT)
        assert max(len(names) for names in pool.open.values()) <= 13

    def test_without_hits_the_least_loaded(self):
        pool = OnePool("PREFIX_AWARE", 3)
        for number, running in enumerate((3, 1, 2)):
            pool.say(number, running=running)
        assert pool.first(prefix=OTHER) == 1

    def test_distrusted_hits_count_less(self):
        pool = OnePool("PREFIX_AWARE", 2)
        pool.table.record_prefix(PROMPT, pool.slot(0))
        pool.table.record_prefix(hash_blocks(b"a" * 2048), pool.slot(1))
        for _ in range(200):
            pool.table.learn_hits(pool.slot(0), 500.0, 0.0)
        assert pool.first(prefix=PROMPT) == 1

    def test_key_for_envoy_is_the_prompt(self):
        pool = OnePool("PREFIX_AWARE", 2)
        keys = {pool.strategy_key(prefix=PROMPT, session=session) for session in ("", "a", "b")}
        assert len(keys) == 1
        assert pool.strategy_key(prefix=OTHER) not in keys


class TestSessionAffinity:
    def test_a_session_stays_and_sessions_spread(self):
        pool = OnePool("SESSION_AFFINITY", 4)
        homes = {str(number): pool.ask_and_answer(session=str(number)) for number in range(40)}
        assert len(set(homes.values())) == 4
        assert {session: pool.ask_and_answer(session=session) for session in homes} == homes

    def test_it_stays_when_pods_come(self):
        pool = OnePool("SESSION_AFFINITY", 2)
        homes = {str(number): pool.ask_and_answer(session=str(number)) for number in range(40)}
        pool.have(range(8))
        assert {session: pool.ask_and_answer(session=session) for session in homes} == homes

    def test_processors_agree_on_new_sessions(self):
        one, other = OnePool("SESSION_AFFINITY", 8, seed=1), OnePool("SESSION_AFFINITY", 8, seed=2)
        assert all(one.first(session=str(number)) == other.first(session=str(number)) for number in range(100))

    def test_without_a_session_the_least_loaded(self):
        pool = OnePool("SESSION_AFFINITY", 3)
        for number, running in enumerate((3, 1, 2)):
            pool.say(number, running=running)
        assert pool.first() == 1
        assert len({OnePool("SESSION_AFFINITY", 8, seed=seed).first() for seed in range(20)}) > 3

    def test_a_failed_pod_does_not_block(self):
        pool = OnePool("SESSION_AFFINITY", 3)
        home = pool.ask_and_answer(session="a")
        pool.breaks(home)
        new = pool.ask_and_answer(session="a")
        assert new != home
        pool.works(home)
        # The conversation is there now.
        assert pool.first(session="a") == new

    def test_a_pod_at_its_cap_does_not_block(self):
        pool = OnePool("SESSION_AFFINITY", 3, cap=2)
        home = pool.ask_and_answer(session="a")
        for _ in range(2):
            pool.table.begin(f"x{_}", pool.slot(home), 0, 0, pool.now)
        assert pool.first(session="a") != home

    def test_a_pod_over_the_bound_does_not_block(self):
        pool = OnePool("SESSION_AFFINITY", 4)
        for _ in range(100):
            pool.send(session="a")
        assert max(len(names) for names in pool.open.values()) <= 38

    def test_every_pod_is_in_the_order(self):
        pool = OnePool("SESSION_AFFINITY", 6)
        home = pool.ask_and_answer(session="a")
        order = pool.order(session="a", want=6).addresses
        assert order[0] == f"10.0.0.{home}:80"
        assert len(set(order)) == 6

    def test_a_restarted_pod_has_lost_it(self):
        pool = OnePool("SESSION_AFFINITY", 8)
        strange = next(str(n) for n in range(50) if pool.first(session=str(n)) != 0)
        usual = pool.first(session=strange)
        only = frozenset({"10.0.0.0:80"})
        assert pool.ask_and_answer(session=strange, only=only) == 0
        assert pool.first(session=strange) == 0
        slot = pool.slot(0)
        for queries in (100.0, 0.0):  # a counter that falls is a new process
            pool.now += 1.0
            pool.table.observe(slot, PodSample(pool.now, 0, 0, 0.0, prefix_queries=queries, prefix_hits=0.0), pool.now)
        assert pool.first(session=strange) == usual

    @pytest.mark.parametrize(("ttl", "after", "there"), [(0.0, 599.0, True), (0.0, 601.0, False), (20.0, 21.0, False)])
    def test_sessions_expire(self, ttl, after, there):
        pool = OnePool("SESSION_AFFINITY", 8, affinity_ttl_s=ttl)
        usual = pool.first(session="a")
        odd = (usual + 1) % 8
        assert pool.ask_and_answer(session="a", only=frozenset({f"10.0.0.{odd}:80"})) == odd
        pool.now += after
        assert pool.first(session="a") == (odd if there else usual)

    def test_memory_is_bounded(self, monkeypatch):
        monkeypatch.setattr(homes, "MAX_SESSIONS", 100)
        pool = OnePool("SESSION_AFFINITY", 2)
        for number in range(1000):
            pool.ask_and_answer(session=str(number))
        strategy = pool.strategy
        assert isinstance(strategy, SessionAffinity)
        assert len(strategy) == 100

    def test_expired_sessions_leave(self):
        pool = OnePool("SESSION_AFFINITY", 2)
        for number in range(100):
            pool.ask_and_answer(session=str(number))
        pool.now += 1000.0
        for _ in range(150):
            pool.ask_and_answer(session="the only one")
        assert len(pool.strategy) == 1
