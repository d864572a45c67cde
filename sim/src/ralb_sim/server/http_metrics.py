"""The HTTP families of the page, as the instrumentation of the real server keeps them.

Only known routes get series of their own: a path is outside text and must not become an unbounded label.
"""

import time
from collections import defaultdict

from ralb_sim.server.exposition import Counter, Histogram, head, labels, number

_HIGH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60)
_FEW = (0.1, 0.5, 1)
_NO_PERCENTILE = "Only value of header is respected. Otherwise ignored. No percentile calculated. "


class _Sizes:
    def __init__(self, name: str, what: str) -> None:
        self._name = name
        text = f"Content length of {what} by handler. {_NO_PERCENTILE}"
        self._head = head(name, text, "summary")
        self._created_head = head(f"{name}_created", text, "gauge")
        self._seen: dict[str, list[float]] = defaultdict(lambda: [0, 0, time.time()])

    def observe(self, series: str, size: int) -> None:
        row = self._seen[series]
        row[0] += 1
        row[1] += size

    def render(self, out: list[str]) -> None:
        out.append(self._head)
        for series, (count, total, _created) in self._seen.items():
            out.append(f"{self._name}_count{series} {number(count)}\n{self._name}_sum{series} {number(total)}\n")
        out.append(self._created_head)
        out.extend(
            f"{self._name}_created{series} {number(created)}\n"
            for series, (_count, _total, created) in self._seen.items()
        )


class HttpMetrics:
    """Requests, sizes and durations by route."""

    def __init__(self) -> None:
        self._requests = Counter("http_requests", "Total number of requests by method, status and handler.")
        self._in = _Sizes("http_request_size_bytes", "incoming requests")
        self._out = _Sizes("http_response_size_bytes", "outgoing responses")
        self._all = Histogram(
            "http_request_duration_highr_seconds",
            "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ",
            _HIGH,
        )
        self._by_handler: dict[tuple[str, str], Histogram] = {}

    def observe(self, handler: str, method: str, status: int, seconds: float, received: int, sent: int) -> None:
        """Count one answered request.

        Args:
            handler: The route's template, never a raw path.
            method: HTTP method of the route.
            status: HTTP status answered.
            seconds: Time from request to end of answer.
            received: Content length of the request in bytes, 0 if unknown.
            sent: Content length of the answer in bytes, 0 for streams.
        """
        self._requests.add(labels(handler=handler, method=method, status=f"{status // 100}xx"))
        series = labels(handler=handler)
        self._in.observe(series, received)
        self._out.observe(series, sent)
        self._all.observe(seconds)
        histogram = self._by_handler.get((handler, method))
        if histogram is None:
            text = "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. "
            histogram = Histogram("http_request_duration_seconds", text, _FEW, handler=handler, method=method)
            self._by_handler[handler, method] = histogram
        histogram.observe(seconds)

    def render(self, out: list[str]) -> None:
        """Append the families."""
        self._requests.render(out)
        self._in.render(out)
        self._out.render(out)
        self._all.render(out)
        series = list(self._by_handler.values())
        if series:
            out.append(series[0].head)
            for one in series:
                one.render_series(out)
            out.append(series[0].created_head)
            for one in series:
                one.render_created(out)
