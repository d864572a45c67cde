"""What the default strategy compares pods by: each term of its cost, alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_strategies import ASK, POOL, OnePool, address

from ralb_extproc.place import Ask, Prefix, hash_blocks
from ralb_extproc.place import columns as col

PROMPT = hash_blocks(b"a" * 8192)
LONG = Ask(input_tokens=8000, output_tokens=100)


def pool_of_two(**settings: object) -> OnePool:
    """Two pods with nothing to do, read just now."""
    pool = OnePool("REASONING_AWARE", 2, **settings)  # type: ignore[arg-type]
    for number in (0, 1):
        pool.say(number, kv_capacity=400_000.0)
    return pool


def costs(pool: OnePool, ask: Ask = ASK) -> list[float]:
    """Seconds, by pod."""
    view = pool.table.view(POOL)
    assert view is not None
    out: list[float] = pool.strategy.costs(pool.table.scene(view, ask, pool.now, pool.dice)).tolist()
    return out


def put(pool: OnePool, column: int, *values: float) -> None:
    """Let the pods be as these values say."""
    for number, value in enumerate(values):
        pool.table.data[column, pool.slot(number)] = value
    pool.now += 0.03  # what is kept for some milliseconds is made again


def only(number: int) -> frozenset[str]:
    return frozenset({address(number)})


def learned(pool: OnePool):
    model = pool.table.model(POOL)
    assert model is not None
    return model


class TestTerms:
    def test_pods_alike_cost_alike(self):
        one, other = costs(pool_of_two())
        assert one == other > 0.0

    def test_wait(self):
        pool = pool_of_two()
        put(pool, col.FREE_AT, -np.inf, pool.now + 0.53)
        learned(pool).gap = 1e9  # nobody comes behind
        one, other = costs(pool)
        assert other - one == pytest.approx(0.5)

    def test_those_who_come_behind_wait_for_the_prefill_too(self):
        pool = pool_of_two()
        put(pool, col.FREE_AT, -np.inf, pool.now + 0.53)
        model = learned(pool)
        prefill = model.own_prefill(0.0, ASK.input_tokens)
        model.gap = 0.05  # of two pods: ten a second each
        one, other = costs(pool)
        assert other - one == pytest.approx(0.5 + 10.0 * 0.5 * prefill)
        known = hash_blocks(bytes(4 * ASK.input_tokens))
        pool.table.record_prefix(known, pool.slot(1), ASK.input_tokens)
        first, warm = costs(pool, replace(ASK, prefix=known))
        assert first == pytest.approx(one)
        assert warm < other

    def test_prefill_is_of_what_is_not_cached(self):
        pool = pool_of_two()
        ask = Ask(2000, 100, PROMPT)
        pool.table.record_prefix(PROMPT, pool.slot(0), 2000)
        one, other = costs(pool, ask)
        assert other - one == pytest.approx(learned(pool).own_prefill(0, 2000), rel=0.05)

    def test_a_pod_without_the_prefix_costs_as_if_nobody_had_it(self):
        pool = pool_of_two()
        put(pool, col.SEEN, 0, 40)
        learned(pool).cached = 0.5 * learned(pool).computed
        before = costs(pool, Ask(2000, 100, PROMPT))
        pool.table.record_prefix(PROMPT, pool.slot(0), 2000)
        after = costs(pool, Ask(2000, 100, PROMPT))
        assert after[0] < before[0]
        assert after[1] == pytest.approx(before[1])

    def test_base_grows_with_requests_and_context(self):
        pool, model = pool_of_two(), SimpleModel()
        put(pool, col.SEEN, 0, 20)
        put(pool, col.KV_USAGE, 0, 0.5)
        one, other = costs(pool, Ask(0, 1))
        assert one == pytest.approx(model.base)
        assert other >= model.base + 20 * model.per_request + 200_000 * model.per_context

    def test_reuse_makes_computing_dearer(self):
        pool = pool_of_two()
        before = costs(pool, LONG)[0]
        model = learned(pool)
        model.cached = 0.5 * model.computed
        assert costs(pool, LONG)[0] - before == pytest.approx(0.5 * model.own_prefill(0, 8000))
        model.cached = 50.0 * model.computed
        assert costs(pool, LONG)[0] - before == pytest.approx(model.own_prefill(0, 8000))  # never more than doubled

    def test_a_prefill_stops_everybody_there(self):
        pool = pool_of_two()
        put(pool, col.SEEN, 0, 40)
        one, other = costs(pool, LONG)
        short, short_other = costs(pool, Ask(1, 100))
        model = learned(pool)
        haste = 0.25 * model.impatience
        assert (other - one) - (short_other - short) == pytest.approx(haste * 40 * model.own_prefill(0, 8000), rel=0.01)

    def test_long_answers_are_dear_where_many_run(self):
        pool = pool_of_two()
        put(pool, col.SEEN, 0, 40)
        short, long = (costs(pool, Ask(1000, output)) for output in (10, 10_000))
        assert long[0] == pytest.approx(short[0])
        model = learned(pool)
        more = 0.25 * model.impatience * 40 * 9990 * model.token_per_request
        assert long[1] - short[1] == pytest.approx(more)

    def test_so_a_warm_pod_that_reasons_is_left_for_a_cold_one_by_long_answers_only(self):
        pool = pool_of_two()
        pool.table.record_prefix(PROMPT, pool.slot(0), 2000)
        put(pool, col.SEEN, 30, 0)
        assert pool.first(Ask(2000, 10, PROMPT)) == 0
        assert pool.first(Ask(2000, 30_000, PROMPT)) == 1

    def test_an_answer_of_unknown_length_is_as_long_as_usual(self):
        pool = pool_of_two()
        put(pool, col.SEEN, 0, 40)
        assert costs(pool, Ask(1000, 0)) == costs(pool, Ask(1000, round(learned(pool).output)))

    def test_haste_is_bounded(self):
        pool = pool_of_two()
        put(pool, col.SEEN, 0, 40)
        model = learned(pool)
        model.ttft, model.duration = 100.0, 1.0
        one, other = costs(pool, Ask(0, 100))
        assert other - one == pytest.approx(40 * (model.per_request + 0.1 * 100 * model.token_per_request))

    def test_factor(self):
        pool = pool_of_two()
        put(pool, col.FACTOR, 1.0, 3.0)
        put(pool, col.BACKLOG_AT, pool.now + 1.0, pool.now + 1.0)  # just sent something
        one, other = costs(pool)
        assert other == pytest.approx(3.0 * one)

    def test_a_wait_is_not_multiplied_again(self):
        pool = pool_of_two()
        put(pool, col.FACTOR, 3.0, 3.0)
        put(pool, col.BACKLOG_AT, pool.now + 1.0, pool.now + 1.0)
        put(pool, col.FREE_AT, -np.inf, pool.now + 0.53)
        learned(pool).gap = 1e9
        one, other = costs(pool)
        assert other - one == pytest.approx(0.5)

    def test_room(self):
        pool = pool_of_two()
        put(pool, col.KV_USAGE, 0.70, 0.99)
        one, other = costs(pool, Ask(6000, 100))
        lacking, duration = 0.99 * 400_000 + 6000 - 400_000, learned(pool).duration
        step = learned(pool).per_context * 0.29 * 400_000
        assert other - one == pytest.approx(lacking * duration / (0.99 * 400_000) + step, rel=0.01)

    def test_room_is_needed_for_those_who_wait_too(self):
        pool = pool_of_two()
        put(pool, col.KV_USAGE, 0.98, 0.98)
        put(pool, col.WAITING, 0, 50)
        one, other = costs(pool)
        model = learned(pool)
        waiting = 50 * model.uncached + 1000 - 0.02 * 400_000
        assert other - one == pytest.approx(waiting * model.duration / (0.98 * 400_000), rel=0.01)

    def test_what_is_cached_needs_no_room(self):
        pool = pool_of_two()
        put(pool, col.KV_USAGE, 0.999, 0.999)
        pool.table.record_prefix(PROMPT, pool.slot(1), 2000)
        one, other = costs(pool, Ask(2000, 100, PROMPT))
        assert one - other > learned(pool).own_prefill(0, 2000)

    def test_adapter(self):
        pool = OnePool("REASONING_AWARE", 3, adapters=("legal",))
        for number in range(3):
            pool.say(number, adapters=("legal",) if number == 1 else (), adapter_room=4)
        found = costs(pool, Ask(1000, 100, adapter="legal"))
        assert found[0] == found[2] == pytest.approx(found[1] + 0.25)
        assert pool.first(adapter="legal") == 1
        assert len(set(costs(pool, ASK))) == 1  # the base model is everywhere

    def test_a_busy_holder_of_the_adapter_is_left(self):
        pool = OnePool("REASONING_AWARE", 2, adapters=("legal",))
        pool.say(0, waiting=30, running=60, adapters=("legal",), adapter_room=4)
        pool.say(1, adapter_room=4)
        put(pool, col.FREE_AT, pool.now + 2.0, -np.inf)
        assert pool.first(adapter="legal") == 1

    def test_others_send_as_much_as_we_do(self):
        """Of 80 requests on the pods 20 are ours; each of ours since the last reading stands for three of others."""
        pool = pool_of_two()
        for _ in range(10):
            for number in (0, 1):
                pool.send(only=only(number))
        pool.now += 1.0
        for number in (0, 1):
            pool.say(number, running=40, kv_capacity=400_000.0)
        pool.now += 0.03
        even = costs(pool)
        pool.send(only=only(1))
        put(pool, col.FREE_AT, -np.inf, -np.inf)
        one, other = costs(pool)
        assert even[0] == even[1] == pytest.approx(one, rel=0.01)
        model = learned(pool)
        haste = 0.25 * model.impatience
        each = model.per_request + haste * (100 * model.token_per_request + model.own_prefill(0, 1000))
        assert other - one == pytest.approx(4.0 * (each + 1000 * model.per_context), rel=0.1)


class SimpleModel:
    """As a pool's model is before anything was learned."""

    base, per_request, per_context = 0.015, 1e-4, 1e-7


