"""What happens to pods, and to the requests on them."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_offline import job, plain_world, profile, stream

from ralb_sim.offline.fleet import Event, Kind, absent_at_start
from ralb_sim.offline.policies import REFERENCE
from ralb_sim.offline.world import Play, World

START, STOP, SPEED, FREEZE, ERRORS = Kind.START, Kind.STOP, Kind.SPEED, Kind.FREEZE, Kind.ERRORS


def test_a_request_whose_pod_dies_before_its_first_token_goes_to_the_next() -> None:
    jobs = [job(0.0, 8000, 10), job(0.0, 8000, 10), job(9.0)]
    run, (router,), _ = plain_world(jobs, 3, [1, 2, 0], events=[Event(0.1, 1, STOP)])
    for row in run.requests[:2]:
        assert (row.pod, row.attempts, row.finished > 0.1) == (2, 2, True)
    done = router.of("finished")[0][1]
    assert (done.ok, done.pod, done.attempts) == (True, 2, 2)
    assert done.ttft == run.requests[0].first_token
    assert router.of("pods") == [(0.0, [0, 1, 2]), (0.1, [0, 2])]
    assert len(router.of("finished")) == 2  # one report each


def test_after_the_first_token_it_is_lost() -> None:
    jobs = [job(0.0, 100, 1000), job(9.0)]
    run, (router,), _ = plain_world(jobs, 2, [0, 1], events=[Event(3.0, 0, STOP)])
    row = run.requests[0]
    assert (0 < row.first_token < 1, row.finished, row.pod, row.attempts) == (True, -1.0, 0, 1)
    now, done = router.of("finished")[0]
    assert (now, done.ok, done.pod, done.output_tokens, done.duration) == (3.05, False, 0, 0, 3.0)


def test_a_conversation_goes_on_after_a_lost_answer() -> None:
    jobs = [job(0.0, 100, 1000), job(0.5, before=0)]
    run, _, _ = plain_world(jobs, 2, [0, 1], events=[Event(3.0, 0, STOP)])
    assert (run.requests[1].arrived, run.requests[1].pod, run.requests[1].finished > 3) == (3.0, 1, True)


def test_when_nobody_is_there_requests_fail_and_nothing_hangs() -> None:
    events = [Event(1.0, 0, STOP), Event(1.0, 1, STOP), Event(3.0, 1, START)]
    jobs = [job(0.9, 100, 500), job(2.0), job(2.1, before=1), job(4.0)]
    run, (router,), _ = plain_world(jobs, 2, events=events)
    assert [row.finished > 0 for row in run.requests] == [False, False, False, True]
    assert (run.requests[1].pod, run.requests[3].pod) == (-1, 1)
    assert [work.id for _, work in router.of("place")] == ["0", "3"]  # nobody can be chosen where nobody is
    assert plain_world(jobs, 2, events=[Event(50.0, pod, START) for pod in (0, 1)])[0].requests[3].finished == -1


@pytest.mark.parametrize("policy", REFERENCE)
def test_every_policy_gets_through_a_bad_day(policy: str) -> None:
    """Pods die, start again, fail, crawl; all go at once. Whoever is not served has failed."""
    rng = random.Random(1)
    events = [Event(0.0, 3, START), Event(9.0, 3, START)]
    for kind, value in ((STOP, 1), (START, 1), (SPEED, 0.1), (FREEZE, 1), (ERRORS, 0.5), (START, 1)):
        events += [Event(rng.uniform(1, 12), pod, kind, value) for pod in (0, 1, 2)]
    events += [Event(13.0, pod, STOP) for pod in range(4)] + [Event(14.0, 1, START)]
    jobs = stream(400, every=0.04)
    run = World(jobs, 0, [profile()] * 4, REFERENCE[policy], Play(events=events, replicas=2)).play()
    assert all(row.arrived >= 0 for row in run.requests)
    served = [row for row in run.requests if row.finished >= 0]
    assert 150 < len(served) < 400
    assert all(row.arrived < row.first_token <= row.finished for row in served)


def test_errors_are_tried_elsewhere_and_told_once() -> None:
    run, (router,), _ = plain_world(stream(400), 3, [0, 1, 2], events=[Event(0.0, 0, ERRORS, 0.3)], seed=3)
    tried = Counter((row.pod, row.attempts) for row in run.requests)
    assert tried.keys() == {(0, 1), (1, 2)}
    assert tried[1, 2] == pytest.approx(120, abs=30)
    ids = [done.id for _, done in router.of("finished")]
    assert len(ids) == len(set(ids))
    failing, well = (
        plain_world([job(0.0)], 2, [0, 1], events=[Event(0.0, 0, ERRORS, share)])[0].requests[0] for share in (1.0, 0.0)
    )
    assert failing.first_token == pytest.approx(well.first_token + 0.005)


def test_who_is_failed_by_all_has_failed() -> None:
    events = [Event(0.0, pod, ERRORS, 1.0) for pod in range(6)]
    run, (router,), _ = plain_world([job(1.0), job(2.0)], 6, events=events)
    row = run.requests[0]
    assert (row.finished, row.first_token, row.attempts, row.pod) == (-1.0, -1.0, 4, 3)
    done = router.of("finished")[0][1]
    assert (done.ok, done.pod, done.attempts, done.ttft) == (False, 3, 4, -1.0)


def test_frozen_pages_stay_and_the_rest_goes_on() -> None:
    jobs = stream(600, every=0.02)
    events = [Event(4.0, 0, FREEZE, 1), Event(8.0, 0, FREEZE, 0)]
    run, (router,), _ = plain_world(jobs, 1, events=events)
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    for _, (_, at, page) in router.of("scraped"):
        seen[4.0 <= at < 8.0].add(page.prompt_tokens)
    assert len(seen[True]) == 1 < 50 < len(seen[False])
    assert run.requests == plain_world(jobs, 1)[0].requests


def test_a_slow_pod_is_slow_at_once_and_no_longer_than_said() -> None:
    """Also one in the middle of a leap of a thousand steps."""
    jobs = [job(0.0, 100, 1001)]
    plain = plain_world(jobs, 1)[0].requests[0].finished
    slow = plain_world(jobs, 1, events=[Event(2.0, 0, SPEED, 0.5)])[0].requests[0].finished
    assert slow - 2.0 == pytest.approx(2 * (plain - 2.0), rel=0.01)
    back = plain_world(jobs, 1, events=[Event(2.0, 0, SPEED, 0.5), Event(4.0, 0, SPEED, 1)])[0].requests[0].finished
    assert back - 4.0 == pytest.approx(plain - 3.0, rel=0.01)


def test_a_late_pod_is_not_there_before() -> None:
    jobs = stream(400)
    run, (router,), _ = plain_world(jobs, 2, [1, 0], events=[Event(5.0, 1, START), Event(7.0, 1, SPEED, 0.5)])
    assert absent_at_start([Event(5.0, 1, START), Event(1.0, 2, STOP), Event(2.0, 2, START)]) == {1}
    assert {row.pod for row in run.requests if row.arrived < 5.0} == {0}
    assert {row.pod for row in run.requests if row.arrived > 5.0} == {1}
    assert router.of("pods") == [(0.0, [0]), (5.0, [0, 1])]
    assert all(at >= 5.0 for _, (pod, at, _) in router.of("scraped") if pod == 1)


def test_a_pod_that_starts_again_is_empty_and_well() -> None:
    """No page of its former self is shown, and its counters start again; its work goes on."""
    jobs = [job(at / 10, 64, 50, blocks=(1, 2)) for at in range(100)]
    events = [
        Event(2.0, 0, SPEED, 0.5), Event(2.0, 0, FREEZE, 1), Event(2.0, 0, ERRORS, 1.0), Event(5.0, 0, STOP),
        Event(5.01, 0, START),
    ]  # fmt: skip
    run, (router,), _ = plain_world(jobs, 1, block=32, events=events, staleness_s=0.5)
    rows = run.requests
    assert all(row.finished < 0 for row in rows if 2.0 <= row.arrived <= 5.0)
    after = [row for row in rows if row.arrived > 5.01]
    assert all(row.finished > 0 for row in after)
    assert [row.cached for row in after[:1] + after[-1:]] == [0, 32]
    pages = [(now, at, page) for now, (_, at, page) in router.of("scraped")]
    assert not [at for now, at, _ in pages if now >= 5.0 > at]
    assert next(page.prompt_tokens for _, at, page in pages if at > 5.01) <= 64 * 6
    quiet = plain_world(jobs[:50], 1, block=32)[0]
    assert run.work[0] > quiet.work[0]


def test_a_restart_of_a_pod_that_is_there_loses_what_it_had() -> None:
    run, _, _ = plain_world([job(0.0, 100, 1000), job(5.0)], 1, events=[Event(2.0, 0, START)])
    # The first event of the pod is a start, so it was not there before.
    assert [row.finished > 0 for row in run.requests] == [False, True]
    events = [Event(0.0, 0, SPEED, 1.0), Event(2.0, 0, START)]
    run, _, _ = plain_world([job(0.0, 100, 1000), job(5.0)], 1, events=events)
    assert (run.requests[0].first_token > 0, run.requests[0].finished, run.requests[1].finished > 5) == (
        True,
        -1.0,
        True,
    )


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (Event(0.0, 2, STOP), "pods 0 to 1"),
        (Event(0.0, -1, STOP), "pods 0 to 1"),
        (Event(-1.0, 0, STOP), "time"),
        (Event(math.nan, 0, STOP), "time"),
        (Event(math.inf, 0, STOP), "time"),
        (Event(0.0, 0, SPEED, 0.0), "from 0.001"),
        (Event(0.0, 0, ERRORS, 1.1), "from 0 to 1"),
        (Event(0.0, 0, FREEZE, math.nan), "from 0 to 1"),
    ],
)
def test_what_cannot_happen(event: Event, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        plain_world([job(0.0)], 2, events=[event])


events = st.builds(
    Event,
    st.one_of(st.floats(0.0, 3.0), st.sampled_from([0.0, 0.5, 1.0])),
    st.integers(0, 2),
    st.sampled_from(list(Kind)),
    st.sampled_from([0.5, 1.0]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(events, max_size=12), st.integers(1, 3), st.integers(0, 3))
def test_whatever_happens_all_end_in_order(happening: list[Event], replicas: int, closed: int) -> None:
    jobs = [job(n * 0.1, 500, 1 + n * 7 % 90, before=n - 3 if n % 2 and n > 2 else -1) for n in range(25)]
    run, routers, world = plain_world(jobs, 3, events=happening, replicas=replicas, closed=closed)
    assert all(row.arrived >= 0 for row in run.requests)
    assert all(row.finished < 0 or row.arrived < row.first_token <= row.finished for row in run.requests)
    assert not any(pod.running or pod.waiting for pod in world.pods)
    for router in routers:
        times = [now for _, now, _ in router.heard]
        assert times == sorted(times)
