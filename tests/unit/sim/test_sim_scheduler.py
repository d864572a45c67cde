"""The scheduler's rules, one test each."""

import pytest

from ralb_sim.engine import Engine, EngineConfig, EngineRequest, StepResult
from ralb_sim.profiles import PROFILES

BLOCK = 4


def engine(blocks: int = 64, budget: int = 16, seqs: int = 8, **more: bool) -> Engine:
    return Engine(
        EngineConfig(
            PROFILES["llama-3-8b-h100"],
            kv_tokens=blocks * BLOCK,
            block_size=BLOCK,
            max_num_batched_tokens=budget,
            max_num_seqs=seqs,
            **more,
        )
    )


def request(name: str, prompt: int, output: int = 4, hashes: tuple[int, ...] | None = None) -> EngineRequest:
    own = tuple(hash((name, index)) for index in range((prompt + output) // BLOCK))
    return EngineRequest(name, prompt, output, own if hashes is None else hashes)


def run(target: Engine, most: int = 1000) -> list[StepResult]:
    steps = []
    while target.has_work:
        steps.append(target.step())
        target.pool.check()
        assert len(steps) < most
    return steps


def test_decodes_come_before_prefills_and_prefills_before_the_queue() -> None:
    target = engine(budget=16)
    target.add(request("decoding", 4, 30))
    target.step()
    target.add(request("long", 40))
    target.add(request("late", 4))
    step = target.step()
    # One decode token, fifteen of the long prompt, nothing left for the last one.
    assert (step.scheduled_tokens, step.prefill_tokens, step.tokens) == (16, 15, ("decoding",))
    assert target.waiting_ids == ("late",)
    assert target.step().prefill_tokens == 15
    step = target.step()
    # The partial prefill ends first, then the queue gets what is left.
    assert step.prefill_tokens == 10 + 4
    assert step.first_tokens == ("long", "late")


def test_waiting_is_served_in_order_of_arrival_even_when_a_later_one_would_fit() -> None:
    target = engine(blocks=10, budget=64)
    target.add(request("first", 20))
    target.step()
    target.add(request("big", 30, 1))
    target.add(request("small", 4))
    target.step()
    assert target.running_ids == ("first",)
    assert target.waiting_ids == ("big", "small")


def test_max_num_seqs_limits_the_batch() -> None:
    target = engine(seqs=2, budget=64)
    for name in "abc":
        target.add(request(name, 4, 3))
    target.step()
    assert (target.running_ids, target.waiting_ids) == (("a", "b"), ("c",))
    assert target.stats().running == 2
    assert target.stats().waiting == 1


def test_first_token_comes_with_the_step_that_ends_the_prefill() -> None:
    target = engine(budget=16)
    target.add(request("a", 33, 2))
    steps = run(target)
    assert [step.first_tokens for step in steps] == [(), (), ("a",), ()]
    assert [step.scheduled_tokens for step in steps] == [16, 16, 1, 1]
    assert steps[-1].finished[0].id == "a"


def test_prefix_is_shared_on_full_blocks_and_one_token_is_always_computed() -> None:
    target = engine(budget=64)
    hashes = tuple(range(100, 104))
    target.add(request("cold", 16, 1, hashes))
    assert target.step().admitted == (("cold", 0),)
    target.add(request("same", 16, 1, hashes))
    step = target.step()
    # All four blocks are cached, but the last one is computed again so that there is something to sample from.
    assert step.admitted == (("same", 12),)
    assert step.prefill_tokens == 4
    stats = target.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (32, 12)


def test_simultaneous_cold_siblings_both_pay() -> None:
    target = engine(budget=64)
    hashes = tuple(range(4))
    target.add(request("a", 16, 1, hashes))
    target.add(request("b", 16, 1, hashes))
    assert target.step().admitted == (("a", 0), ("b", 0))
    target.pool.check()


def test_the_answer_is_cached_for_the_next_turn() -> None:
    target = engine(budget=64)
    conversation = tuple(range(50, 60))
    target.add(request("turn", 8, 9, conversation))
    run(target)
    target.add(request("next", 24, 1, conversation))
    # 8 + 9 tokens, of which the last was never computed: 16 tokens are four full blocks.
    assert target.step().admitted == (("next", 16),)


def test_without_prefix_caching_nothing_is_shared() -> None:
    target = engine(budget=64, prefix_caching=False)
    for name in ("a", "b"):
        target.add(request(name, 16, 1, (1, 2, 3, 4)))
        assert target.step().admitted == ((name, 0),)
    assert target.pool.cached == 0


def test_usage_counts_referenced_blocks_only() -> None:
    target = engine(blocks=8, budget=64)
    target.add(request("a", 16, 2))
    target.step()
    assert target.stats().kv_usage == 0.5
    run(target)
    assert target.stats().kv_usage == 0
    assert target.pool.cached == 4


def test_least_recently_used_cached_block_is_evicted_first() -> None:
    target = engine(blocks=4, budget=64)
    for name, digest in (("old", 1), ("new", 2)):
        target.add(request(name, 5, 1, (digest,)))
        run(target)
    target.add(request("again", 5, 1, (1,)))
    assert target.step().admitted == (("again", 4),)
    target.add(request("filler", 12, 1, (7, 8, 9)))
    run(target)
    target.add(request("old", 5, 1, (1,)))
    target.add(request("new", 5, 1, (2,)))
    # Two blanks and the block of "new", unused the longest, went to the filler.
    assert target.step().admitted == (("old", 4), ("new", 0))


def test_the_end_of_a_sequence_is_evicted_before_its_beginning() -> None:
    target = engine(blocks=4, budget=64)
    target.add(request("long", 15, 1, (1, 2, 3)))
    run(target)
    target.add(request("filler", 7, 1, (9,)))
    run(target)
    target.add(request("again", 15, 1, (1, 2, 3)))
    assert target.step().admitted == (("again", 8),)


def test_preemption_takes_the_latest_counts_it_and_recomputes() -> None:
    target = engine(blocks=8, budget=64)
    target.add(request("a", 12, 12))
    target.add(request("b", 12, 12))
    steps = run(target)
    preempted = [name for step in steps for name in step.preempted]
    assert preempted == ["b"]
    assert target.stats().preemptions == 1
    done = {one.id: one for step in steps for one in step.finished}
    assert (done["a"].preemptions, done["b"].preemptions) == (0, 1)
    for name in "ab":
        assert sum(step.tokens.count(name) for step in steps) == 12
        assert sum(step.first_tokens.count(name) for step in steps) == 1


def test_nothing_is_admitted_in_a_step_that_preempted_and_the_victim_waits_at_the_head() -> None:
    target = engine(blocks=8, budget=64)
    same = tuple(range(6))
    # Cold twins: the second's blocks are copies, so that after its pre-emption the first's blocks would serve it at once.
    target.add(request("a", 12, 12, same))
    target.add(request("b", 12, 12, same))
    target.step()
    step = target.step()
    while not step.preempted:
        step = target.step()
    assert step.preempted == ("b",)
    assert target.running_ids == ("a",)
    assert target.waiting_ids == ("b",)
    assert "b" not in step.tokens
    target.step()
    assert "b" in target.running_ids


def test_a_preempted_request_is_not_counted_twice_in_prefix_statistics() -> None:
    target = engine(blocks=8, budget=64)
    target.add(request("a", 12, 12))
    target.add(request("b", 12, 12))
    run(target)
    assert target.stats().prefix_queries == 24


@pytest.mark.parametrize("stage", ["waiting", "prefill", "decode"])
def test_abort_frees_everything(stage: str) -> None:
    target = engine(budget=8, seqs=1)
    if stage == "waiting":
        target.add(request("other", 4, 1))
    target.add(request("gone", 20, 9))
    for _ in range({"waiting": 0, "prefill": 1, "decode": 4}[stage]):
        target.step()
    assert target.abort("gone")
    assert not target.abort("gone")
    run(target)
    assert target.pool.used == 0


def test_pooling_requests_end_with_their_prefill() -> None:
    target = engine(budget=8)
    target.add(request("pool", 12, 0))
    steps = run(target)
    assert [step.scheduled_tokens for step in steps] == [8, 4]
    assert steps[-1].finished[0].id == "pool"
    assert not any(step.tokens for step in steps)


def test_requests_that_can_never_run_are_refused() -> None:
    target = engine(blocks=4)
    target.add(request("fits", 12, 4))
    with pytest.raises(ValueError, match="already in the engine"):
        target.add(request("fits", 1, 1))
    with pytest.raises(ValueError, match="exceed the KV cache of 16 tokens"):
        target.add(request("big", 13, 4))
    with pytest.raises(ValueError, match="at least one prompt token"):
        target.add(EngineRequest("empty", 0, 1))


def test_an_idle_engine_steps_for_free() -> None:
    assert engine().step() == StepResult(0.0)
