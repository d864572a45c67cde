from collections import Counter
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from ralb.v1.snapshot_pb2 import Endpoint, Pool
from ralb_extproc.place import Ask, Dice, PodSample, PodTable, commit, place_plan
from ralb_extproc.place import columns as col
from ralb_extproc.place.load import TRUST_SECONDS
from ralb_extproc.types import Candidate, Plan

NOW = 500.0


def make_pool(name, members, cap=0, metrics="/metrics"):
    return Pool(
        id=name,
        cluster=f"c/{name}",
        rewrite_cluster=f"r/{name}",
        endpoints=[Endpoint(address=f"{name}{i}:1") for i in sorted(members)],
        concurrency_per_replica=cap,
        metrics_path=metrics,
    )


numbers = st.floats(0, 1e4, allow_nan=False)
pod = st.fixed_dictionaries(
    {
        "waiting": numbers,
        "running": numbers,
        "kv": st.floats(0, 1),
        "age": st.one_of(st.none(), st.floats(0, 1e4)),
        "own": st.integers(0, 5),
        "fails": st.integers(0, 3),
    }
)
pools = st.lists(
    st.tuples(
        st.lists(pod, max_size=6), st.integers(0, 4), st.integers(0, 2), st.integers(0, 3), st.sampled_from("mn")
    ),
    min_size=1,
    max_size=4,
)


def build(spec):
    made = {}
    candidates = []
    for i, (members, cap, priority, weight, model) in enumerate(spec):
        name = "abcd"[i]
        made[name] = make_pool(name, range(len(members)), cap)
        candidates.append(Candidate(name, model, "t", priority, weight))
    candidates.sort(key=lambda c: c.priority)
    pods = PodTable()
    pods.update(made.values(), 0.0)
    n = 0
    for i, (members, *_) in enumerate(spec):
        for j, member in enumerate(members):
            slot = pods.slot("abcd"[i], f"{'abcd'[i]}{j}:1")
            if member["age"] is not None:
                at = NOW - member["age"]
                pods.observe(slot, PodSample(at, member["waiting"], member["running"], member["kv"]), at)
            for _ in range(member["own"]):
                n += 1
                pods.begin(f"own{n}", slot, 10, 10, NOW)
            for _ in range(member["fails"]):
                pods.fail(slot, NOW)
    return made, pods, Plan("p", "r", "t", "t", tuple(candidates))


def kind(pods, pool, slot):
    """2 failing, 1 capped, 0 fit; as the documentation says it."""
    data = pods.data
    if data[col.FAILURES, slot] > 0 and data[col.PROBE_AT, slot] > NOW:
        return 2
    cap = pool.concurrency_per_replica
    fresh = NOW - data[col.SCRAPED_AT, slot] <= TRUST_SECONDS
    if cap and (data[col.INFLIGHT, slot] >= cap or (fresh and data[col.SEEN, slot] >= cap)):
        return 1
    return 0


@settings(max_examples=150, deadline=None)
@given(pools, st.integers(1, 6), st.integers(0, 1000))
def test_attempts_are_sound(spec, attempts, seed):
    made, pods, plan = build(spec)
    before = pods.data.copy()
    got = place_plan(SimpleNamespace(pools=made), pods, plan, Ask(100, 10), NOW, Dice(seed), attempts)
    assert (pods.data == before).all()
    assert 1 <= len(got.attempts) <= attempts
    pairs = [(a.pool, a.endpoint) for a in got.attempts]
    assert len(set(pairs)) == len(pairs)
    models = {c.pool: c.model for c in plan.candidates}
    for attempt in got.attempts:
        pool = made[attempt.pool]
        if attempt.endpoint:
            assert attempt.endpoint in {e.address for e in pool.endpoints}
        else:
            assert not pool.endpoints
        assert attempt.model == models[attempt.pool]
        assert attempt.cluster == (pool.cluster if attempt.model == got.attempts[0].model else pool.rewrite_cluster)
    # One pool's pods stand together, and within it the fit come before the capped before the failing.
    runs = [p for i, (p, _) in enumerate(pairs) if i == 0 or pairs[i - 1][0] != p]
    assert len(set(runs)) == len(runs)
    for name in set(runs):
        kinds = [kind(pods, made[name], pods.slot(p, e)) for p, e in pairs if p == name and e]
        assert kinds == sorted(kinds)
    # A failing or capped pod is first only if there is no better anywhere; at least two of the first pool where it has them.
    everyone = [kind(pods, p, pods.slot(p.id, e.address)) for p in made.values() for e in p.endpoints]
    if everyone:
        assert pairs[0][1]
        assert kind(pods, made[pairs[0][0]], pods.slot(*pairs[0])) == min(everyone)
    first = made[pairs[0][0]]
    healthy = sum(kind(pods, first, pods.slot(first.id, e.address)) < 2 for e in first.endpoints)
    assert sum(p == first.id for p, _ in pairs) >= min(2, attempts, healthy)


