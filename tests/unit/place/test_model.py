"""What is learned of a pool's speed: known coefficients come back, and nothing that is fed in can break it."""

import random
from math import inf, isfinite, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ralb_extproc.place.model import Fit, Note, SpeedModel

PRIOR = (0.02, 0.01, 0.03)
NOTE = Note(requests=10.0, context=10_000.0, cached=0.0, uncached=1000.0, wait=0.0, factor=1.0, clear=True)
# Of the pool that is to be recognised: seconds, per request, per token of context; per uncached token and pair of tokens.
BASE, PER_REQUEST, PER_CONTEXT, PER_TOKEN, PER_PAIR = 0.03, 2e-4, 1e-7, 5e-5, 2e-9
TOKEN_BASE, TOKEN_PER_REQUEST, TOKEN_PER_CONTEXT = 0.02, 1e-4, 5e-8
# What is said of an answer, all of it possible; and what may be said instead.
ANSWER = {
    **{"load": 10.0, "context": 1e4, "cached": 100.0, "uncached": 900.0, "wait": 0.0},
    **{"requests": 9.0, "ttft": 0.2, "duration": 2.0, "output": 100.0, "found": 100.0},
}
ODD = st.sampled_from([nan, inf, -inf, 0.0, -1.0, 1e-300, 1e300, 1.0]) | st.floats()


def fit(prior: tuple[float, ...] = PRIOR) -> Fit:
    return Fit(prior, tuple(0.5 * each + 0.01 for each in prior))


def teach(model: SpeedModel, count: int, *, noise: float = 0.1, times: float = 1.0, seed: int = 1) -> list[float]:
    """Answers of a pool as above, ``times`` as slow; the ratios that were told."""
    dice = random.Random(seed)
    ratios = []
    for _ in range(count):
        requests, tokens = dice.uniform(0, 80), dice.uniform(50, 8000)
        context, cached, output = requests * dice.uniform(500, 3000), dice.choice((0.0, 4000.0)), dice.randint(50, 400)
        first = BASE + PER_REQUEST * requests + PER_CONTEXT * context
        first += PER_TOKEN * tokens + PER_PAIR * tokens * (cached + tokens / 2)
        each = TOKEN_BASE + TOKEN_PER_REQUEST * requests + TOKEN_PER_CONTEXT * context
        first, each = (times * value * dice.lognormvariate(0.0, noise) for value in (first, each))
        note = NOTE._replace(requests=requests, context=context, cached=cached, uncached=tokens)
        ratio = model.served(note, requests, first, first + each * (output - 1), output, cached)
        assert ratio is not None
        ratios.append(ratio)
    return ratios


