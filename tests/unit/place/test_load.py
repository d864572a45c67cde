import numpy as np
import pytest

from ralb_extproc.place import columns as col
from ralb_extproc.place.load import TRUST_SECONDS, backlog, load, steady, weight


def block(*pods):
    """Pods as (seen, age, own in flight)."""
    out = col.empty(len(pods))
    for i, (seen, age, own) in enumerate(pods):
        out[col.SEEN, i] = out[col.RUNNING, i] = seen
        out[col.SCRAPED_AT, i] = 1000.0 - age
        out[col.INFLIGHT, i] = own
    return out


def loads(*pods):
    data = block(*pods)
    state = steady(data, 0, 1000.0)
    return load(data, state.trust, state.typical).tolist()


def test_weight_is_1_fresh_half_at_the_constant_and_0_never():
    got = weight(np.array([0.0, TRUST_SECONDS, np.inf, -5.0]))
    assert got.tolist() == [1.0, 0.5, 0.0, 1.0]


def test_weight_has_no_cliffs():
    ages = np.linspace(0, 30, 3001)
    steps = np.diff(weight(ages))
    assert (steps < 0).all()
    assert steps.min() > -0.01


def test_fresh_pods_carry_what_they_say():
    assert loads((3, 0, 0), (7, 0, 0)) == [3, 7]


def test_stale_pod_is_not_empty():
    """It last said 0, an hour ago; its peers carry 10."""
    assert loads((0, 60, 0), (10, 0, 0), (10, 0, 0))[0] == pytest.approx(10, rel=1e-3)


def test_stale_pod_is_not_saturated():
    assert loads((500, 3600, 0), (2, 0, 0), (2, 0, 0))[0] == pytest.approx(2, abs=0.01)


def test_pod_never_read_carries_what_is_typical_or_what_we_sent():
    assert loads((0, np.inf, 1), (4, 0, 0), (6, 0, 0))[0] == pytest.approx(5)
    assert loads((0, np.inf, 8), (4, 0, 0), (6, 0, 0))[0] == pytest.approx(8)


def test_without_any_metrics_own_in_flight_decides():
    assert loads((0, np.inf, 3), (0, np.inf, 0)) == [3, 0]


def test_half_trusted_reading_is_halfway():
    got = loads((0, TRUST_SECONDS, 0), (10, 0, 0))
    typical = 10 / 1.5
    assert got[0] == pytest.approx(typical / 2)


def test_backlog_never_negative_and_drains():
    data = block((0, 0, 0), (0, 0, 0))
    data[col.BACKLOG] = [10_000, 10_000]
    data[col.BACKLOG_AT] = [999.5, 0.0]
    data[col.PREFILL_RATE] = 10_000
    assert backlog(data, 1000.0).tolist() == [5_000, 0]


def test_backlog_of_untouched_pods_is_zero():
    assert backlog(col.empty(3), 5.0).tolist() == [0, 0, 0]


def test_memory_factor():
    data = block((0, 0, 0), (0, 0, 0), (0, 0, 0))
    data[col.KV_USAGE] = [0.0, 0.9, 1.0]
    factor = steady(data, 0, 1000.0).factor
    assert factor[0] == 1.0
    assert factor[1] == pytest.approx(1 + 0.15 * 9)
    assert np.isfinite(factor).all()


def test_what_is_known_of_a_slow_pod_fades_while_it_is_sent_nothing():
    block = col.empty(3)
    block[col.FACTOR] = [4.0, 4.0, 1.0]
    block[col.BACKLOG_AT] = [100.0, 90.0, -np.inf]
    at_once = steady(block, 0, 100.0).pace
    assert at_once is not None
    assert at_once.tolist() == pytest.approx([4.0, 4.0**0.25, 1.0])
    assert steady(block, 0, 1000.0).pace == pytest.approx(1.0)
