"""How well each pod is, and what share of a pod's fair part of the work it may have for it.

    Healthy -> Degraded    at ``degraded_error`` of its requests failed, or ``slow_factor`` times slower than its peers
            -> Failed      at ``failed_error``; also, for as long as it lasts, while it refuses connections or work
    Failed -> Degraded -> Healthy      after a time that doubles with each relapse, when it answered many in a row, and errors and
                           slowness are below half of what brought it there; or, instead of the errors, very many in a row

    share = base x start, 0 to 1
    base    1 for Healthy, growing towards it by a tenth with each answer after an illness; 0.3 for errors; 1 / slowness for
            slowness; 0.05, which is probes, for Failed
    start   0.1 to 1 for a pod that is new or restarted: how many it answered, as fast as its peers, from as warm a cache; 1 when
            the slow start time is over

Error rates are shrunk: (bad + 0.15) / (all + 30), so that one error among three is no third; and counts halve in 30 s where there
are many, more slowly where there are few, since 2 % of a handful cannot be told. At most ``max_ejected`` of the pool is held back
for errors or slowness, the worst first, and nobody for errors that the peers make as well.

Pure: numbers in, numbers out. States, shares and rates are rows of a (rows x pods) matrix. ``ward`` keeps it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ralb_extproc.place import columns as col
from ralb_extproc.place.columns import Bools, Floats
from ralb_extproc.place.latency import peers_median

HEALTHY: Final = 0
DEGRADED: Final = 1
FAILED: Final = 2
NAMES: Final = ("Healthy", "Degraded", "Failed")

# Rows.
GOOD: Final = 0  # requests served, fading
BAD: Final = 1  # requests failed, fading
LEVEL: Final = 2  # by errors and slowness: HEALTHY, DEGRADED or FAILED
SINCE: Final = 3  # monotonic seconds of the last change of LEVEL
HOLD: Final = 4  # seconds it must stay ill at least
LEFT: Final = 5  # monotonic seconds at which it last became Healthy
STREAK: Final = 6  # served since the last failure, or since it became ill
BASE: Final = 7  # share, but for slow start
SERVED: Final = 8  # since it started
CREDIT: Final = 9  # requests that it may have, while its share is less than 1
SHARE: Final = 10
LIMITED: Final = 11  # monotonic seconds until which it wants no work
REFUSED: Final = 12  # connections refused in a row
ERROR_RATE: Final = 13  # shrunk, 0 to 1; as of the last review
SLOWNESS: Final = 14  # log of the factor; as of the last review
PLACED: Final = 15  # monotonic seconds of the last request sent to it, while ill
ROWS: Final = 16

DOWN_FAILURES: Final = 3.0
PRIOR_REQUESTS: Final = 30.0
PRIOR_ERRORS: Final = 0.15
# Fewer errors than this, fading, prove nothing.
MIN_ERRORS: Final = (1.5, 2.5)
HALF_LIFE: Final = 30.0
_ENOUGH: Final = 300.0  # requests that are worth forgetting in HALF_LIFE
_SLOWEST_FADE: Final = 20.0
ERROR_SHARE: Final = 0.3
PROBE_SHARE: Final = 0.05
LEAST_SHARE: Final = 0.1
HOLD_SECONDS: Final = 5.0
HOLD_MAX: Final = 300.0
_RELAPSE: Final = 10.0  # times HOLD: ill again within it is a relapse
_STREAK_PROBED: Final = 5.0
# Served in a row to be Healthy again after slowness, after errors whose rate fell, and after errors if that is all that is known;
# all of them more with relapses.
_STREAK: Final = 20.0
_STREAK_ERRORS: Final = 50.0
_STREAK_ALONE: Final = 100.0
_PATIENCE_MAX: Final = 8.0
_FORGIVEN: Final = 0.5
GROWTH: Final = 1.1
_RAMP_SECONDS: Final = 5.0  # no share grows from nothing to all in less
# A request is sent to an ill pod if none was for so long, whatever the strategy thinks of it.
PROBE_SECONDS: Final = 5.0
CREDIT_MAX: Final = 2.0
CREDIT_MIN: Final = -4.0
_STARTED: Final = 20.0  # answers after which a new pod is known
_WARM: Final = 0.1
_EXCESS: Final = 1.5
_STAY: Final = 1.5


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user says of health; see ``ralb.v1.Health``. Shares are 0 to 1, times seconds."""

    degraded_error: float = 0.02
    failed_error: float = 0.05
    max_ejected: float = 0.5
    slow_factor: float = 2.0
    slow_start: float = 30.0
    drain: float = 60.0


