"""What the engine logs of its cache adds up to what is in it."""

from hypothesis import given
from hypothesis import strategies as st

from ralb_sim import tokens
from ralb_sim.engine import Cleared, Engine, EngineConfig, EngineRequest, KvLog, Removed, Stored
from ralb_sim.profiles import get_profile

SIZE = 4


def request(number, prompt, output):
    # Prompts share beginnings: a few texts, cut at any length.
    sequence = tokens.encode(f"{prompt % 3}" * 4 * 60)[: prompt * 4] + tokens.encode(f"{number:04d}") * output
    return EngineRequest(f"r{number}", prompt, output, tokens.chain_hashes(sequence, SIZE), sequence)


def held_after(events, held):
    for event in events:
        match event:
            case Stored():
                assert tokens.count(event.tokens) == SIZE * len(event.hashes)
                assert held.isdisjoint(event.hashes)
                held.update(event.hashes)
            case Removed():
                assert held.issuperset(event.hashes)
                held.difference_update(event.hashes)
            case Cleared():
                held.clear()


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 12), st.integers(0, 6)), max_size=30))
def test_stored_less_removed_is_what_is_cached(asked):
    log = KvLog()
    config = EngineConfig(get_profile("llama-3-8b-h100"), kv_tokens=24 * SIZE, block_size=SIZE)
    engine = Engine(config, log)
    held = set()
    for number, (prompt, output, steps) in enumerate(asked):
        engine.add(request(number, prompt, output))
        for _ in range(steps):
            engine.step()
            held_after(log.take(), held)
            assert held == set(engine.pool._by_hash)
    while engine.has_work:
        engine.step()
    held_after(log.take(), held)
    assert held == set(engine.pool._by_hash)
    assert engine.pool.clear()
    assert log.take() == [Cleared()]
    assert engine.pool.cached == 0
    engine.pool.check()


def test_a_cache_in_use_is_not_cleared():
    log = KvLog()
    engine = Engine(EngineConfig(get_profile("llama-3-8b-h100"), kv_tokens=400, block_size=SIZE), log)
    engine.add(request(0, 40, 20))
    engine.step()
    (event,) = log.take()
    assert event == Stored(tuple(request(0, 40, 20).block_hashes[:10]), None, request(0, 40, 20).tokens[: 40 * 4])
    assert not engine.pool.clear()
    assert not log.take()
