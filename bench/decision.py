"""What one decision costs in the processor: hashing the prompt, ordering the pods, charging the chosen one; bytes of the index.

No Envoy, and no clock but that of the measurement: requests are placed every ``1 / rate`` seconds of a made-up time, pods report
every 0.2 s of it, and ``--busy`` requests per pod are in flight. Prompts are conversations that come again and again, so most
have hits. Timed with ``perf_counter``, one call at a time, garbage collection and all. Where other work has part of the machine
medians tell of that work too; the least, printed as well, does not.

    make bench-decision [BENCH_ARGS="--pods 8,512 --kb 1,400 --requests 1000"]
"""

import argparse
import json
import platform
import random
import sys
import time
import tracemalloc
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ralb_extproc.place import (
    Ask,
    Dice,
    PodSample,
    PodTable,
    PrefixIndex,
    charge,
    hash_blocks,
    place,
    pool_of,
    prefix_of,
)
from ralb_extproc.request.reader import parse
from ralb_extproc.types import Request

HERE = Path(__file__).resolve().parent
POOL = "bench"
CONVERSATIONS = 32
SCRAPE_SECONDS = 0.2
OUTPUT = 300
BYTES_PER_TOKEN = 4
# What is to hold in the median, microseconds: ordering by number of pods, and for prompts of 100,000 tokens all three together.
MOST_PLACE = {8: 60.0, 512: 200.0}
MOST_LONG = 1000.0
LONG_KB = 400
_WORDS = ("the", "plan", "for", "northern", "regions", "covers", "carriers", "storage", "and", "returns", "in", "2025")


@dataclass(frozen=True, slots=True)
class Times:
    """Microseconds."""

    least: float
    p50: float
    p90: float

    def __str__(self) -> str:
        return f"{self.p50:7.1f}{self.p90:8.1f}{self.least:8.1f}"


@dataclass(frozen=True, slots=True)
class Cell:
    """So many pods, bodies of so many kB."""

    pods: int
    kb: int
    requests: int
    with_hits: float
    hash: Times
    place: Times
    charge: Times
    all: Times
    observe: Times

    @property
    def missed(self) -> list[str]:
        """Which bars it is over."""
        out = []
        if self.kb < LONG_KB and self.place.p50 > MOST_PLACE.get(self.pods, np.inf):
            out.append(
                f"place at {self.pods} pods, {self.kb} kB: {self.place.p50:.0f} us, more than {MOST_PLACE[self.pods]:.0f}"
            )
        if self.kb >= LONG_KB and self.all.p50 > MOST_LONG:
            out.append(f"all of it at {self.pods} pods, {self.kb} kB: {self.all.p50:.0f} us, more than {MOST_LONG:.0f}")
        return out


def times(seconds: list[float]) -> Times:
    """Of single calls."""
    least, p50, p90 = np.percentile(np.array(seconds) * 1e6, [0, 50, 90]).tolist()
    return Times(least, p50, p90)