def initial() -> npt.NDArray[np.float64]:
    """The rows of a pod nothing is known of."""
    out = np.zeros(ROWS)
    out[[SINCE, LEFT, LIMITED, PLACED]] = -np.inf
    out[HOLD] = HOLD_SECONDS
    out[[BASE, SHARE]] = 1.0
    return out


def error_rate(good: Floats, bad: Floats) -> Floats:
    """Shrunk share of failed requests."""
    out: Floats = (bad + PRIOR_ERRORS) / (good + bad + PRIOR_REQUESTS)
    return out


def review(state: Floats, block: Floats, rules: Rules, slow: Floats, seconds: float, now: float) -> None:
    """Bring a pool's states and shares up to date.

    Args:
        state: (rows x pods), changed in place.
        block: the pods' columns of the table, (columns x pods).
        rules: the pool's.
        slow: log of how many times slower than its peers each is, (pods,).
        seconds: since the last review.
        now: monotonic seconds.
    """
    _fade(state, seconds)
    start = _start(state, block, rules, slow, now)
    error = state[ERROR_RATE] = error_rate(state[GOOD], state[BAD])
    # A pod that warms up is slow; that is what slow start is for.
    slow = state[SLOWNESS] = np.where(start < 1.0, 0.0, slow)
    log_factor = float(np.log(rules.slow_factor))
    _worsen(state, rules, error, slow, log_factor, now)
    _mend(state, rules, error, slow, log_factor, now)
    _set_base(state, rules, error, slow, log_factor)
    share = np.minimum(
        state[BASE], np.where(state[LEVEL] == HEALTHY, LEAST_SHARE + (now - state[SINCE]) / _RAMP_SECONDS, 1.0)
    )
    share[_spared(state, rules, error, slow, log_factor)] = 1.0
    share *= start
    if share.size == 1:
        share[:] = 1.0
    waits = (state[LEVEL] > HEALTHY) & (now - state[PLACED] >= PROBE_SECONDS)
    credit = np.clip(np.where(waits, np.maximum(state[CREDIT], 1.0), state[CREDIT]), CREDIT_MIN, CREDIT_MAX)
    state[CREDIT] = np.where((share < 1.0) & (state[SHARE] < 1.0), credit, 0.0)
    state[SHARE] = share


def _fade(state: Floats, seconds: float) -> None:
    count = state[GOOD] + state[BAD]
    slower = np.clip(_ENOUGH / np.maximum(count, 1.0), 1.0, _SLOWEST_FADE)
    keep = 0.5 ** (seconds / (HALF_LIFE * slower))
    state[GOOD] *= keep
    state[BAD] *= keep


def _start(state: Floats, block: Floats, rules: Rules, slow: Floats, now: float) -> Floats:
    """How far each pod has come since it is new, 0 to 1."""
    age = now - block[col.FIRST_SEEN]
    young = age < rules.slow_start
    out = np.ones(len(age))
    if not young.any():
        return out
    asked, found = block[col.QUERY_RATE], block[col.HIT_RATE]
    hits = found / np.maximum(asked, 1e-9)
    peers = hits[(asked > 0.0) & ~young]
    usual = float(np.median(peers)) if len(peers) else 0.0
    known = np.minimum(state[SERVED] / _STARTED, 1.0)
    known *= np.minimum((hits + _WARM) / (usual + _WARM), 1.0)
    known *= np.exp(-np.maximum(slow, 0.0))
    known = np.minimum(known, age / min(_RAMP_SECONDS, rules.slow_start)) if rules.slow_start else known
    out[young] = np.clip(np.maximum(known, age / max(rules.slow_start, 1e-9)), LEAST_SHARE, 1.0)[young]
    return out


