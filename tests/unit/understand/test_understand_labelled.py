"""Order on labelled prompts, where they are at hand: harder kinds of work must come out harder. A check, not a fit.

Looks for the prompts in ``$RALB_DATA/prompts`` or in ``shared/data/prompts`` beside the checkout.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from support_routing import chat, parsed

from ralb_extproc.types import Understanding
from ralb_extproc.understand import DEFAULT

PROMPTS = Path(os.environ.get("RALB_DATA") or Path(__file__).parents[4] / "shared" / "data") / "prompts"
pytestmark = pytest.mark.skipif(not PROMPTS.is_dir(), reason="no labelled prompts at hand")

Row = tuple[Understanding, dict[str, Any]]


def judged(name: str, most: int = 400) -> list[Row]:
    """Every n-th prompt of a set, so that about ``most`` are judged, with their labels."""
    with gzip.open(PROMPTS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = islice(rows, 0, None, max(1, len(rows) // most))
    return [(DEFAULT.understand(parsed(chat(row["text"]))), row["labels"]) for row in chosen]


def mean(rows: list[Row], where: Callable[[dict[str, Any]], bool] = lambda labels: True) -> float:
    values = [found.complexity for found, labels in rows if where(labels)]
    return sum(values) / len(values)


def rank_agreement(values: list[float], positive: list[bool]) -> float:
    """Chance that a positive has a greater value than a negative (area under the ROC curve); ties count half."""
    high = [value for value, yes in zip(values, positive, strict=True) if yes]
    low = [value for value, yes in zip(values, positive, strict=True) if not yes]
    wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low)
    return wins / (len(high) * len(low))


def test_kinds_of_work_are_in_order() -> None:
    means = [mean(judged(name)) for name in ("clinc150_train", "gsm8k_train", "planbench_logistics")]
    assert means == sorted(means)
    assert means[0] < 0.3 < 0.4 < means[1] < 0.65 < 0.8 < means[2]


@pytest.mark.parametrize("name", ["taskbench_huggingface", "taskbench_multimedia"])
def test_several_steps_are_harder_than_one(name: str) -> None:
    rows = judged(name, most=1500)
    single = mean(rows, lambda labels: labels["structure"] == "single")
    assert mean(rows, lambda labels: labels["structure"] == "chain") > single
    assert mean(rows, lambda labels: labels["structure"] == "dag") > single


def test_more_calculation_is_harder() -> None:
    rows = judged("gsm8k_train", most=1500)
    assert mean(rows, lambda labels: labels["n_steps"] >= 6) > mean(rows, lambda labels: labels["n_steps"] <= 2) + 0.05


def test_maths_and_planning_are_recognised() -> None:
    for name, intent in (("gsm8k_train", "maths"), ("planbench_logistics", "planning")):
        intents = Counter(found.intent for found, _ in judged(name))
        assert intents[intent] > 0.7 * intents.total()


def test_report_how_well_it_foresees_failure_of_a_weak_model(record_property: Callable[[str, object], None]) -> None:
    rows = judged("routellm_mmlu_1500", most=1500)
    area = rank_agreement([found.complexity for found, _ in rows], [not labels["weak_correct"] for _, labels in rows])
    record_property("auc_weak_model_wrong", round(area, 3))
    print(f"AUC of complexity for 'the weak model is wrong': {area:.3f}")
    assert area > 0.5  # better than chance; how much better is what a trained model is for
