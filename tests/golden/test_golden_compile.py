"""``compile/<case>.in.yaml`` is loaded and compiled; ``compile/<case>.out.yaml`` is what must come out."""

from collections import Counter
from pathlib import Path

import pytest
from support_golden import check, dump, summary

from ralb_operator.compile import Result, compile_view
from ralb_operator.compile.result import Reason
from ralb_operator.files import load

FOLDER = Path(__file__).parent / "compile"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in FOLDER.glob("*.in.yaml"))


def compiled(case: str) -> Result:
    return compile_view(load(f"{case}.in.yaml"))


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, update_golden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    check(FOLDER / f"{case}.out.yaml", dump(summary(compiled(case))), update=update_golden)


def test_every_file_belongs_to_a_case() -> None:
    expected = {f"{case}.{end}.yaml" for case in CASES for end in ("in", "out")}
    assert {path.name for path in FOLDER.iterdir()} == expected
    assert len(CASES) >= 45


def test_no_two_cases_are_the_same() -> None:
    texts = Counter(
        "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
        for path in FOLDER.glob("*.in.yaml")
    )
    assert [text[:200] for text, count in texts.items() if count > 1] == []


def test_every_case_says_what_it_shows() -> None:
    assert [case for case in CASES if not (FOLDER / f"{case}.in.yaml").read_text().startswith("# ")] == []


def test_every_reason_occurs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    seen = set()
    for result in map(compiled, CASES):
        seen |= {condition.reason for status in result.statuses.values() for condition in status.conditions}
        seen |= {problem.reason for problem in result.problems}
    # Refused comes from Envoy, by way of the quarantine.
    assert set(Reason) - {Reason.REFUSED} <= seen


def test_no_key_is_in_any_output() -> None:
    assert [case for case in CASES if "sk-golden" in (FOLDER / f"{case}.in.yaml").read_text()], "there are keys"
    assert [case for case in CASES if "sk-golden" in (FOLDER / f"{case}.out.yaml").read_text()] == []