class TestReadings:
    def test_without_any_the_own_requests_count(self):
        pool = OnePool("REASONING_AWARE", 4)
        taken = [pool.send() for _ in range(16)]
        assert sorted(taken) == sorted([0, 1, 2, 3] * 4)

    def test_an_old_reading_of_an_idle_pod_is_not_believed(self):
        pool = OnePool("REASONING_AWARE", 4)
        pool.say(0, kv_capacity=400_000.0)
        pool.now += 3600.0
        for number in (1, 2, 3):
            pool.say(number, running=20, kv=0.4, kv_capacity=400_000.0)
        found = costs(pool)
        assert found[0] == pytest.approx(found[1], rel=0.05)

    def test_nor_of_a_busy_one(self):
        pool = OnePool("REASONING_AWARE", 4)
        pool.say(0, waiting=100, running=200, kv=0.99, kv_capacity=400_000.0)
        pool.now += 3600.0
        for number in (1, 2, 3):
            pool.say(number, running=2, kv=0.1, kv_capacity=400_000.0)
        found = costs(pool)
        assert found[0] == pytest.approx(found[1], rel=0.05)

    def test_nor_are_its_queue_and_memory_where_memory_is_short(self):
        pool = OnePool("REASONING_AWARE", 4)
        pool.say(0, waiting=100, running=200, kv=0.99, kv_capacity=400_000.0)
        pool.now += 3600.0
        for number in (1, 2, 3):
            pool.say(number, running=20, kv=0.9, kv_capacity=400_000.0)
        found = costs(pool)
        assert found[0] == pytest.approx(found[1], rel=0.05)

    def test_own_requests_count_once(self):
        pool = OnePool("REASONING_AWARE", 2)
        pool.send(Ask(100_000, 100), only=only(0))
        put(pool, col.FREE_AT, -np.inf, -np.inf)
        one, other = costs(pool, Ask(0, 100))
        model = learned(pool)
        each = model.per_request + 0.25 * model.impatience * 100 * model.token_per_request
        assert one - other == pytest.approx(each + 100_000 * model.per_context)

    def test_a_fresh_one_is(self):
        pool = OnePool("REASONING_AWARE", 2)
        pool.say(0, running=20, kv=0.4, kv_capacity=400_000.0)
        pool.say(1, kv_capacity=400_000.0)
        assert pool.first() == 1

    def test_a_part_of_the_pool_is_compared_alike(self):
        pool = OnePool("REASONING_AWARE", 4)
        for number, running in enumerate((0, 9, 1, 5)):
            pool.say(number, running=running)
        learned(pool).gap = 1e9
        whole = costs(pool)
        some = frozenset({address(1), address(3)})
        order = pool.order(only=some)
        assert order.addresses == (address(3), address(1))
        assert order.cost == pytest.approx(whole[3])

    def test_near_equals_share(self):
        pool = OnePool("REASONING_AWARE", 4)
        assert min(pool.shares(400).values()) > 60