def _worsen(state: Floats, rules: Rules, error: Floats, slow: Floats, log_factor: float, now: float) -> None:
    wanted = np.zeros(len(error))
    wanted[(error >= rules.degraded_error) & (state[BAD] >= MIN_ERRORS[0])] = DEGRADED
    wanted[slow >= log_factor] = DEGRADED
    wanted[(error >= rules.failed_error) & (state[BAD] >= MIN_ERRORS[1])] = FAILED
    level = state[LEVEL]
    worse = wanted > level
    fresh = worse & (level == HEALTHY)
    again = now - state[LEFT] < _RELAPSE * state[HOLD]
    state[HOLD] = np.where(fresh, np.where(again, np.minimum(2.0 * state[HOLD], HOLD_MAX), HOLD_SECONDS), state[HOLD])
    state[PLACED] = np.where(fresh, now, state[PLACED])
    state[LEVEL] = np.where(worse, wanted, level)
    state[SINCE] = np.where(worse, now, state[SINCE])
    state[STREAK] = np.where(worse, 0.0, state[STREAK])


def _mend(state: Floats, rules: Rules, error: Floats, slow: Floats, log_factor: float, now: float) -> None:
    over = now - state[SINCE] >= state[HOLD]
    probed = over & (state[LEVEL] == FAILED) & (state[STREAK] >= _STREAK_PROBED)
    # What it did before it failed is forgiven, all but one error: it is to be judged by what it does now.
    state[BAD] = np.where(probed, np.minimum(state[BAD], 1.0), state[BAD])
    state[GOOD] = np.where(probed, np.minimum(state[GOOD], PRIOR_REQUESTS), state[GOOD])
    patience = np.minimum(state[HOLD] / HOLD_SECONDS, _PATIENCE_MAX)
    wanted = np.where(state[BASE] == ERROR_SHARE, _STREAK_ERRORS, _STREAK)
    clean = (error < rules.degraded_error / 2.0) & (state[STREAK] >= wanted * patience)
    clean |= state[STREAK] >= _STREAK_ALONE * patience
    well = over & (state[LEVEL] == DEGRADED) & clean & (slow < log_factor / 2.0)
    state[BAD] = np.where(well, np.minimum(state[BAD], _FORGIVEN), state[BAD])
    state[LEVEL] = np.where(probed, DEGRADED, np.where(well, HEALTHY, state[LEVEL]))
    # Who is well goes on from the share it had: that of a pod whose slowness went away bit by bit is not taken back.
    begun = np.where(well, now - (state[BASE] - LEAST_SHARE) * _RAMP_SECONDS, now)
    state[SINCE] = np.where(probed | well, begun, state[SINCE])
    state[LEFT] = np.where(well, now, state[LEFT])


def _set_base(state: Floats, rules: Rules, error: Floats, slow: Floats, log_factor: float) -> None:
    level = state[LEVEL]
    base = np.ones(len(level))
    base[error >= rules.degraded_error / 2.0] = ERROR_SHARE
    late = slow >= log_factor / 2.0
    base[late] = np.minimum(base, np.maximum(np.exp(-slow), LEAST_SHARE))[late]
    base = np.where(base < 1.0, base, np.where(state[BASE] < 1.0, state[BASE], ERROR_SHARE))
    base[level == FAILED] = PROBE_SHARE
    state[BASE] = np.where(level == HEALTHY, state[BASE], base)


def _spared(state: Floats, rules: Rules, error: Floats, slow: Floats, log_factor: float) -> Bools:
    """Which ill pods keep their full share: their peers fail as often, or too many are held back already."""
    ill: Bools = state[LEVEL] > HEALTHY
    if not ill.any():
        return ill
    usual = peers_median(error, np.ones(len(error), np.bool_))
    common = (error < _EXCESS * usual) & (slow < log_factor / 2.0)
    held = ill & ~common
    count = len(ill)
    most = min(max(int(count * rules.max_ejected + 1e-9), 1), count - 1) if rules.max_ejected > 0.0 else 0
    if np.count_nonzero(held) > most:
        badness = error / rules.degraded_error + np.maximum(slow, 0.0) / log_factor
        # Those held back already go on being held back, or they would take turns.
        badness *= np.where(state[SHARE] < 1.0, _STAY, 1.0)
        badness[~held] = -1.0
        worst = np.argsort(-badness, kind="stable")[:most]
        held = np.zeros(count, np.bool_)
        held[worst] = True
        held &= ill
    ill &= ~held
    return ill
