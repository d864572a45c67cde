"""How fast the pods of a pool are, learned from what became of requests: seconds to the first token, seconds per token.

Both are linear in what an engine's step costs:

    first token = wait + base + prefill
      base      = t0 + t1 requests + t2 context                  the step that the request joins
      prefill   = p1 uncached + p2 uncached (cached + uncached / 2)     its own tokens, and their attention
    per token   = i0 + i1 requests + i2 context

with requests and context (tokens held) of the pod when the request came, and the wait as foreseen then. The coefficients come
from ridge regression: weighted least squares with fading memory and a prior, which is worth a handful of samples, so a new pool
behaves sensibly and nothing can run away. Samples count by relative error; one that came to a queue or to a full cache says
nothing about speed and is left out; none can be negative.

May not enter: pods (one that is slower than its peers has a factor of its own, see ``clock``), clocks, I/O.
"""

from math import exp, inf, isfinite, log
from typing import Final, NamedTuple

import numpy as np

from ralb_extproc.place.columns import Floats

_DECAY: Final = 0.995
_EVERY: Final = 8  # samples between two solutions
_SURPRISE: Final = 4.0  # a sample counts as at most so many times what was expected, and at least that fraction
_RATE: Final = 0.02  # of running means
_RIDGE: Final = 1e-9
_MOST_REQUESTS: Final = 1e5
_MOST_TOKENS: Final = 1e7
_MOST_SECONDS: Final = 1e6
_MOST: Final = 1e8  # of a feature; more is no sample
_LEAST_SECONDS: Final = 1e-4  # by which surprise is judged where nothing is expected
_TAKEN_OUT: Final = 0.9  # of what a pod's factor explains, from the mean surprise: drawn to factors around 1
# Units of the features, so that coefficients are of one size: requests, tokens of context, tokens, tokens squared.
_REQUESTS: Final = 1e-2
_CONTEXT: Final = 1e-5
_TOKENS: Final = 1e-3
_PAIRS: Final = 1e-6
_TTFT_PRIOR: Final = (0.015, 0.01, 0.01, 0.03, 0.002)
_TTFT_SCALE: Final = (0.02, 0.02, 0.02, 0.03, 0.002)
_ITL_PRIOR: Final = (0.01, 0.003, 0.005)
_ITL_SCALE: Final = (0.01, 0.005, 0.01)
_NOISE_FLOOR: Final = 0.02  # seconds
_FEW_TOKENS: Final = 16.0  # answers as short tell no pace
_LEAST_GAP: Final = 1e-5
_NOISE: Final = 0.3  # of the value


class Fit:
    """y = w x with w >= 0, from samples that fade.

    Args:
        prior: w before any sample.
        scale: how far off each of them may well be; the prior is worth as much as samples that say so.
    """

    def __init__(self, prior: tuple[float, ...], scale: tuple[float, ...]) -> None:
        self._prior = np.array(prior)
        self._precision = np.array(scale) ** -2.0
        self._squares = np.zeros((len(prior), len(prior)))
        self._products = np.zeros(len(prior))
        self._since = 0
        self.w: Floats = self._prior.copy()

    def expect(self, x: Floats) -> float:
        """The value for x."""
        return float(self.w @ x)

    def learn(self, x: Floats, y: float) -> bool:
        """Take in a sample, x and y at least 0; returns whether ``w`` is new. One that cannot be is passed over."""
        if not (isfinite(y) and y >= 0.0 and bool(((x >= 0.0) & (x <= _MOST)).all())):
            return False
        expected = max(self.expect(x), _LEAST_SECONDS)
        y = min(max(y, expected / _SURPRISE), expected * _SURPRISE)
        weight = (_NOISE_FLOOR + _NOISE * max(expected, y)) ** -2.0
        self._squares *= _DECAY
        self._products *= _DECAY
        self._squares += weight * np.outer(x, x)
        self._products += weight * y * x
        self._since += 1
        if self._since < _EVERY:
            return False
        self._since = 0
        found = self._solve()
        if not np.isfinite(found).all():
            return False
        self.w = found
        return True

    def _solve(self) -> Floats:
        # The little on the diagonal keeps samples that are all alike, and huge, from leaving nothing to solve.
        squares = self._squares + np.diag(self._precision + _RIDGE * np.diag(self._squares))
        products = self._products + self._precision * self._prior
        free = np.ones(len(products), dtype=np.bool_)
        out: Floats = np.zeros(len(products))
        while free.any():
            found = np.linalg.solve(squares[np.ix_(free, free)], products[free])
            if (found >= 0.0).all():
                out[free] = found
                break
            free[np.flatnonzero(free)[found < 0.0]] = False
        return out


class Note(NamedTuple):
    """What was known of a pod when a request came to it.

    Attributes:
        requests: on the pod.
        context: tokens its cache held for them.
        cached / uncached: prompt tokens of the request, as expected.
        wait: seconds until the prefill queued there is done, as foreseen.
        factor: how much slower than its peers the pod was.
        clear: nobody was waiting, and the cache had room.
    """

    requests: float
    context: float
    cached: float
    uncached: float
    wait: float
    factor: float
    clear: bool