class TestSessions:
    """Requests of which no blocks are known, as where an endpoint picker is not shown the body."""

    def test_the_pod_that_had_the_last_request(self):
        pool = pool_of_two()
        for session in "abcdefgh":
            home = pool.ask_and_answer(LONG, session=session)
            assert all(pool.ask_and_answer(LONG, session=session) == home for _ in range(3))

    def test_by_the_tokens_of_its_prompt_and_answer(self):
        pool = pool_of_two()
        home = pool.ask_and_answer(Ask(3000, 500), session="a")
        order = pool.order(Ask(5000, 100), session="a")
        assert (order.addresses[0], order.uncached) == (address(home), 1500.0)

    def test_it_is_left_where_waiting_is_dearer(self):
        pool = pool_of_two()
        home = pool.ask_and_answer(LONG, session="a")
        pool.table.data[col.FREE_AT, pool.slot(home)] = pool.now + 30.0
        new = pool.ask_and_answer(LONG, session="a")
        assert new == 1 - home
        pool.table.data[col.FREE_AT, pool.slot(home)] = pool.now
        assert pool.order(LONG, session="a").uncached == 0.0
        assert pool.first(LONG, session="a") == new  # the conversation is there now

    def test_of_requests_of_unknown_length_too(self):
        """Only the headers are known: each turn is thought to be as long as the last and its answer."""
        pool = pool_of_two()
        home = pool.ask_and_answer(Ask(0, 1000), session="a")
        for _ in range(5):
            assert pool.ask_and_answer(Ask(0, 1000), session="a") == home
        away = pool.order(Ask(0, 1000), session="a", only=only(1 - home))
        assert away.uncached == 6000.0
        assert pool.order(Ask(0, 1000), session="a").uncached == 0.0

    def test_where_blocks_are_known_those_count(self):
        pool = pool_of_two()
        home = pool.ask_and_answer(LONG, session="a")
        other = 1 - home
        pool.table.record_prefix(PROMPT, pool.slot(other), 8000)
        assert pool.first(LONG, session="a", prefix=PROMPT) == other
        unknown = hash_blocks(b"b" * 8192)
        assert len({pool.first(LONG, session="a", prefix=unknown) for _ in range(50)}) == 2

    def test_a_restarted_pod_has_lost_it(self):
        pool = pool_of_two()
        home = pool.ask_and_answer(LONG, session="a")
        for tokens in (100.0, 0.0):  # a counter that falls is a new process
            pool.now += 1.0
            pool.say(home, generation_tokens=tokens)
        assert pool.order(LONG, session="a").uncached == 8000.0

    @pytest.mark.parametrize(("ttl", "after", "there"), [(0.0, 599.0, True), (0.0, 601.0, False), (20.0, 21.0, False)])
    def test_sessions_expire(self, ttl, after, there):
        pool = OnePool("REASONING_AWARE", 2, affinity_ttl_s=ttl)
        pool.ask_and_answer(LONG, session="a")
        pool.now += after
        assert pool.order(LONG, session="a").uncached == (0.0 if there else 8000.0)

    def test_what_does_not_come_true_is_doubted(self):
        pool = pool_of_two()
        home = pool.ask_and_answer(LONG, session="a")
        for _ in range(200):
            pool.table.learn_hits(pool.slot(home), 8000.0, 0.0)
        pool.now += 0.03
        assert pool.order(LONG, session="a", only=only(home)).uncached > 7000.0

    def test_tokens_are_bounded(self):
        pool = pool_of_two()
        for _ in range(3):
            pool.ask_and_answer(Ask(0, 1 << 40), session="a")
        assert pool.order(Ask(0, 1), session="b").uncached == 0.0
        for number in (0, 1):
            assert pool.order(Ask(0, 1), session="a", only=only(number)).uncached <= 1 << 22


