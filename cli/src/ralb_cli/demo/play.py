"""Playing the script against a running stack and judging every row."""

import asyncio
import json
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from ralb_api import headers as names
from ralb_cli.demo.script import SCRIPT, Ask
from ralb_cli.stack.stack import Stack, StackError, StackOptions

_ANSWER_S = 60.0
_RECORD_S = 10.0
_START_S = 30.0


@dataclass(slots=True)
class Row:
    """What became of one request.

    Attributes:
        ask: the request.
        status: HTTP status, 0 when there was none.
        answer: answer headers.
        ttft: seconds to the first byte of the body as the client saw it.
        complete: the body came whole (a stream with its end mark, JSON that parses).
        record: the decision record.
        faults: what is not as it should be.
    """

    ask: Ask
    status: int = 0
    answer: dict[str, str] = field(default_factory=dict)
    ttft: float = 0.0
    complete: bool = False
    record: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


async def play(source: str, port: int, *, stay: bool) -> int:
    """Start, ask, show, and stay up until interrupted unless told otherwise.

    Returns:
        0 if every row is as it should be.
    """
    with tempfile.TemporaryDirectory(prefix="ralb-demo-") as folder:
        records = Path(folder) / "records.jsonl"
        stack = Stack(StackOptions(source=source, port=port, sim=True, records=str(records)))
        stopping = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
        print(f"Starting Envoy, the processor and the simulated pods of {source} ...", flush=True)
        started = time.monotonic()
        try:
            await stack.start()
            print(f"Ready after {time.monotonic() - started:.1f} s: {stack.url}\n", flush=True)
            rows = await _ask_all(stack.url, records)
            failed = sum(bool(row.faults) for row in rows)
            if stay and not stopping.is_set():
                print(_invitation(stack), flush=True)
                await stopping.wait()
        except StackError as error:
            print(f"ralb demo: {error}")
            return 1
        finally:
            await stack.stop(drain=5)
        return 1 if failed else 0


async def ask_there(url: str, records: Path) -> int:
    """Ask a gateway that runs elsewhere.

    Args:
        url: where it is; it may still be starting.
        records: file its decision records are being written to, among other lines maybe.

    Returns:
        0 if every row is as it should be.
    """
    if not await _answers(f"{url}/v1/models", _START_S):
        print(f"ralb demo: {url} does not answer")
        return 1
    return 1 if any(row.faults for row in await _ask_all(url, records)) else 0


async def _answers(url: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return True
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.2)
    return False


async def _ask_all(url: str, records: Path) -> list[Row]:
    """Ask, judge and show."""
    rows = [await _ask(url, ask) for ask in SCRIPT]
    await _join(rows, records)
    for row in rows:
        _judge(row)
    print(render(rows))
    return rows


async def _ask(url: str, ask: Ask) -> Row:
    row = Row(ask)
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    start = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url + ask.path, json=ask.body, headers=ask.headers) as response,
        ):
            row.status = response.status
            row.answer = {name.lower(): value for name, value in response.headers.items()}
            first = await response.content.readany()
            row.ttft = time.perf_counter() - start
            row.complete = _whole(first + await response.read(), stream=ask.stream)
    except (aiohttp.ClientError, TimeoutError) as error:
        row.faults.append(f"no answer: {error!r}")
    return row


def _whole(body: bytes, *, stream: bool) -> bool:
    if stream:
        return body.rstrip().endswith(b"data: [DONE]")
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


async def _join(rows: list[Row], path: Path) -> None:
    """Wait for the record of every answered row."""
    missing = {row.answer[names.DECISION_ID]: row for row in rows if names.DECISION_ID in row.answer}
    async for record in _records(path, _RECORD_S):
        if (row := missing.pop(record["id"], None)) is not None:
            row.record = record
        if not missing:
            return


async def _records(path: Path, seconds: float) -> AsyncIterator[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    with path.open("rb") as file:
        buffer = b""
        while time.monotonic() < deadline:
            buffer += file.read()
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                if (record := _record(line)) is not None:
                    yield record
            if not lines:
                await asyncio.sleep(0.05)


def _record(line: bytes) -> dict[str, Any] | None:
    """A decision record, or None: a container's output holds its log too."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.keys() >= {"id", "snapshot"} else None


def _judge(row: Row) -> None:
    ask, outcome = row.ask, row.record.get("outcome", {})
    if row.status != 200:
        row.faults.append(f"status {row.status}")
    if not row.complete:
        row.faults.append("the answer is not whole")
    tier = row.answer.get(names.TIER, "")
    if tier != ask.tier:
        row.faults.append(f"tier {tier or 'none'} instead of {ask.tier or 'none'}")
    pool = row.answer.get(names.POOL, "")
    if pool != (ask.pool or f"default/{ask.tier}"):
        row.faults.append(f"pool {pool or 'none'}")
    tokens = outcome.get("tokens", {})
    if not tokens.get("in") or not tokens.get("out") or tokens.get("estimated"):
        row.faults.append("no exact token usage")
    if not outcome.get("ttft_s") or outcome["ttft_s"] > outcome.get("duration_s", 0):
        row.faults.append("no sensible TTFT")
    if not outcome.get("cost_usd"):
        row.faults.append("no cost")


_COLUMNS = ("asked", "complexity", "tier", "pool", "pod", "TTFT ms", "tokens in/out", "cost $", "all frontier $", "")


def render(rows: list[Row]) -> str:
    """The table and what it adds up to."""
    table = [_COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    cost = sum(_outcome(row, "cost_usd") for row in rows)
    top = sum(_outcome(row, "top_tier_cost_usd") or _outcome(row, "cost_usd") for row in rows)
    saved = f"{1 - cost / top:.0%}" if top else "nothing"
    lines.append(
        f"\n{len(rows)} requests cost ${cost:.5f}; all on the frontier tier they would have cost ${top:.5f}: {saved} saved."
    )
    wrong = [f"  {row.ask.what}: {', '.join(row.faults)}" for row in rows if row.faults]
    lines += ["Not as it should be:", *wrong] if wrong else ["Every row is as it should be."]
    return "\n".join(lines)


def _outcome(row: Row, key: str) -> float:
    return float(row.record.get("outcome", {}).get(key) or 0.0)


def _cells(row: Row) -> tuple[str, ...]:
    outcome = row.record.get("outcome", {})
    understanding = row.record.get("understanding", {})
    tokens = outcome.get("tokens", {})
    top = outcome.get("top_tier_cost_usd")
    return (
        row.ask.what,
        f"{understanding['complexity']:.2f}" if understanding else "-",
        row.answer.get(names.TIER, "-"),
        row.answer.get(names.POOL, "-"),
        outcome.get("endpoint", "-"),
        f"{outcome['ttft_s'] * 1000:.0f}" if outcome.get("ttft_s") else "-",
        f"{tokens.get('in', 0)}/{tokens.get('out', 0)}",
        f"{_outcome(row, 'cost_usd'):.6f}",
        f"{top:.6f}" if top is not None else "-",
        "ok" if not row.faults else "WRONG",
    )


def _invitation(stack: Stack) -> str:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]})
    return (
        f"\nIt stays up at {stack.url} (metrics: {stack.describe()['metrics']}). Try:\n\n"
        f"  curl -i {stack.url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f"    -H 'x-ralb-explain: true' -d '{body}'\n\nCtrl-C ends it."
    )
