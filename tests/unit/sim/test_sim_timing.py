"""The step equation against the published table (decode with 1k context; prefill of 2k tokens fresh and on 16k)."""

import pytest

from ralb_sim.engine import StepShape, step_seconds
from ralb_sim.profiles import PROFILES, get_profile

DECODE_MS = {
    "llama-3-8b-l4": {1: 63, 16: 71},
    "llama-3-8b-a100": {1: 14, 16: 15, 64: 21, 256: 47},
    "llama-3-8b-h100": {1: 9, 16: 10, 64: 13, 256: 26},
    "llama-3-70b-4xa100": {1: 34, 16: 35, 64: 41, 256: 77},
    "llama-3-70b-4xh100": {1: 20, 16: 21, 64: 24, 256: 38},
}
PREFILL_K_PER_S = {
    "llama-3-8b-l4": (4.0, 2.3),
    "llama-3-8b-a100": (13.4, 8.2),
    "llama-3-8b-h100": (38.6, 21.3),
    "llama-3-70b-4xa100": (5.1, 3.9),
    "llama-3-70b-4xh100": (13.9, 10.2),
}


@pytest.mark.parametrize(("name", "batch"), [(name, batch) for name, row in DECODE_MS.items() for batch in row])
def test_decode_step(name: str, batch: int) -> None:
    shape = StepShape()
    for _ in range(batch):
        shape.add_decode(1000)
    # The table is rounded to whole milliseconds.
    assert step_seconds(PROFILES[name], shape) * 1000 == pytest.approx(DECODE_MS[name][batch], abs=0.55)


@pytest.mark.parametrize("name", PREFILL_K_PER_S)
@pytest.mark.parametrize("case", [0, 1])
def test_prefill_rate(name: str, case: int) -> None:
    shape = StepShape()
    shape.add_prefill(2048, (0, 16_384)[case])
    rate = 2.048 / step_seconds(PROFILES[name], shape)
    assert rate == pytest.approx(PREFILL_K_PER_S[name][case], rel=0.02)


def test_an_empty_step_takes_no_time() -> None:
    assert step_seconds(PROFILES["llama-3-8b-h100"], StepShape()) == 0


def test_chunking_a_prefill_costs_the_same_attention() -> None:
    whole, parts = StepShape(), StepShape()
    whole.add_prefill(4096, 0)
    parts.add_prefill(1024, 0)
    parts.add_prefill(3072, 1024)
    assert parts.prefill_pairs == whole.prefill_pairs


def test_bigger_models_are_slower_and_frontier_is_between_its_bounds() -> None:
    shape = StepShape()
    for _ in range(64):
        shape.add_decode(1000)
    small, large = (step_seconds(PROFILES[name], shape) for name in ("llama-3-8b-h100", "llama-3-70b-4xh100"))
    assert small < step_seconds(PROFILES["moe-235b-8xh100"], shape)
    assert small < large


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown profile 'x'; known: llama-3-8b-l4, "):
        get_profile("x")
