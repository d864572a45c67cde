"""Whatever is asked of the engine, in whatever order, its books balance and everybody is served."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from ralb_sim.engine import BlockPool, Engine, EngineConfig, EngineRequest
from ralb_sim.profiles import PROFILES

BLOCK = 4


@dataclass(frozen=True)
class Add:
    prompt: int
    output: int
    family: int


ADDS = st.builds(Add, prompt=st.integers(1, 60), output=st.integers(0, 20), family=st.integers(0, 3))
ACTIONS = st.lists(st.one_of(ADDS, st.just("step"), st.integers(0, 30)), max_size=60)


@settings(max_examples=150, deadline=None)
@given(actions=ACTIONS, blocks=st.integers(20, 40), budget=st.integers(1, 50), seqs=st.integers(1, 6))
def test_books_balance_and_all_finish(actions: list[Add | str | int], blocks: int, budget: int, seqs: int) -> None:
    engine = Engine(
        EngineConfig(
            PROFILES["llama-3-8b-h100"],
            kv_tokens=blocks * BLOCK,
            block_size=BLOCK,
            max_num_batched_tokens=budget,
            max_num_seqs=seqs,
        )
    )
    wanted: dict[str, int] = {}
    tokens: dict[str, int] = {}
    finished: set[str] = set()
    aborted: set[str] = set()

    def step() -> None:
        result = engine.step()
        engine.pool.check()
        stats = engine.stats()
        assert engine.pool.used + engine.pool.free == engine.pool.total
        assert result.scheduled_tokens <= budget
        assert stats.running <= seqs
        assert 0 <= stats.kv_usage <= 1
        assert (result.duration_s > 0) == (result.scheduled_tokens > 0)
        for name in result.tokens:
            assert name not in aborted
            tokens[name] += 1
        for one in result.finished:
            assert one.id not in finished
            finished.add(one.id)
            assert one.cached_tokens % BLOCK == 0

    for number, action in enumerate(actions):
        if isinstance(action, Add):
            name = str(number)
            hashes = [action.family * 1000 + index for index in range((action.prompt + action.output) // BLOCK)]
            engine.add(EngineRequest(name, action.prompt, action.output, hashes))
            wanted[name] = action.output
            tokens[name] = 0
        elif action == "step":
            step()
        else:
            open_ones = [name for name in wanted if name not in finished and name not in aborted]
            if open_ones and isinstance(action, int):
                victim = open_ones[action % len(open_ones)]
                assert engine.abort(victim)
                aborted.add(victim)
                engine.pool.check()
    for _ in range(20_000):
        if not engine.has_work:
            break
        step()
    assert not engine.has_work
    assert engine.pool.used == 0
    assert finished == set(wanted) - aborted
    for name in finished:
        assert tokens[name] == wanted[name]


@settings(max_examples=150, deadline=None)
@given(
    blocks=st.integers(1, 12),
    actions=st.lists(
        st.tuples(st.sampled_from(["take", "share", "release", "publish"]), st.integers(0, 20)), max_size=60
    ),
)
def test_pool_counts_every_block_once(blocks: int, actions: list[tuple[str, int]]) -> None:
    pool = BlockPool(blocks)
    held: list[list[int]] = []
    for what, number in actions:
        if what == "take" and number <= pool.free:
            held.append(pool.take(number))
        elif what == "share":
            found = pool.match(range(number), number)
            pool.pin(found)
            held.append(found)
        elif what == "release" and held:
            pool.release(held.pop(number % len(held)))
        elif what == "publish" and held and held[-1]:
            pool.publish(held[-1][0], number)
        pool.check()
        assert pool.used + pool.free == pool.total
        assert pool.used == len({block for blocks_ in held for block in blocks_})
    for one in held:
        pool.release(one)
    pool.check()
    assert pool.free == pool.total
