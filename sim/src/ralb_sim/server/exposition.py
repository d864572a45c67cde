"""Prometheus text exposition, just what the metrics page needs, rendered fast.

Own code instead of a client registry: a pod is scraped up to twenty times a second and most of the page never changes its
text. Labels are given as finished strings, sorted by name as vLLM's client writes them. Trap: values of label strings must be
escaped by `labels()`; never build them by hand from outside text.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Sequence


def number(value: float) -> str:
    """Render a sample value: shortest digits that round-trip, exponent form from one million on."""
    if value == math.inf:
        return "+Inf"
    text = repr(float(value))
    if "e" in text or "n" in text:
        return text
    whole, _dot, fraction = text.partition(".")
    if len(whole) <= 6 or value < 0:
        return text
    digits = (whole + fraction).rstrip("0")
    mantissa = f"{digits[0]}.{digits[1:]}" if len(digits) > 1 else digits
    return f"{mantissa}e+{len(whole) - 1:02d}"


def labels(**values: str) -> str:
    """Return `{a="..",b=".."}` with names sorted and values escaped; empty without labels."""
    if not values:
        return ""
    pairs = []
    for name in sorted(values):
        value = values[name].replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        pairs.append(f'{name}="{value}"')
    return "{" + ",".join(pairs) + "}"


def head(name: str, text: str, kind: str) -> str:
    """Return the HELP and TYPE lines of a family."""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


class Counter:
    """A counter family with its `_created` companion.

    Args:
        name: Name without the `_total` suffix.
        text: Help text.
        *series: Finished label strings present from the start.
    """

    def __init__(self, name: str, text: str, *series: str) -> None:
        self._name = name
        self._head = head(f"{name}_total", text, "counter")
        self._created_head = head(f"{name}_created", text, "gauge")
        self.values: dict[str, float] = {}
        self._created: dict[str, float] = {}
        for one in series:
            self.add(one, 0)

    def add(self, series: str, amount: float = 1) -> None:
        """Add to a series, creating it at first use. Callers bound the number of series."""
        if series not in self.values:
            self.values[series] = 0
            self._created[series] = time.time()
        self.values[series] += amount

    def render(self, out: list[str]) -> None:
        """Append the family's text."""
        out.append(self._head)
        out.extend(f"{self._name}_total{series} {number(value)}\n" for series, value in self.values.items())
        out.append(self._created_head)
        out.extend(f"{self._name}_created{series} {number(value)}\n" for series, value in self._created.items())


class Histogram:
    """One histogram series with its `_created` companion.

    Args:
        name: Family name.
        text: Help text.
        bounds: Upper bounds without +Inf, rising.
        own: Label names and values.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float], **own: str) -> None:
        self._bounds = tuple(float(bound) for bound in bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._starts = [f"{name}_bucket{labels(le=number(bound), **own)} " for bound in (*self._bounds, math.inf)]
        self._tail = (f"{name}_count{labels(**own)} ", f"{name}_sum{labels(**own)} ")
        self.head = head(name, text, "histogram")
        self.created_head = head(f"{name}_created", text, "gauge")
        self._created = f"{name}_created{labels(**own)} {number(time.time())}\n"

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self._counts)

    @property
    def total(self) -> float:
        """Sum of what was observed."""
        return self._sum

    def observe(self, value: float, times: int = 1) -> None:
        """Record a value, or the same value several times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def render_series(self, out: list[str]) -> None:
        """Append the series without head and companion, for families of several series."""
        total = 0
        for start, count in zip(self._starts, self._counts, strict=True):
            total += count
            out.append(f"{start}{number(total)}\n")
        out.append(f"{self._tail[0]}{number(total)}\n{self._tail[1]}{number(self._sum)}\n")

    def render_created(self, out: list[str]) -> None:
        """Append the `_created` sample."""
        out.append(self._created)

    def render(self, out: list[str]) -> None:
        """Append the whole family."""
        out.append(self.head)
        self.render_series(out)
        out.append(self.created_head)
        self.render_created(out)
