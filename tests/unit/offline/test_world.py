"""Who sees what and when; who is sent where and when. Policies here keep to one order."""

from bisect import bisect_right
from dataclasses import replace
from typing import Any

import pytest
from support_offline import Plain, job, plain_world, profile, stream

from ralb_sim.offline import world as module
from ralb_sim.offline.policies import REFERENCE
from ralb_sim.offline.policy import Done
from ralb_sim.offline.workload import Job
from ralb_sim.offline.world import Play, Served, World

PODS = [profile()] * 3


def outcome(policy: str, jobs: list[Job], block: int = 0, **play: Any) -> list[Served]:
    return World(jobs, block, PODS, REFERENCE[policy], Play(**play)).play().requests


@pytest.mark.parametrize("policy", REFERENCE)
def test_a_seed_is_a_history(policy: str) -> None:
    jobs = [replace(one, blocks=tuple(range(one.input // 64))) for one in stream(150)]
    again = [outcome(policy, jobs, 64, seed=seed, replicas=2) for seed in (1, 1, 2)]
    assert again[0] == again[1]
    assert all(row.finished > 0 for row in again[0])


def test_chance_is_the_same_for_all_policies() -> None:
    """Which replica is asked, when pages are taken: nothing that a policy does moves it."""
    jobs = stream(200)
    histories = []
    for order in ([0, 1], [1, 0]):
        _, routers, _ = plain_world(jobs, 2, order, replicas=3, seed=5)
        histories.append(
            [
                ([(now, work.id) for now, work in router.of("place")], [at for _, (_, at, _) in router.of("scraped")])
                for router in routers
            ]
        )
    assert histories[0] == histories[1]
    assert histories[0] != [
        ([(now, work.id) for now, work in router.of("place")], [at for _, (_, at, _) in router.of("scraped")])
        for router in plain_world(jobs, 2, [0, 1], replicas=3, seed=6)[1]
    ]


def test_replicas_do_not_see_each_other() -> None:
    _, routers, _ = plain_world(stream(300), replicas=3)
    asked = [{work.id for _, work in router.of("place")} for router in routers]
    assert sorted(map(int, set().union(*asked))) == list(range(300))
    assert sum(map(len, asked)) == 300
    assert all(60 < len(own) < 140 for own in asked)
    for own, router in zip(asked, routers, strict=True):
        assert {request for _, request in router.of("first")} == own
        assert {done.id for _, done in router.of("finished")} <= own
        assert len(router.of("finished")) > 0.9 * len(own)  # the run ends before the last ones are told
    assert len({router.setting.rng.random() for router in routers}) == 3


def test_time_never_runs_backwards_for_a_policy() -> None:
    for router in plain_world(stream(300, every=0.01), replicas=2, staleness_s=0.5)[1]:
        times = [now for _, now, _ in router.heard]
        assert times == sorted(times)


@pytest.mark.parametrize("stale", [0.01, 0.5, 2.0])
@pytest.mark.parametrize("replicas", [1, 3])
def test_pages_are_neither_older_than_said_nor_from_the_future(stale: float, replicas: int) -> None:
    _, routers, _ = plain_world(stream(200, every=0.2), staleness_s=stale, replicas=replicas)
    for router in routers:
        ages, newest = [], None
        for kind, now, what in router.heard:
            if kind == "scraped":
                assert what[1] <= now
                newest = what[1]
            elif kind == "place" and now > stale:
                ages.append(now - newest)
        assert max(ages) <= stale * (1 + 1e-9)
        assert max(ages) > 0.5 * stale
        assert min(ages) < 0.5 * stale


class Diligent(World):
    """Takes every page, needed or not."""

    def _needless(self, now: float) -> int:
        return 0


@pytest.mark.parametrize("replicas", [1, 2])
def test_pages_that_nobody_can_see_may_be_left_out(monkeypatch: pytest.MonkeyPatch, replicas: int) -> None:
    jobs = [*stream(60, every=3.0, output=200), job(400.0), job(401.0)]
    histories = []
    for kind in (World, Diligent):
        monkeypatch.setattr("support_offline.World", kind)
        run, routers, world = plain_world(jobs, staleness_s=0.05, replicas=replicas)
        histories.append(([router.heard for router in routers], run.requests, run.work))
        scrapes = sum(world._scrapes)
    assert histories[0] == histories[1]
    assert scrapes > 400 / 0.05 * replicas * 0.9


def test_what_a_page_says() -> None:
    jobs = [job(0.0, 100, 1000), job(0.0, 50, 1000), job(3.0, 10, 10)]
    _, (router,), _ = plain_world(jobs, 1, staleness_s=0.5)
    (now, (_, at, page)) = router.of("scraped")[-1]
    assert (now, 2.5 < at <= 3.0) == (3.0, True)
    assert (page.running, page.waiting, page.prompt_tokens, page.kv_capacity) == (2, 0, 150, PODS[0].kv_tokens)
    assert 400 < page.generation_tokens < 1000
    assert page.itl_count == page.generation_tokens - 2
    assert page.kv_usage == pytest.approx((150 + page.generation_tokens) / PODS[0].kv_tokens)


def test_what_a_policy_is_told_of_a_request() -> None:
    jobs = [job(1.0, 96, 20, blocks=(1, 2, 3)), job(5.0, 96, 20, blocks=(1, 2, 4), session="s"), job(9.0)]
    run, (router,), _ = plain_world(jobs, 2, [1, 0], block=32)
    first, second, _ = run.requests
    _, work = router.of("place")[1]
    assert (work.id, work.input_tokens, work.blocks, work.block_tokens, work.session) == ("1", 96, (1, 2, 4), 32, "s")
    assert not hasattr(work, "output")
    assert router.of("first")[0] == (first.first_token, "0")
    now, done = router.of("finished")[1]
    assert now == second.finished + 0.05
    assert done == Done("1", 1, True, second.first_token - 5.0, second.finished - 5.0, 20, 64, 1)
    assert (second.pod, second.cached, second.attempts) == (1, 64, 1)


def test_a_conversation_waits_for_its_answers() -> None:
    """Turns that come too early wait; late ones come when they do."""
    jobs = [job(0.0, output=500), job(0.1, before=0), job(0.2, before=1), job(100.0, before=2), job(0.15)]
    for closed in (0, 1, 5):
        run, _, _ = plain_world(jobs, 2, closed=closed)
        rows = run.requests
        assert all(row.finished > 0 for row in rows)
        for index, one in enumerate(jobs):
            if one.before >= 0:
                assert rows[index].arrived >= rows[one.before].finished
        if not closed:
            assert [rows[n].arrived for n in (1, 2, 3, 4)] == [rows[0].finished, rows[1].finished, 100.0, 0.15]


def test_closed_keeps_so_many_in_flight() -> None:
    jobs = stream(200)
    run, _, _ = plain_world(jobs, closed=7)
    begins = sorted(row.arrived for row in run.requests)
    ends = sorted(row.finished for row in run.requests)
    for count, at in enumerate(begins):
        assert count - bisect_right(ends, at) <= 7
    assert begins[7] == ends[0]
    assert begins[-1] < ends[-1] / 1.01


def test_speed_of_the_clock() -> None:
    run, _, _ = plain_world([job(0.0), job(10.0), job(30.0)], speedup=4.0)
    assert [row.arrived for row in run.requests] == [0.0, 2.5, 7.5]


def test_seeds_differ_in_who_meets_whom() -> None:
    jobs = stream(100)
    gap = jobs[-1].t / 2 / 100
    times = []
    for seed in (1, 1, 2):
        rows = plain_world(jobs, jitter=1.0, speedup=2.0, seed=seed)[0].requests
        late = [row.arrived - one.t / 2 for row, one in zip(rows, jobs, strict=True)]
        assert 0 <= min(late) < 0.1 * gap < 0.9 * gap < max(late) <= gap
        times.append(late)
    assert times[0] == times[1] != times[2]


def test_the_first_ones_are_not_measured() -> None:
    run, _, _ = plain_world(stream(100), warmup=0.3)
    assert [row.measured for row in run.requests] == [False] * 30 + [True] * 70
    assert run.span_s == run.requests[99].arrived - run.requests[30].arrived
    assert run.rate == pytest.approx(70 / run.span_s)


def test_work_is_that_of_the_measured_part() -> None:
    """The first request is not measured; of the second, a leap under way, a part counts."""
    jobs = [job(0.0, 1000, 300), job(50.0, 1000, 300), job(51.0, 1, 1)]
    run, _, _ = plain_world(jobs, 1, warmup=0.34)
    whole, _, _ = plain_world([*jobs[:2], job(90.0, 1, 1)], 1, warmup=0.34)
    assert 0 < run.work[0] < 0.75 * whole.work[0]
    share = (51.0 - whole.requests[1].first_token) / (whole.requests[1].finished - whole.requests[1].first_token)
    prefill = 1000 * PODS[0].b / 1000 + PODS[0].a_p * 500
    assert run.work[0] - prefill == pytest.approx(share * (whole.work[0] - prefill), rel=0.1)
    assert whole.work[0] == pytest.approx(
        (1299 * PODS[0].b + PODS[0].a_p * 500_000 + PODS[0].a_d * sum(range(1000, 1299)) / 1000) / 1000, rel=1e-6
    )


def test_balance_is_seen_though_every_pod_is_always_busy() -> None:
    jobs = stream(600, every=0.02)

    class Lopsided(Plain):
        def place(self, work: Any, now: float) -> list[int]:
            return [0] if int(work.id) % 4 else [1]

    run = World(jobs, 0, PODS[:2], Lopsided, Play()).play()
    assert run.work[0] / run.work[1] == pytest.approx(3.0, rel=0.15)


def test_mixed_fleets_take_each_what_fits() -> None:
    small, large = profile("llama-3-8b-l4"), profile("llama-3-70b-4xh100")
    jobs = [job(0.0, 20_000, 10), job(1.0, 40_000, 10), job(2.0, 300_000, 10)]
    run, (router,), _ = plain_world(jobs, [small, large], [0, 1])
    assert [(row.pod, row.attempts, row.finished > 0) for row in run.requests] == [
        (0, 1, True),
        (1, 1, True),
        (-1, 0, False),
    ]
    assert router.setting.kv_tokens == [small.kv_tokens, large.kv_tokens]
    assert run.requests[0].first_token > 1.5 * (run.requests[1].first_token - 1.0)  # each at its own pace


def test_memory_is_bounded() -> None:
    """What is kept during a run is by request or by pod."""
    run, _, world = plain_world(stream(500, every=0.01, output=200), staleness_s=0.01, replicas=3)
    assert len(run.requests) == 500
    assert len(world._heap) < 300
    assert not any(pod.running or pod.waiting or pod.decoding for pod in world.pods)
    assert all(len(pages) == 2 for pages in world._pages)
    assert not world._followers
    assert module.Served.__slots__