class TestFit:
    def test_the_prior_before_samples(self):
        assert fit().expect(np.array([1.0, 2.0, 3.0])) == pytest.approx(0.02 + 0.02 + 0.09)

    def test_no_new_solution_with_every_sample(self):
        assert [fit().learn(np.ones(3), 0.1) for _ in range(3)] == [False] * 3
        one = fit()
        assert sum(one.learn(np.ones(3), 0.1) for _ in range(16)) == 2

    def test_a_few_samples_do_not_outweigh_the_prior(self):
        one = fit()
        for _ in range(8):
            one.learn(np.array([1.0, 0.0, 0.0]), 0.08)
        assert 0.02 < one.w[0] < 0.06
        assert one.w[1:] == pytest.approx(PRIOR[1:])  # of which nothing was said

    def test_known_coefficients_come_back(self):
        one, dice = fit(), random.Random(2)
        true = np.array([0.05, 0.03, 0.01])
        for _ in range(2000):
            x = np.array([1.0, dice.uniform(0, 3), dice.uniform(0, 5)])
            one.learn(x, float(true @ x) * dice.lognormvariate(0.0, 0.1))
        assert one.w == pytest.approx(true, rel=0.2)

    def test_it_follows_a_change(self):
        one, x = fit(), np.array([1.0, 1.0, 1.0])
        for value in (0.1, 0.5, 0.05):
            for _ in range(1500):
                one.learn(x, value)
            assert one.expect(x) == pytest.approx(value, rel=0.1)

    def test_what_is_not_there_costs_nothing_rather_than_less(self):
        one, dice = fit(), random.Random(3)
        for _ in range(2000):  # falls with the second feature
            x = np.array([1.0, dice.uniform(0, 3), 0.0])
            one.learn(x, 0.2 - 0.05 * x[1])
        assert one.w[1] == 0.0
        assert one.w[0] > 0.05

    def test_one_sample_is_worth_little_however_odd(self):
        one, x = fit(), np.array([1.0, 1.0, 1.0])
        for _ in range(1000):
            one.learn(x, 0.06)
        for _ in range(8):
            one.learn(x, 1e6 if _ == 3 else 0.06)
        assert one.expect(x) == pytest.approx(0.06, rel=0.05)

    def test_it_learns_again_after_nothing_took_any_time(self):
        one, x = fit(), np.array([1.0, 0.0, 0.0])
        for _ in range(4000):
            one.learn(x, 0.0)
        assert one.expect(x) < 0.002
        for _ in range(4000):
            one.learn(x, 0.1)
        assert one.expect(x) == pytest.approx(0.1, rel=0.1)

    @pytest.mark.parametrize(
        ("x", "y"),
        [
            ((1.0, nan, 0.0), 0.1),
            ((1.0, inf, 0.0), 0.1),
            ((1.0, 1e300, 0.0), 0.1),
            ((1.0, -1.0, 0.0), 0.1),
            ((1.0, 0.0, 0.0), nan),
            ((1.0, 0.0, 0.0), inf),
            ((1.0, 0.0, 0.0), -1.0),
        ],
    )
    def test_what_cannot_be_is_no_sample(self, x, y):
        one, other = fit(), fit()
        for _ in range(16):
            one.learn(np.array([1.0, 1.0, 1.0]), 0.2)
            other.learn(np.array([1.0, 1.0, 1.0]), 0.2)
            assert not other.learn(np.array(x), y)
        assert other.w == pytest.approx(one.w, abs=0.0)

    @given(st.lists(st.tuples(ODD, ODD, ODD, ODD), min_size=8, max_size=60))
    @settings(max_examples=150, deadline=None)
    def test_never_negative_nor_infinite(self, samples):
        one = fit()
        for a, b, c, y in samples:
            one.learn(np.array([a, b, c]), y)
            assert np.isfinite(one.w).all()
            assert (one.w >= 0.0).all()


