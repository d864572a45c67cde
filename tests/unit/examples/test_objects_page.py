"""``docs/objects.md`` tells the truth: its objects load, its errors are what ``ralb check`` prints, its lists are complete."""

import io
import re
from pathlib import Path

import pytest

from ralb_api.intents import INTENTS
from ralb_api.objects import KINDS
from ralb_api.reference import fill, table
from ralb_cli.check import check
from ralb_extproc.understand.score import EVIDENCE

PAGE = (Path(__file__).parents[3] / "docs" / "objects.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n([^`]*)```\n\n```text\n([^`]*)```", PAGE)


def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> str:
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    stream = io.StringIO()
    check(name, as_json=False, stream=stream, errors=stream)
    return stream.getvalue()


def test_the_smallest_set_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.partition("```yaml\n")[2].partition("```")[0]
    assert checked(tmp_path, monkeypatch, "all.yaml", text) == "1 pool, 1 tier, 1 policy: no problems\n"


@pytest.mark.parametrize(("text", "expected"), EXAMPLES)
def test_errors_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    name = re.findall(r"^error: (\w+\.yaml):", expected)[0]
    assert checked(tmp_path, monkeypatch, name, text) == expected


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3


def test_the_intents_are_the_processors() -> None:
    judged = {intent for intent, _ in EVIDENCE.values()} | {"tool-calling", "ambiguity"}
    assert judged == set(INTENTS)
    sentence = PAGE.partition("Intents the processor tells apart:")[2].partition(".\n")[0]
    assert re.findall(r"`([^`]+)`", sentence) == list(INTENTS)


def test_tables_show_type_default_and_need() -> None:
    pools, policies = table("ModelPool"), table("RoutingPolicy")
    assert "| `spec.backend.pods.port` | integer, 1 to 65535 | `8000` | port is where" in pools
    assert "| `spec.model.name` | text, at most 253 | *required* | name is" in pools
    assert "| `spec.backend.pods.engine` | vLLM, SGLang, TensorRTLLM, Generic | `vLLM` |" in pools
    assert "| `spec.labels` | map of text, 0 to 32 |  | labels" in pools
    assert "| `spec.match.models` | list of text, at most 253, 1 to 32 | `[auto]` |" in policies
    assert "| `spec.rules[].when.complexity.max` | number, 0 to 1 | `1` |" in policies
    assert "| `spec.rules[].when.tools.offered` | true or false | `true` |" in policies


def test_fill_changes_only_the_blocks() -> None:
    blank = re.sub(r"(generated -->\n).*?(<!-- end)", r"\1stale\n\2", PAGE, flags=re.DOTALL)
    assert blank != PAGE
    assert fill(blank) == PAGE
    with pytest.raises(ValueError, match="should be one for each"):
        fill("<!-- fields of Nothing: generated -->\n<!-- end -->")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_table(kind: str) -> None:
    assert table(kind) in PAGE
