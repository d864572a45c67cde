"""Condition ``MetricsAvailable``: from what processors tell to what a pool's author reads."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ralb.v1.snapshot_pb2 import MetricsReport, MetricsTrouble, PoolMetrics
from ralb_api.problems import ObjectKey
from ralb_operator.cluster.scraping import judge, scraping
from ralb_operator.troubles import MAX_EXAMPLES, MAX_POOLS, MAX_TROUBLES, Trouble, merged, told

POOL = ObjectKey("ModelPool", "ns", "p")
WAITING = "vllm:num_requests_waiting"
FALSE = {"type": "MetricsAvailable", "status": "False", "reason": "MissingSeries", "message": "m"}


def missing(pods: int, of: int, *examples: str, series: str = WAITING) -> Trouble:
    return Trouble("ns/p", series, "", pods, of, examples)


def said(
    *troubles: Trouble,
    before: dict[str, Any] | None = None,
    processors: int = 1,
    heard: int = 1,
    deserted: bool = False,
) -> tuple[str, str, str] | None:
    return judge(POOL, scraping([(troubles, processors, heard)], deserted=deserted), before)


def test_a_pool_that_always_was_well_has_no_such_condition() -> None:
    assert said() is None
    assert said(Trouble("ns/other", WAITING, "", 1, 1)) is None


def test_a_missing_series() -> None:
    assert said(missing(4, 8, "a", "b", "c")) == (
        "False",
        "MissingSeries",
        f"4 of 8 pods do not publish {WAITING}: a, b, c and 1 more. Until then placement goes by what gateways have in flight "
        "there.",
    )


def test_pods_that_cannot_be_read() -> None:
    found = said(Trouble("ns/p", "", "timeout", 1, 2, ("a",)))
    assert found is not None
    assert found[:2] == ("False", "Unreadable")
    assert found[2].startswith("1 of 2 pods cannot be read (timeout): a.")
    both = said(Trouble("ns/p", "", "timeout", 2, 3, ("a", "c")), missing(1, 3, "b"))
    assert both is not None
    assert both[1] == "MissingSeries"
    assert "; " in both[2]


def test_it_is_true_once_all_processors_see_nothing_amiss() -> None:
    assert said(before=FALSE) == ("True", "Available", "What placement needs is read from all pods.")
    assert said(before=FALSE, processors=3, heard=2) == ("False", "MissingSeries", "m"), "one has not told yet"


def test_it_is_unknown_when_nobody_has_looked_for_long() -> None:
    assert said(before=FALSE, processors=0, heard=0) == ("False", "MissingSeries", "m")
    found = said(before=FALSE, processors=0, heard=0, deserted=True)
    assert found is not None
    assert found[:2] == ("Unknown", "NoGateway")
    assert said(before={"status": 3}, processors=0, heard=0) is None, "somebody wrote nonsense"


def test_what_several_processors_and_replicas_tell_is_one_thing() -> None:
    known = scraping([((missing(2, 8, "a", "b"),), 1, 1), ((missing(3, 8, "b", "c", "d"),), 1, 1)], deserted=False)
    assert known.troubles == {"ns/p": [missing(3, 8, "a", "b", "c")]}


texts = st.text(max_size=400)
reports = st.builds(
    lambda pools: MetricsReport(pools=pools),
    st.lists(
        st.builds(
            lambda pool, pods, troubles: PoolMetrics(pool=pool, pods=pods, troubles=troubles),
            texts,
            st.integers(0, 2**32 - 1),
            st.lists(
                st.builds(
                    lambda series, error, pods, examples: MetricsTrouble(
                        series=series, error=error, pods=pods, examples=examples
                    ),
                    texts,
                    texts,
                    st.integers(0, 2**32 - 1),
                    st.lists(texts, max_size=9),
                ),
                max_size=9,
            ),
        ),
        max_size=9,
    ),
)


@given(st.lists(reports, max_size=4))
def test_whatever_processors_tell_it_is_bounded(sent: list[MetricsReport]) -> None:
    found = merged(trouble for report in sent for trouble in told(report))
    assert len(found) <= MAX_POOLS * MAX_TROUBLES
    assert merged(found) == found
    for trouble in found:
        assert len(trouble.pool) <= 507
        assert len(trouble.series) <= 128
        assert len(trouble.examples) <= MAX_EXAMPLES
        assert (trouble.series + trouble.error + "".join(trouble.examples)).isprintable()