class TestSpeedModel:
    def test_a_new_pool_is_thought_to_be_like_any(self):
        model = SpeedModel()
        assert 0.005 < model.step(1, 1000) < 0.1
        assert 0.01 < model.own_prefill(0, 1000) < 0.3
        assert 0.005 < model.token_seconds(10, 10_000) < 0.1
        assert 0.0 < model.impatience < 0.1

    def test_speed_comes_back(self):
        model = SpeedModel()
        teach(model, 3000)
        for requests, context in ((1, 1000), (40, 60_000), (80, 160_000)):
            step = BASE + PER_REQUEST * requests + PER_CONTEXT * context
            token = TOKEN_BASE + TOKEN_PER_REQUEST * requests + TOKEN_PER_CONTEXT * context
            assert model.step(requests, context) == pytest.approx(step, rel=0.25)
            assert model.token_seconds(requests, context) == pytest.approx(token, rel=0.1)
        for cached, uncached in ((0, 1000), (4000, 4000), (0, 8000)):
            prefill = PER_TOKEN * uncached + PER_PAIR * uncached * (cached + uncached / 2)
            assert model.own_prefill(cached, uncached) == pytest.approx(prefill, rel=0.15)

    def test_a_change_of_speed_is_followed(self):
        model = SpeedModel()
        teach(model, 1000)
        before = model.token_seconds(40, 60_000), model.own_prefill(0, 4000)
        teach(model, 1500, times=2.0)
        after = model.token_seconds(40, 60_000), model.own_prefill(0, 4000)
        assert after == pytest.approx([2 * value for value in before], rel=0.15)

    def test_what_came_to_a_queue_or_a_full_cache_says_nothing_of_the_prefill(self):
        model, untaught = SpeedModel(), SpeedModel()
        for _ in range(50):
            model.served(NOTE._replace(clear=False), 1, 9.0, 9.5, 50, 0)
            model.served(NOTE._replace(wait=20.0), 1, 9.0, 9.5, 50, 0)
        assert model.own_prefill(0, 1000) == untaught.own_prefill(0, 1000)
        assert model.step(10, 10_000) == untaught.step(10, 10_000)
        assert model.token_seconds(10, 10_000) != untaught.token_seconds(10, 10_000)  # of which it does

    def test_a_foreseen_wait_is_no_part_of_the_prefill(self):
        waited, clear = SpeedModel(), SpeedModel()
        for _ in range(100):
            waited.served(NOTE._replace(wait=0.02), 1, 0.17, 1.0, 50, 0)
            clear.served(NOTE, 1, 0.15, 0.98, 50, 0)
        assert waited.own_prefill(0, 1000) == pytest.approx(clear.own_prefill(0, 1000))

    def test_what_a_slow_pod_took_counts_by_its_factor(self):
        slow, usual = SpeedModel(), SpeedModel()
        for _ in range(100):
            slow.served(NOTE._replace(factor=3.0), 1, 0.3, 3.3, 51, 0)
            usual.served(NOTE, 1, 0.1, 1.1, 51, 0)
        assert slow.token_seconds(10, 10_000) == pytest.approx(usual.token_seconds(10, 10_000))
        assert slow.own_prefill(0, 1000) == pytest.approx(usual.own_prefill(0, 1000))

    def test_what_all_pods_have_in_common_is_no_pods_own(self):
        model = SpeedModel()
        teach(model, 600, noise=0.0)
        ratios = teach(model, 800, noise=0.0, times=1.5)
        assert ratios[0] > 1.3
        assert sum(ratios[-100:]) / 100 == pytest.approx(1.0, abs=0.05)

    def test_cached_tokens_are_those_the_server_found(self):
        model = SpeedModel()
        for _ in range(200):
            model.served(NOTE._replace(cached=600.0, uncached=400.0), 1, 0.1, 1.0, 50, 750)
        assert model.reuse == pytest.approx(3.0, rel=0.1)
        for _ in range(20_000):
            model.served(NOTE._replace(cached=600.0, uncached=400.0), 1, 0.1, 1.0, 50, 0)
        assert model.reuse < 0.01

    def test_means_follow(self):
        model = SpeedModel()
        for i in range(500):
            model.served(NOTE, 1, 0.5, 20.0, 3000, 0)
            model.placed(123.0, 0.25, 0.04 * i)
        assert model.gap == pytest.approx(0.04, rel=0.01)
        assert model.output == pytest.approx(3000, rel=0.01)
        assert model.impatience == pytest.approx(0.5 / 20.0, rel=0.02)
        assert (model.uncached, model.prefill) == (pytest.approx(123, rel=0.01), pytest.approx(0.25, rel=0.01))

    def test_an_answer_in_one_piece_teaches_its_length_alone(self):
        model = SpeedModel()
        assert model.served(NOTE, 1, None, 20.0, 3000, 0) is None
        assert model.output > 256
        assert model.token_seconds(1, 1) == SpeedModel().token_seconds(1, 1)

    def test_a_short_answer_tells_no_pace(self):
        assert SpeedModel().served(NOTE, 1, 0.1, 0.2, 8, 0) is None

    @given(st.lists(st.dictionaries(st.sampled_from(list(ANSWER)), ODD, max_size=2), min_size=8, max_size=40))
    @settings(max_examples=200, deadline=None)
    def test_nothing_that_is_said_makes_it_negative_or_infinite(self, answers):
        model = SpeedModel()
        for odd in answers:
            said = ANSWER | odd
            note = Note(*(said[name] for name in ("load", "context", "cached", "uncached", "wait")), 1.0, clear=True)
            ratio = model.served(note, *(said[name] for name in ("requests", "ttft", "duration", "output", "found")))
            model.placed(said["uncached"], said["wait"], said["duration"])
            assert ratio is None or (isfinite(ratio) and ratio > 0.0)
        told = [
            *(model.step(r, c) for r in (0.0, 100.0) for c in (0.0, 1e6)),
            *(model.token_seconds(r, c) for r in (0.0, 100.0) for c in (0.0, 1e6)),
            *(model.own_prefill(c, u) for c in (0.0, 1e6) for u in (0.0, 1e6)),
            *(model.output, model.uncached, model.prefill, model.impatience, model.reuse),
        ]
        assert all(isfinite(value) and value >= 0.0 for value in told)
