"""Counters and histograms for one thread, shown through prometheus_client.

prometheus_client's own take a lock and several calls per observation, which on the request path adds up to a tenth of a
decision; these only add to numbers. Everything, showing included, happens on the event loop, so there is nothing to lock.
"""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Count:
    """One counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add; not negative."""
        self.value += amount


class Spread:
    """One histogram over ascending upper bounds."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Take in a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


_S = TypeVar("_S", Count, Spread)


class Labelled(Collector, Generic[_S]):
    """The children of a labelled metric, bounded in number: beyond the bound values count under ``other``.

    Args:
        name: of the metric, without suffixes.
        text: its help.
        labels: label names.
        limit: most children.
        other: label value beyond the limit.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], limit: int, other: str) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._limit = limit
        self._other = (other,) * len(self._labels)
        self._children: dict[tuple[str, ...], _S] = {}

    def __call__(self, *values: str) -> _S:
        """The child with these label values."""
        child = self._children.get(values)
        if child is None:
            if len(self._children) >= self._limit:
                values = self._other
            child = self._children.get(values)
            if child is None:
                child = self._children[values] = self._make()
        return child

    @abstractmethod
    def _make(self) -> _S:
        """A new child."""


class Counters(Labelled[Count]):
    """A labelled counter."""

    def _make(self) -> Count:
        return Count()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in self._children.items():
            family.add_metric(values, child.value)
        yield family


class Histograms(Labelled[Spread]):
    """A labelled histogram; ``bounds`` are upper bounds, ascending, without infinity."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], limit: int, other: str, bounds: Iterable[float]
    ) -> None:
        super().__init__(name, text, labels, limit, other)
        self._bounds = tuple(bounds)
        self._shown = (*(str(float(bound)) for bound in self._bounds), "+Inf")

    def _make(self) -> Spread:
        return Spread(self._bounds)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in self._children.items():
            below, buckets = 0, []
            for bound, count in zip(self._shown, child.counts, strict=True):
                below += count
                buckets.append((bound, float(below)))
            family.add_metric(values, buckets, child.total)
        yield family