@settings(max_examples=60, deadline=None)
@given(pools, st.integers(0, 1000))
def test_lowest_usable_level_is_served_first(spec, seed):
    made, pods, plan = build(spec)
    got = place_plan(SimpleNamespace(pools=made), pods, plan, Ask(100, 10), NOW, Dice(seed))
    fit = [
        c.priority
        for c in plan.candidates
        if any(kind(pods, made[c.pool], pods.slot(c.pool, e.address)) == 0 for e in made[c.pool].endpoints)
    ]
    if fit:
        first = next(c for c in plan.candidates if c.pool == got.attempts[0].pool)
        assert first.priority == min(fit)


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(6)), st.lists(pod, min_size=6, max_size=6), st.integers(0, 50))
def test_order_of_endpoints_in_the_snapshot_does_not_matter(order, members, seed):
    spec = [(members, 3, 0, 1, "m")]
    made, pods, plan = build(spec)
    table = SimpleNamespace(pools=made)
    one = place_plan(table, pods, plan, Ask(100, 10), NOW, Dice(seed), 6)
    shuffled = make_pool("a", range(6), 3)
    endpoints = [shuffled.endpoints[i] for i in order]
    del shuffled.endpoints[:]
    shuffled.endpoints.extend(endpoints)
    pods.update([shuffled], NOW)
    assert place_plan(SimpleNamespace(pools={"a": shuffled}), pods, plan, Ask(100, 10), NOW, Dice(seed), 6) == one


steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 30), st.integers(0, 9)),
        st.tuples(st.just("place"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("finish"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("first"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("observe"), st.integers(0, 9), st.integers(0, 20)),
        st.tuples(st.just("sweep"), st.just(0), st.just(0)),
        st.tuples(st.just("update"), st.integers(0, 1023), st.just(0)),
        st.tuples(st.just("fail"), st.integers(0, 9), st.just(0)),
    ),
    max_size=80,
)


@settings(max_examples=120, deadline=None)
@given(steps)
def test_ledger_and_columns_agree_whatever_happens(actions):
    pods = PodTable(ledger_limit=12, ttl=20.0)
    pool = make_pool("a", range(10))
    pods.update([pool], 0.0)
    now = 100.0
    dice = Dice(1)
    plan = Plan("p", "r", "t", "t", (Candidate("a", "m", "t", 0, 1),))
    for action, x, y in actions:
        now += 0.7
        slot = pods.slot("a", f"a{x}:1")
        if action == "begin":
            target = pods.slot("a", f"a{y}:1")
            pods.begin(f"r{x}", -1 if target is None else target, 10.0 * x, 3.0 * y, now)
        elif action == "place":
            got = place_plan(SimpleNamespace(pools={"a": pool}), pods, plan, Ask(100 + x, 10), now, dice)
            commit(pods, f"r{x}", got, plan, Ask(100 + x, 10), now)
        elif action == "finish":
            pods.finish(f"r{x}")
        elif action == "first":
            pods.first_token(f"r{x}")
        elif action == "observe" and slot is not None:
            pods.observe(slot, PodSample(now - 0.3, float(y), 1.0), now)
        elif action == "sweep":
            pods.sweep(now)
        elif action == "update":
            pool = make_pool("a", [i for i in range(10) if x >> i & 1])
            pods.update([pool], now)
        elif action == "fail" and slot is not None:
            pods.fail(slot, now)
        check(pods)
    for flight in list(pods.ledger):
        pods.finish(flight.id)
    check(pods)
    assert not pods.data[[col.INFLIGHT, col.PREFILL, col.DECODE, col.SINCE]].any()


def check(pods):
    requests, prefill, decode, since = Counter(), Counter(), Counter(), Counter()
    for flight in pods.ledger:
        if pods.is_current(flight.slot, flight.generation):
            requests[flight.slot] += 1
            prefill[flight.slot] += flight.prefill
            decode[flight.slot] += flight.decode
            since[flight.slot] += flight.recent
    for slot in range(pods.data.shape[1]):
        assert pods.data[col.INFLIGHT, slot] == requests[slot]
        assert abs(pods.data[col.PREFILL, slot] - prefill[slot]) < 1e-6
        assert abs(pods.data[col.DECODE, slot] - decode[slot]) < 1e-6
        assert pods.data[col.SINCE, slot] == since[slot]
        # Those that ended since the reading are taken off it.
        most = sum(pods.data[c, slot] for c in (col.WAITING, col.RUNNING, col.SINCE))
        assert since[slot] <= pods.data[col.SEEN, slot] <= most
        assert since[slot] or abs(pods.data[col.SINCE_TOKENS, slot]) < 1e-6
    assert len(pods.ledger) <= 12
