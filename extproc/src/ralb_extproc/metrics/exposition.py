"""The Prometheus text format, only as far as needed: a few series picked out of a page of hundreds.

A page of a busy vLLM has 57 kB and some 700 lines; we want 20 of them, several times a second, from hundreds of pods. So the
page is not parsed but searched for the wanted names at the start of a line, all in one pass. Pages are written by others: names
must match whole (``num_requests_waiting`` must not take ``num_requests_waiting_by_reason``), values must be finite and not
negative, label sets per series are bounded. What cannot be used counts as not said.
"""

import math
import re
from collections.abc import Iterable
from itertools import islice
from typing import Final

from ralb_extproc.metrics.series import Dialect, Fold, Series
from ralb_extproc.place import PodSample

MAX_LABEL_SETS: Final = 256
MAX_SAMPLES: Final = 4096
MAX_LINE: Final = 16_384
MAX_VALUE: Final = 1e18
MAX_ADAPTERS: Final = 64
_BLOCK_SIZE: Final = re.compile(rb'[{,]block_size="(\d{1,9})"')
_GPU_BLOCKS: Final = re.compile(rb'[{,]num_gpu_blocks="(\d{1,12})"')
_ADAPTER_LISTS: Final = re.compile(rb'[{,](?:running|waiting)_lora_adapters="([^"\\]{0,8192})"')
_MAX_LORA: Final = re.compile(rb'[{,]max_lora="(\d{1,4})"')

# A sample: its line from the labels on, and the value, NaN where it is not a usable number.
_Sample = tuple[bytes, float]


def parse(page: bytes, dialect: Dialect, started: float) -> PodSample:
    """Read a page.

    Data-parallel engines of one pod appear as label sets: requests, counters and capacity are summed, KV use is averaged,
    weighted by the engines' capacity where the page tells it of all of them.

    Args:
        page: the body as received.
        dialect: whose names to look for.
        started: when the pod was asked, for ``PodSample.started``.
    """
    found = _find(page, dialect)
    values: dict[str, float] = {}
    adapters: tuple[str, ...] = ()
    room = unusable = 0
    weights: dict[bytes, float] = {}
    for series in dialect.series:
        field = series.field
        samples = found.get(series.name)
        if not samples or field in values:
            continue
        if series.only:
            samples = [sample for sample in samples if _labelled(sample[0], series.only)]
            if not samples:
                continue
        value: float | None
        if field == "adapters":
            adapters, room = _adapters(samples)
            continue
        if field == "config":
            weights = _capacities(samples, dialect.rank)
            value, field = sum(weights.values()) or None, "kv_capacity"
        elif len(samples) == 1:
            value = samples[0][1]
        else:
            if field == "kv_capacity":
                weights = _by_rank(samples, dialect.rank)
            value = _fold(samples, series, dialect.rank, weights)
        if value is None or math.isnan(value) or (field == "kv_usage" and value > 1.0):
            unusable += 1
        else:
            values[field] = value
    blocks, size = values.pop("blocks", 0.0), values.pop("block_size", 0.0)
    if blocks and size:
        values["kv_capacity"] = blocks * size
    if values.get("acceptance", 1.0) < 1.0:
        del values["acceptance"]  # SGLang gives 0 until it has speculated
    missing = tuple(name for field, name in dialect.needed.items() if field not in values)
    return PodSample(started, adapters=adapters, adapter_room=room, missing=missing, unusable=unusable, **values)


def _find(page: bytes, dialect: Dialect) -> dict[bytes, list[_Sample]]:
    """The samples of the wanted series by name."""
    page = b"\n" + page
    found: dict[bytes, list[_Sample]] = {}
    for match in islice(dialect.pattern.finditer(page), MAX_SAMPLES):
        begin = match.end()
        end = page.find(b"\n", begin, begin + MAX_LINE)
        line = page[begin : end if end >= 0 else begin + MAX_LINE]
        close = line.rfind(b"}")
        if close < 0 and line[:1] == b"{":
            continue
        samples = found.get(match[1])
        if samples is None:
            samples = found[match[1]] = []
        if len(samples) < MAX_LABEL_SETS:
            samples.append((line, _number(line[close + 1 :])))
    return found


def _fold(samples: list[_Sample], series: Series, rank: bytes, weights: dict[bytes, float]) -> float | None:
    """The one value of several; None if any of them cannot be used."""
    if any(value != value for _, value in samples):  # NaN
        return None
    if series.fold is Fold.SUM or not rank:
        ranks = {str(i).encode(): value for i, (_, value) in enumerate(samples)}
    else:
        ranks = _by_rank(samples, rank)
    if series.fold is not Fold.MEAN:
        return sum(ranks.values())
    whole = sum(weights.get(key, 0.0) for key in ranks)
    if whole > 0.0 and weights.keys() >= ranks.keys():
        return sum(value * weights[key] for key, value in ranks.items()) / whole
    return sum(ranks.values()) / len(ranks)


def _by_rank(samples: Iterable[_Sample], rank: bytes) -> dict[bytes, float]:
    """The largest value of each data-parallel engine; label sets that name none are engines of their own."""
    out: dict[bytes, float] = {}
    for labels, value in samples:
        key = _label(labels, rank)
        key = labels if key is None else key
        out[key] = max(value, out.get(key, 0.0))
    return out


def _label(labels: bytes, name: bytes) -> bytes | None:
    start = name + b'="'
    at = labels.find(start)
    while at > 0 and labels[at - 1] not in b"{,":
        at = labels.find(start, at + 1)
    if at <= 0:
        return None
    at += len(start)
    return labels[at : labels.find(b'"', at)]


def _labelled(labels: bytes, pair: bytes) -> bool:
    # Quotes within values are escaped, so a value cannot pass for a label.
    return b"{" + pair in labels or b"," + pair in labels


def _number(rest: bytes) -> float:
    """The value before an optional timestamp."""
    if len(rest) > 64 or b"_" in rest:
        return math.nan
    try:
        value = float(rest)
    except ValueError:
        words = rest.split(None, 1)
        return _number(words[0]) if len(words) == 2 else math.nan
    return value if 0.0 <= value <= MAX_VALUE else math.nan


def _capacities(samples: Iterable[_Sample], rank: bytes) -> dict[bytes, float]:
    """Tokens of KV cache, block size times blocks, of each data-parallel engine; those that do not tell are left out."""
    out: dict[bytes, float] = {}
    for labels, _ in samples:
        size, blocks = _BLOCK_SIZE.search(labels), _GPU_BLOCKS.search(labels)
        if size and blocks and (tokens := int(size[1]) * int(blocks[1])):
            key = _label(labels, rank)
            key = str(len(out)).encode() if key is None else key
            out[key] = out.get(key, 0.0) + tokens
    return out


def _adapters(samples: Iterable[_Sample]) -> tuple[tuple[str, ...], int]:
    """Adapters with requests, and how many fit beside each other (0 = not said).

    Of several label sets the one with the latest time (its value) is the present state.
    """
    latest, labels = -1.0, b""
    for found, value in samples:
        if value >= latest:
            latest, labels = value, found
    names = {
        adapter.strip().decode("utf-8", "replace")
        for listed in _ADAPTER_LISTS.findall(labels)
        for adapter in listed.split(b",")
        if adapter.strip()
    }
    room = _MAX_LORA.search(labels)
    return tuple(sorted(names)[:MAX_ADAPTERS]), min(int(room[1]), MAX_ADAPTERS) if room else 0
