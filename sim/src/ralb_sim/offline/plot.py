"""The plot of a comparison: TTFT distributions and goodput per policy, and both over load when several loads were run.

matplotlib is optional and slow to load: it is imported only inside `draw`. Its global state (pyplot) stays out, so a plot can be
drawn anywhere, also without a display or a writable home.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PANELS = 24
_WIDTH, _HEIGHT, _DPI = 6.0, 4.2, 110
_LEAST_SECONDS = 1e-3


class PlotError(RuntimeError):
    """No plot can be drawn; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Point:
    """A policy at one load, over all seeds.

    Attributes:
        load: 1.0 = saturation.
        curve: TTFT quantiles from 0 to 1, evenly spaced, seconds; empty = nothing was served.
        ttft_p90: seconds.
        goodput: requests per second within the objective.
    """

    load: float
    curve: Sequence[float]
    ttft_p90: float
    goodput: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One row of the plot: policies compared under the same conditions.

    Attributes:
        title: the conditions.
        slo_ttft: the objective's limit, seconds.
        policies: the points of each, by load.
        emphasised: policies to draw bold.
    """

    title: str
    slo_ttft: float
    policies: dict[str, list[Point]]
    emphasised: frozenset[str] = frozenset()


def draw(path: str | Path, panels: Sequence[Panel]) -> None:
    """Write a PNG; of more than `MAX_PANELS` panels the first ones.

    Raises:
        PlotError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns about font caches and homes it cannot write to
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(f"plots need matplotlib ({error}): pip install 'ralb[sim]'") from None

    panels = panels[:MAX_PANELS]
    over_load = any(len(points) > 1 for panel in panels for points in panel.policies.values())
    columns = 4 if over_load else 2
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * len(panels)), dpi=_DPI)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), columns, squeeze=False)
    # Fixed margins in inches: a layout solver takes a second per panel.
    width, height = _WIDTH * columns, _HEIGHT * len(panels)
    figure.subplots_adjust(
        left=0.8 / width, right=1 - 0.3 / width, bottom=0.6 / height, top=1 - 0.8 / height, wspace=0.32, hspace=0.5
    )
    for axes, panel in zip(grid, panels, strict=True):
        styles = dict(zip(panel.policies, _styles(panel), strict=True))
        load = shown_load({point.load for points in panel.policies.values() for point in points})
        at_load = {name: point for name, points in panel.policies.items() for point in points if point.load == load}
        _distributions(axes[0], panel, at_load, load, styles)
        _goodput(axes[1], at_load, load, styles)
        if over_load:
            _lines(axes[2], panel, styles, "ttft_p90", "p90 TTFT, s")
            _lines(axes[3], panel, styles, "goodput", "goodput, requests/s")
            axes[2].set_yscale("log")
    figure.savefig(path, format="png")


def shown_load(loads: set[float]) -> float:
    """The load whose distributions are drawn: the highest below saturation, where policies differ most; else the lowest."""
    below = [load for load in loads if load < 1.0]
    return max(below) if below else min(loads)


def _styles(panel: Panel) -> Iterator[dict[str, Any]]:
    """Colour and line of each policy: ours bold, the oracle grey, the others by a cycle without repetition up to 54."""
    others = cycle(
        {"color": f"C{number}", "linestyle": line, "linewidth": 1.3}
        for line in ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 3)))
        for number in (0, 1, 2, 3, 4, 5, 6, 8, 9)  # C7 is the oracle's grey
    )
    for name in panel.policies:
        if name in panel.emphasised:
            yield {"color": "black", "linestyle": "-", "linewidth": 2.6}
        elif name == "oracle":
            yield {"color": "grey", "linestyle": "--", "linewidth": 2.0}
        else:
            yield next(others)


def _distributions(axes: "Axes", panel: Panel, points: dict[str, Point], load: float, styles: dict[str, Any]) -> None:
    for name, point in points.items():
        if point.curve:
            shares = [number / max(1, len(point.curve) - 1) for number in range(len(point.curve))]
            axes.plot([max(_LEAST_SECONDS, value) for value in point.curve], shares, label=name, **styles[name])
    axes.axvline(panel.slo_ttft, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", ylim=(0, 1), xlabel="TTFT, s (dotted: objective)", ylabel="share of requests")
    axes.set_title(f"{panel.title}\nTTFT at load {load:g}", fontsize=9)
    axes.grid(alpha=0.3)
    if axes.lines[1:]:
        axes.legend(fontsize=6, ncols=2 if len(points) > 12 else 1)


def _goodput(axes: "Axes", points: dict[str, Point], load: float, styles: dict[str, Any]) -> None:
    names = list(points)
    values = [point.goodput if isfinite(point.goodput) else 0.0 for point in points.values()]
    bars = axes.barh(names, values, color=[styles[name]["color"] for name in names])
    axes.bar_label(bars, labels=[f"{value:.3g}" for value in values], fontsize=7, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("goodput, requests/s")
    axes.set_title(f"goodput at load {load:g}", fontsize=9)
    axes.tick_params(axis="y", labelsize=7)


def _lines(axes: "Axes", panel: Panel, styles: dict[str, Any], field: str, label: str) -> None:
    for name, points in panel.policies.items():
        known = [(point.load, value) for point in points if isfinite(value := getattr(point, field))]
        if known:
            axes.plot(*zip(*known, strict=True), label=name, marker="o", markersize=3, **styles[name])
    axes.set(xlabel="load (1 = saturation)", ylabel=label)
    axes.set_title(f"{label} over load", fontsize=9)
    axes.grid(alpha=0.3)
