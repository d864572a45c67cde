"""The parts that policies share: the prefix index, the ledgers, ranking, pages."""

import random
from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st
from support_policies import BLOCK, policy, work

from ralb_sim.offline.policies.common import Pages, rank, uncached
from ralb_sim.offline.policies.index import PrefixIndex, common_prefix
from ralb_sim.offline.policies.ledger import BlockLedger, Ledger
from ralb_sim.offline.policy import Page


@st.composite
def prompts(draw):
    """Chained prompts: a block's id tells all before it."""
    words = draw(st.lists(st.integers(0, 1), max_size=8))
    out, ident = [], 1
    for word in words:
        ident = ident * 2 + word
        out.append(ident)
    return out


class PlainIndex:
    """The same by the definition: one LRU list per pod, walked block by block."""

    def __init__(self, capacities):
        self.capacities, self.recent = capacities, [OrderedDict() for _ in capacities]

    def add(self, pod, blocks):
        for block in reversed(blocks[: self.capacities[pod]]):
            self.recent[pod].pop(block, None)
            self.recent[pod][block] = None
        while len(self.recent[pod]) > self.capacities[pod]:
            self.recent[pod].popitem(last=False)

    def matches(self, blocks):
        out = []
        for recent in self.recent:
            depth = 0
            while depth < len(blocks) and blocks[depth] in recent:
                depth += 1
            out.append(depth)
        return out


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), prompts(), st.booleans()), max_size=40))
def test_index_equals_its_definition(steps):
    capacities = [3, 8, 20, 1, 0]
    index, plain = PrefixIndex(capacities), PlainIndex(capacities)
    for pod, blocks, leaves in steps:
        if leaves:
            index.forget(pod)
            plain.recent[pod].clear()
        else:
            index.add(pod, blocks)
            plain.add(pod, blocks)
        for _, asked, _ in steps:
            assert index.matches(asked) == plain.matches(asked)
    assert len(index) == sum(map(len, plain.recent))
    assert set(index._holders) == set().union(*plain.recent)


def test_common_prefix_of_many_pods():
    blocks = range(600)
    holders: dict[int, int] = {}
    depths = [pod * 9 for pod in range(64)]
    for pod, depth in enumerate(depths):
        for block in range(depth):
            holders[block] = holders.get(block, 0) | 1 << pod
    assert common_prefix(holders, blocks, 64) == depths
    assert common_prefix(holders, blocks[:100], 64) == [min(depth, 100) for depth in depths]
    assert common_prefix(holders, (), 64) == [0] * 64


def test_common_prefix_of_ids_that_are_not_chained_never_starts_midway():
    assert common_prefix({1: 0b01, 2: 0b11, 3: 0b10}, [1, 2, 3], 2) == [2, 0]


def test_index_forgets_the_tail_of_the_oldest_prompt_first():
    index = PrefixIndex([6])
    index.add(0, [1, 2, 3, 4])
    index.add(0, [10, 11, 12])
    assert index.matches([1, 2, 3, 4]) == [3]
    index.add(0, [1, 2])  # touched, so kept
    index.add(0, [20, 21])
    assert index.matches([1, 2, 3, 4]) == [2]
    assert index.matches([10, 11, 12]) == [2]


def test_prompts_seen_again_and_again_take_no_more_memory(monkeypatch):
    monkeypatch.setattr("ralb_sim.offline.policies.index._SLACK", 0)
    index = PrefixIndex([6])
    for _ in range(50):
        index.add(0, [1, 2, 3])
        index.add(0, [10, 11])
    assert len(index._pods[0]._prompts) <= 2 * 5
    index.add(0, [20, 21, 22])
    assert [index.matches(asked)[0] for asked in ([1, 2, 3], [10, 11], [20, 21, 22])] == [1, 2, 3]


def test_index_of_a_prompt_beyond_the_cache_keeps_its_head():
    index = PrefixIndex([3])
    index.add(0, [1, 2, 3, 4, 5])
    assert index.matches([1, 2, 3, 4, 5]) == [3]


def test_capacity_is_the_cache_of_the_pod():
    made = policy("product", 2, kv_tokens=7 * BLOCK)
    made.index.add(0, range(50))
    assert made.index.matches(range(50)) == [7, 0]


def test_ledger_counts_requests_and_prefill():
    ledger = Ledger(2)
    ledger.add(work("a"), 0, 500)
    ledger.add(work("b"), 0, 70)
    ledger.add(work("c"), 1, 3)
    assert (ledger.requests, ledger.prefill) == ([2, 1], [570, 3])
    ledger.prefilled("a")
    ledger.prefilled("a")
    assert (ledger.requests, ledger.prefill) == ([2, 1], [70, 3])
    ledger.finish("b")  # before its first token
    ledger.finish("nobody")
    assert (ledger.requests, ledger.prefill) == ([1, 1], [0, 3])


def test_ledger_moves_a_request_sent_again():
    ledger = Ledger(2)
    ledger.add(work("a"), 0, 500)
    ledger.add(work("a"), 1, 600)
    assert (ledger.requests, ledger.prefill) == ([0, 1], [0, 600])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "end", "forget"]), st.integers(0, 5), st.integers(0, 1), prompts()),
        max_size=40,
    )
)
def test_blocks_held_equal_their_definition(steps):
    ledger, plain = BlockLedger(2), {}
    for kind, number, pod, blocks in steps:
        if kind == "add":
            ledger.add(work(f"r{number}", blocks, tokens=len(blocks) * BLOCK + 7), pod)
            plain[number] = (pod, blocks)
        elif kind == "end":
            ledger.finish(f"r{number}")
            plain.pop(number, None)
        else:
            ledger.forget(pod)
            plain = {key: value for key, value in plain.items() if value[0] != pod}
        for each in (0, 1):
            mine = [blocks for where, blocks in plain.values() if where == each]
            held = set().union(*mine)
            assert ledger.held[each] == len(held) * BLOCK + 7 * len(mine)
            shared = sum(1 for block in blocks if block in held)
            assert ledger.shared(blocks)[each] == shared


def test_rank_orders_by_cost_and_draws_between_equals():
    rng = random.Random(1)
    orders = {tuple(rank([4, 7, 9, 2], [1.0, 0.5, 1.0, 3.0], rng)) for _ in range(60)}
    assert orders == {(7, 4, 9, 2), (7, 9, 4, 2)}


def test_uncached_counts_the_partial_block_and_never_less_than_nothing():
    assert uncached(work("a", range(4), tokens=430), 3) == 130
    assert uncached(work("a", range(4), tokens=400), 4) == 0
    assert uncached(work("a", tokens=50), 1) == 0


def test_pages_keep_the_newest():
    pages = Pages(2)
    assert pages[0] == Page()
    pages.put(0, Page(waiting=3), 1.0)
    pages.put(0, Page(waiting=9), 0.5)  # overtaken
    assert pages[0].waiting == 3
    pages.forget(0)
    pages.put(0, Page(waiting=4), 0.7)
    assert pages[0].waiting == 4