class SpeedModel:
    """What is learned of one pool.

    Attributes:
        base / per_request / per_context: seconds, per request and per token of context: the step a request joins.
        per_token / per_pair: seconds of prefill per uncached token, and per (token x token before it).
        token_base / token_per_request / token_per_context: seconds per token of an answer.
        output: mean answer tokens.
        uncached: mean prompt tokens to prefill.
        prefill: mean seconds of a request's own prefill.
        gap: mean seconds between two requests placed.
        ttft / duration: means, seconds.
        cached / computed: prompt tokens found and not found in caches, fading.
    """

    def __init__(self) -> None:
        self._ttft = Fit(_TTFT_PRIOR, _TTFT_SCALE)
        self._itl = Fit(_ITL_PRIOR, _ITL_SCALE)
        self.output = 256.0
        self.uncached = 500.0
        self.prefill = 0.02
        self.gap = 1.0
        self._last = inf  # when the last one was placed
        self.ttft = 0.1
        self.duration = 10.0
        self.cached = 0.0
        self.computed = 1.0
        self._drift = 0.0  # mean surprise of all pods, beyond what their factors explain: no pod's own
        self._unpack()

    def _unpack(self) -> None:
        t: list[float] = self._ttft.w.tolist()
        i: list[float] = self._itl.w.tolist()
        self.base, self.per_request, self.per_context = t[0], t[1] * _REQUESTS, t[2] * _CONTEXT
        self.per_token, self.per_pair = t[3] * _TOKENS, t[4] * _PAIRS
        self.token_base, self.token_per_request, self.token_per_context = i[0], i[1] * _REQUESTS, i[2] * _CONTEXT

    @property
    def reuse(self) -> float:
        """Prompt tokens found in caches for each one computed."""
        return self.cached / self.computed

    @property
    def impatience(self) -> float:
        """Seconds to the first token for each second of a whole answer."""
        return self.ttft / self.duration

    def own_prefill(self, cached: float, uncached: float) -> float:
        """Seconds of prefill of one prompt."""
        return self.per_token * uncached + self.per_pair * uncached * (cached + 0.5 * uncached)

    def step(self, requests: float, context: float) -> float:
        """Seconds of the step that a request joins."""
        return self.base + self.per_request * requests + self.per_context * context

    def token_seconds(self, requests: float, context: float) -> float:
        """Seconds per token of an answer."""
        return self.token_base + self.token_per_request * requests + self.token_per_context * context

    def placed(self, uncached: float, prefill: float, now: float) -> None:
        """Note that a request was placed; tokens, seconds of its prefill, and when."""
        since = now - self._last
        self._last = now
        if 0.0 <= since <= _MOST_SECONDS:
            self.gap = max(self.gap + _RATE * (since - self.gap), _LEAST_GAP)
        if 0.0 <= uncached <= _MOST_TOKENS and 0.0 <= prefill <= _MOST_SECONDS:
            self.uncached += _RATE * (uncached - self.uncached)
            self.prefill += _RATE * (prefill - self.prefill)

    def served(
        self, note: Note, requests: float, ttft: float | None, duration: float, output: float, cached: float | None
    ) -> float | None:
        """Learn from an answer in full.

        Args:
            note: as of its placing.
            requests: on the pod now.
            ttft: seconds; None = not known.
            duration: seconds, all of it.
            output: tokens.
            cached: prompt tokens its server found in the cache; None = it did not say.

        Returns:
            How many times as long per token as expected of any pod of the pool it took; None if that cannot be told.
        """
        prompt, found = note.cached + note.uncached, note.cached if cached is None else cached
        if not (
            0.0 <= prompt <= _MOST_TOKENS
            and found >= 0.0
            and 0.0 < duration <= _MOST_SECONDS
            and 0.0 <= output <= _MOST_TOKENS
            and isfinite(note.requests + note.context + note.wait + requests)
        ):
            return None
        found = min(found, prompt)
        self.cached += found - _RATE * 0.05 * self.cached
        self.computed += prompt - found - _RATE * 0.05 * self.computed
        self.computed = max(self.computed, 1.0)
        self.duration += _RATE * (duration - self.duration)
        self.output += _RATE * (output - self.output)
        if ttft is None or not 0.0 < ttft <= duration:
            return None
        self.ttft += _RATE * (ttft - self.ttft)
        fresh = False
        load, context = min(note.requests, _MOST_REQUESTS) * _REQUESTS, min(note.context, _MOST_TOKENS) * _CONTEXT
        if note.clear and note.wait <= 0.2 * ttft + 0.01:
            new = prompt - found
            x = np.array([1.0, load, context, new * _TOKENS, new * (found + 0.5 * new) * _PAIRS])
            fresh = self._ttft.learn(x, (ttft - note.wait) / note.factor)
        ratio = None
        if output > _FEW_TOKENS:
            seconds = (duration - ttft) / (output - 1.0)
            x = np.array([1.0, 0.5 * (load + min(requests, _MOST_REQUESTS) * _REQUESTS), context])
            surprise = log(max(seconds, 1e-6) / max(self._itl.expect(x), 1e-6))
            ratio = exp(surprise - self._drift)
            surprise -= _TAKEN_OUT * log(note.factor)
            self._drift += _RATE * (min(max(surprise, -1.0), 1.0) - self._drift)
            fresh = self._itl.learn(x, seconds / note.factor) or fresh
        if fresh:
            self._unpack()
        return ratio
