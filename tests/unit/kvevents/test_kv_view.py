"""Which blocks are whose, and what the index is told of them: without sockets."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ralb.v1.snapshot_pb2 import Endpoint, Pool
from ralb_extproc.feedback import Failure, Outcome, Settled
from ralb_extproc.kvevents.binding import bind, needed
from ralb_extproc.kvevents.match import Ambiguous, Served, find
from ralb_extproc.kvevents.recent import Recent
from ralb_extproc.kvevents.runs import IDLE_SECONDS, MAX_RUNS, Chains
from ralb_extproc.kvevents.view import KvView
from ralb_extproc.kvevents.wire import Batch, Cleared, Removed, Stored
from ralb_extproc.place import Flight, FlightInfo, PodTable, hash_blocks

SIZE = 16


def stored(*hashes, parent=None):
    return Stored(hashes, parent, SIZE)


def served(*, prompt, answer, cached=0, begun=0.0, first=1.0, ended=2.0):
    return Served(prompt, answer, cached, begun, first, ended)


# ---- runs ----


def test_events_that_continue_one_another_are_one_run():
    chains = Chains(100)
    chains.store(stored(1, 2), 0.0)
    chains.store(stored(11, 12), 0.1)
    chains.store(stored(3, parent=2), 0.2)
    chains.store(stored(13, parent=12), 0.3)
    assert [run.hashes for run in chains.runs] == [[1, 2, 3], [11, 12, 13]]
    assert chains.runs[0].reached(2) == 0.0
    assert chains.runs[0].reached(3) == 0.2


def test_what_continues_after_a_pause_or_after_a_claim_is_another_run():
    chains = Chains(100)
    chains.store(stored(1), 0.0)
    chains.store(stored(2, parent=1), IDLE_SECONDS + 0.1)
    assert [run.hashes for run in chains.runs] == [[1], [2]]
    chains.claim(chains.runs[1], 1, 1)
    chains.store(stored(3, parent=2), IDLE_SECONDS + 0.2)
    assert [run.hashes for run in chains.runs] == [[1], [3]]


def test_a_claim_leaves_the_next_turn_and_its_claim_takes_the_answer_before_it():
    chains = Chains(100)
    chains.store(stored(1, 2), 0.0)
    chains.store(stored(3, parent=2), 0.5)  # answer
    chains.store(stored(4, 5, parent=3), 0.9)  # the next turn
    (run,) = chains.runs
    assert chains.claim(run, 2, 3) == ()
    (rest,) = chains.runs
    assert (rest.parent, rest.hashes, rest.first) == (3, [4, 5], 0.9)
    chains.store(stored(6, parent=5), 1.0)
    assert chains.runs[0].hashes == [4, 5, 6]
    assert chains.claim(rest, 2, 3) == (3,)
    assert not chains.runs


def test_a_block_held_twice_is_gone_when_it_was_removed_twice():
    chains = Chains(100)
    for _ in range(3):
        chains.store(stored(1), 0.0)
    assert [chains.remove((1,)) for _ in range(4)] == [(), (), (1,), (1,)]


def test_blocks_and_runs_are_bounded():
    chains = Chains(10)
    for number in range(MAX_RUNS + 50):
        chains.store(stored(number), float(number))
    assert len(chains) == 10
    assert chains.untracked == MAX_RUNS + 40
    assert len(chains.runs) == len(chains._tails) == MAX_RUNS
    chains.store(Stored(tuple(range(10_000, 90_000)), None, SIZE), 1e6)
    assert not chains.runs
    assert chains._run_blocks == len(chains._tails) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 5), st.floats(0, 3)), max_size=40), st.data())
def test_the_books_of_runs_add_up(events, data):
    chains = Chains(100)
    now = 0.0
    for block, parent, wait in events:
        now += wait
        chains.store(Stored((block, block + 10), parent, SIZE), now)
        if chains.runs and data.draw(st.booleans()):
            run = data.draw(st.sampled_from(chains.runs))
            chains.claim(run, 1, data.draw(st.sampled_from(run.counts)))
    assert chains._run_blocks == sum(len(run.hashes) for run in chains.runs)
    assert chains._answer_blocks == sum(map(len, chains._answers.values()))
    assert all(any(run is each for each in chains.runs) for run in chains._tails.values())
    for run in chains.runs:
        assert run.counts[-1] == len(run.hashes)


# ---- matching ----


def chains_of(*runs):
    """Runs given as (first block, blocks, parent, when)."""
    chains = Chains(1000)
    for first, count, parent, now in runs:
        chains.store(stored(*range(first, first + count), parent=parent), now)
    return chains.runs


def test_a_request_is_found_by_its_counts():
    runs = chains_of((100, 7, None, 1.0), (200, 9, None, 1.0), (300, 7, 5, 1.0))
    found = find(runs, served(prompt=100, answer=20))
    assert found is not None
    assert found == (runs[0], 7)
    assert find(runs, served(prompt=148, answer=20, cached=48)) == (runs[2], 7)
    assert find(runs, served(prompt=200, answer=20)) is None


def test_of_two_that_fit_the_one_at_the_right_time_is_taken_if_that_is_clear():
    runs = chains_of((100, 7, None, 1.0), (200, 7, None, 1.4))
    assert find(runs, served(prompt=100, answer=20, first=1.39)) == (runs[1], 7)
    with pytest.raises(Ambiguous):
        find(runs, served(prompt=100, answer=20, first=1.2))


def test_runs_from_before_the_request_or_far_from_its_answer_are_not_its():
    runs = chains_of((100, 7, None, 1.0))
    assert find(runs, served(prompt=100, answer=20, begun=1.2, first=1.3)) is None
    assert find(runs, served(prompt=100, answer=20, first=30.0, ended=31.0)) is None


def test_a_run_that_grew_before_the_request_ended_is_anothers():
    chains = Chains(100)
    chains.store(stored(*range(1, 8)), 1.0)
    chains.store(stored(8, parent=7), 1.5)
    assert find(chains.runs, served(prompt=100, answer=20, ended=2.0)) is None
    assert find(chains.runs, served(prompt=100, answer=20, ended=1.4)) == (chains.runs[0], 7)


# ---- binding ----

SHARED = b"s" * 4096  # 16 blocks


def bound(prefix, tokens, first, *, begin=0, bindings, ends):
    """Bind the blocks of a prompt from ``begin`` on, numbered from ``first`` at the prompt's beginning."""
    blocks = range(first + begin, first + tokens // SIZE)
    bind(blocks, begin, SIZE, prefix, tokens, bindings, ends)


def test_blocks_are_bound_in_order_and_cover_the_prompt():
    bindings, ends = Recent(1000), Recent(1000)
    prefix = hash_blocks(b"x" * 4096)
    bound(prefix, 1024, 100, bindings=bindings, ends=ends)
    got = [needed([block], bindings, ends) for block in range(100, 164)]
    assert [hashes[0] for hashes in got[::4]] == list(prefix.hashes)
    assert got[0] == got[3]


def test_a_shared_beginning_does_not_go_with_the_end_of_one_prompt():
    """The beginning takes 1000 tokens for 4096 bytes, the two prompts' own ends 1000 tokens for 2048 bytes."""
    bindings, ends = Recent(10_000), Recent(10_000)
    first, second = (hash_blocks(SHARED + end * 2048) for end in (b"a", b"b"))
    bound(first, 2000, 1000, bindings=bindings, ends=ends)
    own = range(1000 + 992 // SIZE, 1000 + 2000 // SIZE)
    shared = set(first.hashes[:16])
    assert shared & set(needed(own, bindings, ends)), (
        "by its share of bytes alone the beginning seems to take more tokens"
    )
    # The second has 992 tokens cached, where the two prompts part: blocks after that are not the beginning's.
    bound(second, 2000, 5000, begin=62, bindings=bindings, ends=ends)
    assert not shared & set(needed(own, bindings, ends))
    assert set(needed(range(5062, 5125), bindings, ends)) == set(second.hashes[16:])
    assert set(needed(range(1000, 1062), bindings, ends)) <= shared


def test_blocks_stored_again_keep_what_they_stand_for():
    bindings, ends = Recent(10_000), Recent(10_000)
    first, second = (hash_blocks(SHARED + end * 4096) for end in (b"a", b"b"))
    bound(first, 2048, 1000, bindings=bindings, ends=ends)
    before = [needed([block], bindings, ends) for block in range(1000, 1064)]
    # All was evicted; the second prompt stores the shared blocks, which hash as before, and its own.
    blocks = [*range(1000, 1064), *range(5064, 5128)]
    bind(blocks, 0, SIZE, second, 2048, bindings, ends)
    assert [needed([block], bindings, ends) for block in range(1000, 1064)] == before
    assert needed([5064], bindings, ends) == [second.hashes[16]]


@given(
    st.integers(0, 3000), st.integers(1, 2000), st.integers(0, 100), st.integers(0, 200), st.integers(1, 64),
    st.lists(st.integers(0, 4000), max_size=12),
)  # fmt: skip
def test_binding_takes_any_numbers(length, tokens, begin, count, size, known):
    bindings, ends = Recent(100), Recent(100)
    prefix = hash_blocks(bytes(length))
    for ours, end in zip(prefix.hashes, known, strict=False):
        ends.put(ours, end)
    bind(range(count), begin, size, prefix, tokens, bindings, ends)
    assert set(needed(range(count), bindings, ends)) <= set(prefix.hashes)


def test_a_recent_map_keeps_what_is_used_and_no_more_than_twice_its_size():
    recent = Recent(10)
    recent.put(0, 7)
    for key in range(1, 200):
        recent.put(key, key)
        assert recent.get(0) == 7
        assert len(recent) <= 20
    assert recent.get(1) is None
    assert 0 in recent


# ---- the whole ----


class World:
    def __init__(self, count=2):
        self.pods = PodTable()
        addresses = [f"10.0.0.{number}:8000" for number in range(count)]
        self.pods.update([Pool(id="p", endpoints=[Endpoint(address=address) for address in addresses])], 0.0)
        self.slots = [self.pods.slot("p", address) for address in addresses]
        self.generations = [self.pods.key(slot).generation for slot in self.slots]
        self.view = KvView(self.pods)
        self.view.follow(("p", slot, gen) for slot, gen in zip(self.slots, self.generations, strict=True))
        self.now = 0.0

    def tell(self, pod, *events):
        self.view.apply(self.generations[pod], Batch(0.0, events), self.now, 0.0)

    def serve(self, prefix, pod, tokens, *events, answer=8, cached=0, **outcome):
        """A request is placed, the pod tells what it added, and the request ends and is matched."""
        self.pods.record_prefix(prefix, self.slots[pod])
        info = FlightInfo(pool="p", prefix=prefix)
        flight = Flight("r", self.slots[pod], self.generations[pod], 0.0, 0.0, 0.0, self.now, info=info)
        if events:
            self.tell(pod, *events)
        ended = Outcome(
            status=200, attempts=1, input_tokens=tokens, output_tokens=answer, cached_tokens=cached, duration=0.001
        )
        self.now += 0.001
        self.view.settled(Settled(replace(ended, **outcome), flight, slot=self.slots[pod]), self.now)
        self.now += 1.0
        while self.view.due(self.now):
            self.view.tick(self.now)

    def hits(self, prefix):
        hits = self.pods.prefix_hits(prefix, self.pods.view("p"), 1000)
        return [0.0] * len(self.slots) if hits is None else [round(float(hit)) for hit in hits]


PROMPT = hash_blocks(b"p" * 4096)
BLOCKS = tuple(range(1, 65))  # 1024 tokens


def test_a_removed_block_ends_what_is_expected_of_that_pod_only():
    world = World()
    world.pods.record_prefix(PROMPT, world.slots[1])
    world.serve(PROMPT, 0, 1024, stored(*BLOCKS))
    assert world.view.matches == {"bound": 1}
    assert world.hits(PROMPT) == [1000, 1000]
    world.tell(0, Removed(BLOCKS[32:]))
    assert world.hits(PROMPT) == [500, 1000]
    world.tell(0, Removed(BLOCKS[:32]))
    assert world.hits(PROMPT) == [0, 1000]
    world.tell(0, stored(*BLOCKS))
    assert world.hits(PROMPT) == [1000, 1000]


def test_blocks_stored_by_others_are_expected_too_before_and_after_they_are_known():
    world = World(3)
    world.tell(1, stored(*BLOCKS[:48]))
    world.serve(PROMPT, 0, 1024, stored(*BLOCKS))
    assert world.hits(PROMPT) == [1000, 750, 0]
    world.tell(2, stored(*BLOCKS[:16]))
    assert world.hits(PROMPT) == [1000, 750, 250]


def test_blocks_removed_before_their_request_was_known_are_not_expected():
    world = World()
    world.serve(PROMPT, 0, 1024, stored(*BLOCKS), Removed(BLOCKS[32:]))
    assert world.hits(PROMPT) == [500, 0]


def test_the_answer_is_prompt_in_the_next_turn():
    world = World()
    first, second = hash_blocks(b"p" * 4096), hash_blocks(b"p" * 4096 + b"a" * 2048 + b"q" * 2048)
    answer = tuple(range(101, 133))  # 512 tokens
    world.serve(first, 0, 1024, stored(*BLOCKS), stored(*answer, parent=64), answer=513)
    world.serve(second, 0, 2048, stored(*range(201, 233), parent=132), cached=1536)
    assert world.hits(second)[0] == 1000
    world.tell(0, Removed(answer[16:]))
    assert world.hits(second)[0] == 625
    assert world.hits(first)[0] == 1000


def test_a_cleared_cache_holds_nothing():
    world = World()
    world.serve(PROMPT, 0, 1024, stored(*BLOCKS))
    world.tell(0, Cleared())
    assert world.hits(PROMPT) == [0, 0]


@pytest.mark.parametrize(
    "outcome",
    [
        {"status": 500},
        {"aborted": True},
        {"failure": Failure.RESET},
        {"attempts": 2},
        {"input_tokens": None},
        {"output_tokens": None},
    ],
)
def test_requests_that_did_not_end_well_or_were_not_counted_teach_nothing(outcome):
    world = World()
    world.serve(PROMPT, 0, 1024, stored(*BLOCKS), **outcome)
    assert not world.view.matches
    world.tell(0, Removed(BLOCKS))
    assert world.hits(PROMPT) == [1000, 0]


def test_a_pod_that_serves_without_a_word_is_silent_and_warned_about_once(caplog):
    world = World()
    for _ in range(5):
        for pod in (0, 1):
            world.serve(PROMPT, pod, 1024)
    assert all(view.silent for view in world.view.views)
    assert len([record for record in caplog.records if "KV event stream" in record.message]) == 1
    world.tell(0, stored(1))
    assert [view.silent for view in world.view.views] == [False, True]


def test_requests_found_in_the_cache_need_add_nothing():
    world = World()
    for _ in range(5):
        world.serve(PROMPT, 0, 1024, cached=1008)
    assert not any(view.silent for view in world.view.views)


def test_nothing_is_loaded_where_no_pool_has_events():
    program = "import sys, ralb_extproc.app; print({'zmq', 'msgpack', 'ralb_extproc.kvevents'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
