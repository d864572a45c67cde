"""``tools/generate.py``: writes what is generated, notices every kind of drift."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ralb_tools_generate", REPOSITORY / "tools" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write(root: Path) -> None:
    (root / "out").mkdir(exist_ok=True)
    (root / "out" / "a.txt").write_text("a")
    (root / "out" / "b.txt").write_text("b")


def test_drift_is_noticed_and_repaired(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (generate.Step("letters", write, ("out/*.txt",)),)
    assert generate.drift(tmp_path, steps) == ["out/a.txt: missing (letters)", "out/b.txt: missing (letters)"]
    generate.generate(tmp_path, steps)
    assert capsys.readouterr().out == "wrote out/a.txt\nwrote out/b.txt\n"
    assert generate.drift(tmp_path, steps) == []
    (tmp_path / "out" / "a.txt").write_text("changed by hand")
    (tmp_path / "out" / "c.txt").write_text("left over")
    (tmp_path / "out" / "notes.md").write_text("not generated")
    assert generate.drift(tmp_path, steps) == [
        "out/a.txt: out of date (letters)",
        "out/c.txt: no longer generated, delete it (letters)",
    ]
    generate.generate(tmp_path, steps)
    assert generate.drift(tmp_path, steps) == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.txt", "b.txt", "notes.md"]


def test_nothing_is_written_when_nothing_changed(generate: ModuleType, tmp_path: Path) -> None:
    steps = (generate.Step("letters", write, ("out/*.txt",)),)
    generate.generate(tmp_path, steps)
    before = (tmp_path / "out" / "a.txt").stat().st_mtime_ns
    generate.generate(tmp_path, steps)
    assert (tmp_path / "out" / "a.txt").stat().st_mtime_ns == before


def test_steps_write_only_what_they_own(generate: ModuleType, tmp_path: Path) -> None:
    for step in generate.STEPS:
        root = tmp_path / step.name
        root.mkdir()
        step.build(root)
        written = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        assert written
        assert written == generate.owned(root, step).keys()


def test_the_repository_is_up_to_date(generate: ModuleType) -> None:
    assert generate.drift(REPOSITORY) == []
