"""What the operator is told of pods that cannot be read: lasting things only, bounded, and the same for the same state."""

from hypothesis import given
from hypothesis import strategies as st
from support_net import wait_until

from ralb.v1.snapshot_pb2 import Endpoint, Engine, Pool
from ralb_extproc.metrics import Scraper
from ralb_extproc.metrics.troubles import LASTING_S, MAX_EXAMPLES, MAX_POOLS, MAX_TROUBLES, SETTLED_S, Reading, report
from ralb_extproc.place import PodTable


def told(readings, now):
    return [
        (pool.pool, pool.pods, [(t.series, t.error, t.pods, list(t.examples)) for t in pool.troubles])
        for pool in report(readings, now).pools
    ]


def test_pods_that_just_started_are_not_told_of():
    one = Reading("ns/p", "pod-1")
    one.failed("refused", 0.0)
    assert told([one], LASTING_S - 0.1) == []
    one.failed("timeout", 10.0)
    assert told([one], LASTING_S) == [("ns/p", 1, [("", "timeout", 1, ["pod-1"])])]
    assert one.lacks((), 20.0) is False
    assert told([one], 60.0) == []


def test_missing_series():
    pods = [Reading("ns/p", f"pod-{i}") for i in range(5)]
    for pod in pods[:3]:
        assert pod.lacks(("a", "b"), 0.0) is True
        assert pod.lacks(("a", "b"), 5.0) is False
    pods[3].lacks(("b",), 0.0)
    assert told(pods, LASTING_S) == [
        ("ns/p", 5, [("b", "", 4, ["pod-0", "pod-1", "pod-2"]), ("a", "", 3, ["pod-0", "pod-1", "pod-2"])])
    ]
    pods[0].lacks((), 20.0)
    assert told(pods, 20.0)[0][2][0] == ("b", "", 3, ["pod-1", "pod-2", "pod-3"])


def test_a_page_that_cannot_be_had_says_nothing_of_series():
    one = Reading("ns/p", "pod-1")
    one.lacks(("a",), 0.0)
    one.failed("timeout", 1.0)
    assert told([one], 100.0) == [("ns/p", 1, [("", "timeout", 1, ["pod-1"])])]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 99),
            st.text(max_size=300),
            st.lists(st.sampled_from("abcdef"), max_size=6, unique=True),
            st.sampled_from(("", "timeout", "refused")),
        ),
        max_size=150,
    )
)
def test_it_is_bounded_and_does_not_depend_on_order(pods):
    readings = []
    for number, name, missing, error in pods:
        reading = Reading(f"ns/p{number}", name)
        reading.lacks(tuple(missing), 0.0)
        if error:
            reading.failed(error, 0.0)
        readings.append(reading)
    found = report(readings, LASTING_S)
    assert len(found.pools) <= MAX_POOLS
    for pool in found.pools:
        assert 0 < len(pool.troubles) <= MAX_TROUBLES
        assert all(len(trouble.examples) <= min(trouble.pods, MAX_EXAMPLES) for trouble in pool.troubles)
        assert all(trouble.pods <= pool.pods for trouble in pool.troubles)
    assert report(reversed(readings), LASTING_S) == found


async def test_the_scraper_tells_after_a_while():
    now = [0.0]
    endpoints = [Endpoint(address="127.0.0.1:1", name="pod-1"), Endpoint(address="nonsense")]
    pool = Pool(id="ns/p", engine=Engine.ENGINE_VLLM, metrics_path="/metrics", endpoints=endpoints)
    pods = PodTable()
    pods.update([pool], 0.0)
    scraper = Scraper(pods, clock=lambda: now[0])
    assert scraper.report() is None
    try:
        scraper.update([pool])
        await wait_until(lambda: sum(scraper.failing().values()) == 2)
        assert scraper.report() is None
        now[0] = SETTLED_S
        (found,) = scraper.report().pools
        assert [(t.error, list(t.examples)) for t in found.troubles] == [
            ("address", ["nonsense"]),
            ("refused", ["pod-1"]),
        ]
        generic = Pool(id="ns/p", engine=Engine.ENGINE_GENERIC, metrics_path="/metrics", endpoints=endpoints)
        scraper.update([generic])
        assert not scraper.report().pools
    finally:
        await scraper.stop()
