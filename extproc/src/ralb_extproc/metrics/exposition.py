"""The Prometheus text format, only as far as needed: a few series picked out of a page of hundreds.

A page of a busy vLLM has 57 kB and some 700 lines; we want 10 of them, several times a second, from hundreds of pods. So the
page is not parsed but searched for the wanted names, at the start of a line. Pages are written by others: names must match whole
(``num_requests_waiting`` must not take ``num_requests_waiting_by_reason``), values must be finite and not negative, label sets
per series are bounded. What cannot be used counts as not said.
"""

import math
import re
from collections.abc import Iterator
from typing import Final

from ralb_extproc.metrics.series import Dialect, Fold
from ralb_extproc.place import PodSample

MAX_LABEL_SETS: Final = 256
MAX_LINE: Final = 16_384
MAX_VALUE: Final = 1e18
MAX_ADAPTERS: Final = 64
_BLOCK_SIZE: Final = re.compile(rb'[{,]block_size="(\d{1,9})"')
_GPU_BLOCKS: Final = re.compile(rb'[{,]num_gpu_blocks="(\d{1,12})"')
_ADAPTER_LISTS: Final = re.compile(rb'[{,](?:running|waiting)_lora_adapters="([^"\\]{0,8192})"')


def parse(page: bytes, dialect: Dialect, started: float) -> PodSample:
    """Read a page.

    Data-parallel engines of one pod appear as label sets: requests and counters are summed, KV use is averaged (an equal share
    of the requests goes to each), capacity is summed.

    Args:
        page: the body as received.
        dialect: whose names to look for.
        started: when the pod was asked, for ``PodSample.started``.
    """
    values: dict[str, float] = {}
    adapters: tuple[str, ...] = ()
    for name, meaning in dialect.series.items():
        field = meaning.field
        if field in values:
            continue
        if field == "config":
            capacity = _capacity(page, name)
            if capacity:
                values["kv_capacity"] = capacity
        elif field == "adapters":
            adapters = _adapters(page, name)
        else:
            value = _fold([v for _, v in _samples(page, name)], meaning.fold)
            if value is not None:
                values[field] = value
    kv_usage = values.get("kv_usage")
    if kv_usage is not None and kv_usage > 1.0:
        del values["kv_usage"]
    missing = tuple(series for field, series in dialect.needed.items() if field not in values)
    return PodSample(started, adapters=adapters, missing=missing, **values)


def _fold(values: list[float], fold: Fold) -> float | None:
    if not values or any(math.isnan(v) for v in values):
        return None
    if fold is Fold.LAST:
        return values[-1]
    total = sum(values)
    return total / len(values) if fold is Fold.MEAN else total


def _lines(page: bytes, name: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(labels with braces or b"", rest of the line) of every sample of a series."""
    at = 0
    size = len(name)
    for _ in range(MAX_LABEL_SETS):
        while True:
            at = page.find(name, at)
            if at < 0:
                return
            after = at + size
            if (at == 0 or page[at - 1] == 10) and page[after : after + 1] in (b"{", b" ", b"\t"):
                break
            at = after
        end = page.find(b"\n", after, after + MAX_LINE)
        line = page[after:end] if end >= 0 else page[after : after + MAX_LINE]
        if line[:1] == b"{":
            close = line.rfind(b"}")
            if close > 0:
                yield line[: close + 1], line[close + 1 :]
        else:
            yield b"", line
        at = after


def _samples(page: bytes, name: bytes) -> Iterator[tuple[bytes, float]]:
    """(labels, value); the value is NaN where it is not a usable number."""
    for labels, rest in _lines(page, name):
        words = rest.split(None, 1)
        yield labels, _number(words[0]) if words else math.nan


def _number(text: bytes) -> float:
    if len(text) > 32 or b"_" in text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if 0.0 <= value <= MAX_VALUE else math.nan


def _capacity(page: bytes, name: bytes) -> float:
    """Tokens of KV cache: block size times blocks, summed over engines; 0 if not said."""
    total = 0
    for labels, _ in _lines(page, name):
        size, blocks = _BLOCK_SIZE.search(labels), _GPU_BLOCKS.search(labels)
        if size and blocks:
            total += int(size[1]) * int(blocks[1])
    return float(total)


def _adapters(page: bytes, name: bytes) -> tuple[str, ...]:
    """Adapters with requests. Of several label sets the one with the latest time (its value) is the present state."""
    latest, labels = -1.0, b""
    for found, value in _samples(page, name):
        if value >= latest:
            latest, labels = value, found
    names = {
        adapter.strip().decode("utf-8", "replace")
        for listed in _ADAPTER_LISTS.findall(labels)
        for adapter in listed.split(b",")
        if adapter.strip()
    }
    return tuple(sorted(names)[:MAX_ADAPTERS])
