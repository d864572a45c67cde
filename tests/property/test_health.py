import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ralb_extproc.place import columns as col
from ralb_extproc.place import health
from ralb_extproc.place.health import Rules, review

step = st.tuples(
    st.integers(0, 5),  # pod
    st.integers(0, 50),  # served
    st.integers(0, 50),  # failed
    st.floats(0.25, 20.0),  # seconds
    st.floats(0.2, 20.0),  # how slow
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(step, min_size=1, max_size=120),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.2, 0.5, 0.9]),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_whatever_happens(steps, count, most, young):
    state = np.repeat(health.initial()[:, np.newaxis], count, axis=1)
    block = col.empty(count)
    rules, now = Rules(max_ejected=most), 1000.0
    for pod in range(count):
        if young[pod]:
            block[col.FIRST_SEEN, pod] = now
    slow, ill = np.zeros(count), [0] * count
    for pod, good, bad, seconds, factor in steps:
        pod %= count
        state[[health.GOOD, health.STREAK, health.SERVED], pod] += good
        state[health.BAD, pod] += bad
        if bad:
            state[health.STREAK, pod] = 0.0
        slow[pod] = np.log(factor)
        before = state[health.LEVEL].copy()
        now += seconds
        review(state, block, rules, slow, seconds, now)
        for i in range(count):
            ill[i] += before[i] == 0 < state[health.LEVEL, i]
        share = state[health.SHARE]
        assert ((share >= health.PROBE_SHARE * health.LEAST_SHARE) & (share <= 1.0)).all()
        assert ((state[health.CREDIT] >= health.CREDIT_MIN) & (state[health.CREDIT] <= health.CREDIT_MAX)).all()
        held = (state[health.LEVEL] > 0) & (now - block[col.FIRST_SEEN] > rules.slow_start) & (share < 1.0)
        assert np.count_nonzero(held) <= min(max(int(count * most), int(most > 0)), count - 1)
        assert np.isfinite(state[[health.ERROR_RATE, health.BASE, health.HOLD]]).all()
    # Each illness takes at least HOLD, which doubles unless the pod was well for ten times as long.
    for times in ill:
        assert times <= 2 + np.log2(60) + (now - 1000.0) / 50.0
