"""Plots are drawn whatever the figures are, and leave no trace on stderr or in a home."""

import os
import subprocess
import sys
from math import nan
from pathlib import Path

import pytest

from ralb_sim.offline.plot import MAX_PANELS, Panel, PlotError, Point, _styles, draw, shown_load

PNG = b"\x89PNG\r\n\x1a\n"


def size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(PNG)
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def panel(*loads: float, goodput: float = 2.0) -> Panel:
    points = [Point(load, [0.0, 0.1, 0.4], 0.3, goodput) for load in loads]
    return Panel(
        "t", 0.2, {"reasoning-aware": points, "oracle": points, "other": points}, frozenset({"reasoning-aware"})
    )


def test_several_loads_are_wider_and_several_panels_higher(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    sizes = []
    for panels in ([panel(0.8)], [panel(0.8, 0.9)], [panel(0.8), panel(0.8)]):
        draw(path, panels)
        sizes.append(size(path))
    (width, height), wide, high = sizes
    assert wide == (2 * width, height)
    assert high == (width, 2 * height)


def test_nothing_to_show(tmp_path: Path) -> None:
    empty = Panel(
        "t", 0.2, {"a": [Point(0.5, [], nan, nan)], "b": [Point(0.5, [1.0], 1.0, 0.0), Point(0.7, [], nan, nan)]}
    )
    draw(tmp_path / "p.png", [empty])
    assert size(tmp_path / "p.png") > (0, 0)


def test_panels_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ralb_sim.offline.plot.MAX_PANELS", 1)
    draw(tmp_path / "one.png", [panel(0.8)])
    draw(tmp_path / "many.png", [panel(0.8)] * 3)
    assert size(tmp_path / "many.png") == size(tmp_path / "one.png")
    assert MAX_PANELS > 8


def test_the_load_that_is_shown() -> None:
    assert shown_load({0.5, 0.95, 1.1}) == 0.95
    assert shown_load({1.3, 1.1}) == 1.1


def test_styles_are_not_repeated() -> None:
    names = [f"p{number}" for number in range(50)]
    many = Panel("t", 0.2, {name: [] for name in [*names, "oracle", "ours"]}, frozenset({"ours"}))
    found = [(style["color"], style["linestyle"]) for style in _styles(many)]
    assert len(set(found)) == len(found)


def test_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotError, match=r"pip install 'ralb\[sim\]'"):
        draw(tmp_path / "p.png", [panel(0.8)])


def test_a_home_that_cannot_be_written_goes_unmentioned(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    code = (
        "import sys; from ralb_sim.offline.plot import *\n"
        f"draw({str(path)!r}, [Panel('t', 0.2, {{'a': [Point(0.5, [0.1], 0.1, 1.0)]}})])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    # Not even root can write below a file.
    home = tmp_path / "file"
    home.write_text("")
    environment = {
        **os.environ,
        "HOME": str(home),
        "TMPDIR": str(tmp_path),
        "XDG_CONFIG_HOME": "",
        "XDG_CACHE_HOME": "",
    }
    environment.pop("MPLCONFIGDIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert size(path) > (0, 0)