def chat(rng: random.Random, size: int) -> Request:
    """A conversation of about so many bytes, read as the processor reads it."""
    turns, left = [], size
    while left > 0:
        length = min(left, 4000)
        text = " ".join(rng.choices(_WORDS, k=max(1, length // 7)))
        turns.append({"role": "assistant" if len(turns) % 2 else "user", "content": text})
        left -= length
    return parse("/v1/chat/completions", {}, json.dumps({"model": "m", "messages": turns}).encode())


def measure(pods: int, kb: int, requests: int, rate: float, busy: int) -> Cell:
    """Place so many requests."""
    rng, dice, table, now = random.Random(1), Dice(1), PodTable(), 1.0
    addresses = [f"10.0.{n >> 8}.{n & 255}:8000" for n in range(pods)]
    table.update([pool_of(POOL, addresses, metrics_path="/metrics")], now)
    slots = [slot for address in addresses if (slot := table.slot(POOL, address)) is not None]
    chats = [chat(rng, kb * 1000) for _ in range(CONVERSATIONS)]
    hashing: list[float] = []
    placing: list[float] = []
    charging: list[float] = []
    observing: list[float] = []
    hits = 0
    flights: deque[str] = deque()
    due = now
    for number in range(requests + requests // 10):
        now += 1.0 / rate
        while due <= now:
            slot = slots[int(due / SCRAPE_SECONDS * pods + 0.5) % pods]
            sample = page(rng, now, number)
            begun = time.perf_counter()
            table.observe(slot, sample, now)
            observing.append(time.perf_counter() - begun)
            due += SCRAPE_SECONDS / pods
        request = rng.choice(chats)
        begun = time.perf_counter()
        prefix = prefix_of(request)
        hashed = time.perf_counter()
        ask = Ask(prefix.size // BYTES_PER_TOKEN, OUTPUT, prefix)
        order = place(table, POOL, ask, now, dice)
        placed = time.perf_counter()
        charge(table, POOL, str(number), order, ask, now)
        charged = time.perf_counter()
        hashing.append(hashed - begun)
        placing.append(placed - hashed)
        charging.append(charged - placed)
        hits += order.uncached < ask.input_tokens
        flights.append(str(number))
        if len(flights) > busy * pods:
            table.finish(flights.popleft())
    warm = requests // 10
    whole = [sum(parts) for parts in zip(hashing, placing, charging, strict=True)]
    measured = (times(seconds[warm:]) for seconds in (hashing, placing, charging, whole))
    return Cell(pods, kb, requests, hits / len(placing), *measured, times(observing))


def page(rng: random.Random, now: float, count: int) -> PodSample:
    """A metrics page of a pod with some work, of which all counters move."""
    return PodSample(
        now,
        waiting=rng.randrange(3),
        running=rng.randrange(40),
        kv_usage=0.7 * rng.random(),
        kv_capacity=445_000.0,
        prefix_queries=1000.0 * count,
        prefix_hits=400.0 * count,
        preemptions=0.0,
        prompt_tokens=1000.0 * count,
        generation_tokens=300.0 * count,
        itl_seconds=3.0 * count,
        itl_steps=300.0 * count,
    )


def index_bytes(pods: int, holders: int, pairs: int = 131_072) -> float:
    """Bytes per pair of pod and block in a full prefix index, each block held by so many of so many pods."""
    rng = random.Random(2)
    prompts = [hash_blocks(rng.randbytes(64 * 256)) for _ in range(pairs // (64 * holders))]
    for slot in range(pods):  # small numbers and the like, made once
        hash(slot)
    tracemalloc.start()
    index = PrefixIndex(pairs)
    for number, prompt in enumerate(prompts):
        for other in range(holders):
            # Of every block the digest is an object of its own, as it is in a request of its own.
            again = type(prompt)(tuple(int(str(h)) for h in prompt.hashes), prompt.size)
            index.record(again, (number * holders + other) % pods)
    del again
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(index)


def main() -> int:
    """Measure, print, write; 1 if a bar is missed."""
    args = _arguments()
    heads = (f"{name:>7s}     p90   least" for name in ("hash", "place", "charge", "all"))
    print("p50, p90, least, us " + "    ".join(heads) + "  hits")
    cells = []
    for kb in args.kb:
        for pods in args.pods:
            requests = args.requests if kb < LONG_KB else max(200, args.requests // 4)
            cell = measure(pods, kb, requests, args.rate, args.busy)
            cells.append(cell)
            shown = "    ".join(str(one) for one in (cell.hash, cell.place, cell.charge, cell.all))
            print(f"{pods:4d} pods {kb:4d} kB     {shown}  {cell.with_hits:4.0%}")
    print(
        "\na reading      "
        + "    ".join(f"{cell.pods} pods {cell.observe.p50:.1f}" for cell in cells if cell.kb == args.kb[0])
    )
    memory = {
        f"{pods} pods, a block on {holders}": index_bytes(pods, holders)
        for pods, holders in ((8, 1), (8, 8), (512, 1), (512, 64))
    }
    print("bytes per pair of pod and block: " + "; ".join(f"{name}: {size:.0f}" for name, size in memory.items()))
    missed = [line for cell in cells for line in cell.missed]
    for line in missed:
        print("over the bar:", line)
    found = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        "cells": [asdict(cell) for cell in cells],
        "index_bytes_per_pair": memory,
        "missed": missed,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=_numbers, default=[8, 64, 512])
    parser.add_argument("--kb", type=_numbers, default=[1, 10, LONG_KB], help="size of bodies")
    parser.add_argument("--requests", type=int, default=4000, help="per cell; a quarter of it for long prompts")
    parser.add_argument("--rate", type=float, default=500.0, help="requests per second of the made-up time")
    parser.add_argument("--busy", type=int, default=20, help="requests in flight per pod")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "decision.json")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
