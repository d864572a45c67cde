"""The plot of a scenario: each pod's share of the traffic over time, the ill one's state, and when it was ill."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from shares import HALF, WELL, WINDOW, shares

_COLOURS = {"Healthy": "#7fbf7b", "Degraded": "#f6c344", "Failed": "#d7301f", "Gone": "#666666"}
_OTHER = "#b0b0b0"


@dataclass(frozen=True, slots=True)
class Health:
    """What the processor said of a pod; ``at`` in seconds, ``share`` as it may have of its fair part."""

    at: float
    state: str
    why: str
    share: float | None = None

    @property
    def label(self) -> str:
        """State and what is the matter."""
        return f"{self.state} ({self.why})" if self.why else self.state


def draw(
    path: Path,
    title: str,
    times: npt.NDArray[np.float64],
    pods: npt.NDArray[np.int64],
    count: int,
    health: Sequence[Health],
    onset: float,
    cure: float,
    end: float,
) -> None:
    """Write a PNG.

    Args:
        path: where to.
        title: above it.
        times: when each request was placed, seconds, sorted.
        pods: on which pod, 0 = the ill one.
        count: how many pods there are.
        health: what was said of the ill one.
        onset: when it fell ill.
        cure: when it was well again.
        end: of the time shown.
    """
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    top, strip = figure.subplots(2, 1, sharex=True, height_ratios=[8, 1])
    for pod in range(count - 1, -1, -1):
        at, level = shares(times, pods == pod, end, count)
        ill = pod == 0
        label = "the ill pod" if ill else "the others" if pod == 1 else None
        top.plot(
            at,
            level,
            color="#c0392b" if ill else "#9aa5b1",
            lw=2.2 if ill else 0.8,
            label=label,
            zorder=3 if ill else 2,
        )
    top.axvspan(onset, cure, color="#f3d9d5", zorder=0, label="ill")
    for y, style in ((1.0, "-"), (WELL, ":"), (HALF, "--")):
        top.axhline(y, color="#555555", lw=0.7, ls=style, zorder=1)
    allowed = [(row.at, row.share) for row in health if row.share is not None]
    if allowed:
        top.step(
            *zip(*allowed, strict=True), where="post", color="#2c5d8f", lw=1.0, ls="-.", label="share that it may have"
        )
    top.set_ylabel(f"fair shares (mean of {WINDOW:g} s)")
    top.set_ylim(0.0, 2.0)
    top.set_title(title)
    top.legend(loc="upper right", fontsize=8, ncols=4)
    ends = [*(row.at for row in health[1:]), end]
    for row, until in zip(health, ends, strict=False):
        strip.axvspan(row.at, until, color=_COLOURS.get(row.state, _OTHER), lw=0)
    last = ""
    for row in health:
        if row.label != last:
            strip.annotate(row.label, (row.at, 0.5), fontsize=6, rotation=20, va="center")
            last = row.label
    strip.set_yticks([])
    strip.set_xlim(0.0, end)
    strip.set_xlabel("seconds")
    figure.savefig(path, dpi=110)