NUMBERS = st.floats(0.0, 1e12) | st.sampled_from([0.0, 1.0, 0.5])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 3), NUMBERS, NUMBERS, st.floats(0.0, 1.0), NUMBERS),
        st.tuples(st.just("send"), st.integers(0, 10_000_000), st.integers(0, 1_000_000), st.integers(0, 3)),
        st.tuples(st.just("end"), st.floats(1e-6, 1e5), st.floats(0.0, 1.0), st.integers(0, 100_000)),
        st.tuples(st.just("fail"), st.integers(0, 3)),
        st.tuples(st.just("restart"), st.integers(0, 3)),
        st.tuples(st.just("later"), st.floats(0.0, 5000.0)),
    ),
    max_size=40,
)


@given(EVENTS, st.integers(0, 10_000_000), st.integers(0, 1_000_000))
@settings(max_examples=150, deadline=None)
def test_costs_are_finite_and_not_negative_whatever_happened(events, tokens, output):
    pool = OnePool("REASONING_AWARE", 4)
    prefixes = [Prefix(), *(hash_blocks(bytes([n]) * 4096) for n in range(3))]
    for name, *said in events:
        if name == "read":
            number, waiting, running, kv, capacity = said
            pool.say(number, waiting, running, kv, kv_capacity=capacity, generation_tokens=1.0)
        elif name == "send":
            pool.send(Ask(said[0], said[1], prefixes[said[2]], session=str(said[2])))
        elif name == "end" and pool.open:
            where = next(iter(pool.open))
            request = pool.open[where].pop(0)
            if not pool.open[where]:
                del pool.open[where]
            flight = pool.table.finish(request)
            duration, share, answer = said
            pool.table.learn_times(flight, ttft=share * duration, duration=duration, output=answer)
        elif name == "fail":
            pool.breaks(said[0])
        elif name == "restart":
            pool.now += 0.1
            pool.say(said[0], generation_tokens=0.0)
        elif name == "later":
            pool.now += said[0]
    for prefix in prefixes:
        found = costs(pool, Ask(tokens, output, prefix))
        assert all(np.isfinite(cost) and cost >= 0.0 for cost in found)
        order = pool.order(Ask(tokens, output, prefix, session="1"))
        assert 0.0 <= order.cost < np.inf
        assert len(set(order.addresses)) == 4
