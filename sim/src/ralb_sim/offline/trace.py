"""Traces: recorded or made-up requests, one JSON object per line, gzip or not.

`{"t": s, "session": str|null, "in": tokens, "out": tokens, "blocks": [id, ...]|null, "reasoning": tokens|null}`; `blocks` are the
ids of the full prompt blocks, chained: an id stands for its block and all before it, so two prompts share exactly their common
prefix of ids. `out` and `reasoning` are the future: no policy may see them. Everything in a file is hostile until read here.

Trap: a file does not say how many tokens a block has; see `block_size`.
"""

import gzip
import math
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

import orjson

MAX_TOKENS = 10_000_000
"""Most tokens a prompt or an answer may have."""
MAX_ROWS = 5_000_000
"""Most rows a trace may have."""
_MAX_LINE = 64 << 20
_MAX_PIPED = 2 << 30
_MAX_SECONDS = 1e12
_MAX_SESSION = 1024
_GZIP = b"\x1f\x8b"
_INT = {int}


class TraceError(ValueError):
    """A trace cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request.

    Attributes:
        t: arrival, seconds from the first row.
        session: conversation id; "" = none. A session's requests are sequential.
        input: prompt tokens.
        output: answer tokens, reasoning included.
        blocks: ids of the full prompt blocks; () = unknown.
        reasoning: how many of `output` are reasoning tokens; 0 = unknown.
    """

    t: float
    session: str
    input: int
    output: int
    blocks: tuple[int, ...] = ()
    reasoning: int = 0


@dataclass(frozen=True, eq=False)
class Trace:
    """Rows by time. Equal to itself alone, so that it can be a key without being read through.

    Attributes:
        name: the file's name without `.jsonl` and `.gz`.
        rows: sorted by `t`, at least one; the first is at 0.
        block_tokens: tokens per block; 0 = no row has blocks.
    """

    name: str
    rows: tuple[Row, ...]
    block_tokens: int


def read_trace(path: str | Path, *, limit: int | None = None, block_tokens: int | None = None) -> Trace:
    """The trace in a file, or on the standard input for `-`.

    Args:
        path: the file; what is gzip is known by its content.
        limit: read at most so many rows.
        block_tokens: tokens per block, where the rows do not tell it clearly enough.

    Raises:
        TraceError: the content is not a trace, or `block_tokens` contradicts it.
        OSError: the file cannot be read.
    """
    place = "standard input" if str(path) == "-" else str(path)
    lines: list[int] = []
    rows: list[Row] = []
    with _opened(path, place) as stream:
        for number, text in islice(_lines(stream, place), limit):
            if len(rows) >= MAX_ROWS:
                raise TraceError(f"{place}: more than {MAX_ROWS:,} rows")
            rows.append(_row(text, place, number))
            lines.append(number)
    if not rows:
        raise TraceError(f"{place}: no rows; expected one JSON object per line")
    size = block_size(rows, lines, place, block_tokens)
    start = min(row.t for row in rows)
    if start:
        rows = [Row(row.t - start, row.session, row.input, row.output, row.blocks, row.reasoning) for row in rows]
    rows.sort(key=lambda row: row.t)
    return Trace(_name(path), tuple(rows), size)


def block_size(rows: list[Row], lines: list[int], place: str, wanted: int | None = None) -> int:
    """Tokens per block: every row with blocks must have `floor(input / size)` of them.

    Of several sizes that fit, the largest power of two, else the largest; 0 when no row has blocks.

    Args:
        rows: in the file's order.
        lines: the line number of each.
        place: the file's name, for errors.
        wanted: only check this size.

    Raises:
        TraceError: no size fits, or the wanted one does not.
    """
    low, high = 1, MAX_TOKENS
    low_line = high_line = 0
    for row, line in zip(rows, lines, strict=True):
        count = len(row.blocks)
        if not count:
            continue
        least, most = row.input // (count + 1) + 1, row.input // count
        if wanted is not None and not least <= wanted <= most:
            raise TraceError(
                f"{place}:{line}: blocks: {count} for {row.input} prompt tokens; "
                f"with {wanted} tokens per block there would be {row.input // wanted}"
            )
        if least > low:
            low, low_line = least, line
        if most < high:
            high, high_line = most, line
        if low > high:
            raise TraceError(
                f"{place}:{line}: blocks: no block size fits all rows: line {low_line} needs at least {low} tokens per block, "
                f"line {high_line} at most {high}; expected the ids of the full prompt blocks, floor(in / block size) of them"
            )
    if not high_line:
        return 0
    power = 1 << (high.bit_length() - 1)
    return wanted or (power if power >= low else high)


def _name(path: str | Path) -> str:
    return "stdin" if str(path) == "-" else Path(path).name.removesuffix(".gz").removesuffix(".jsonl")


@contextmanager
def _opened(path: str | Path, place: str) -> Iterator[BinaryIO]:
    """The plain bytes."""
    with ExitStack() as stack:
        raw: BinaryIO = sys.stdin.buffer if str(path) == "-" else stack.enter_context(open(path, "rb"))
        if not raw.seekable():
            content = raw.read(_MAX_PIPED + 1)
            if len(content) > _MAX_PIPED:
                raise TraceError(f"{place}: more than {_MAX_PIPED >> 30} GiB through a pipe; use a file")
            raw = BytesIO(content)
        start = raw.tell()
        zipped = raw.read(2) == _GZIP
        raw.seek(start)
        yield cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=raw))) if zipped else raw


def _lines(stream: BinaryIO, place: str) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    number = 0
    try:
        while line := stream.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise TraceError(f"{place}:{number}: a line of more than {_MAX_LINE >> 20} MiB")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.isspace():
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{place}: damaged gzip after line {number}: {error}") from None


def _row(text: bytes, place: str, line: int) -> Row:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise TraceError(f"{place}:{line}: not JSON: {error}") from None
    if type(value) is not dict:
        raise TraceError(f"{place}:{line}: expected an object, not {_shown(value)}")
    get = value.get
    t, session, given, made, blocks, reasoning = map(get, ("t", "session", "in", "out", "blocks", "reasoning"))
    if (type(t) is not float and type(t) is not int) or not math.isfinite(t) or abs(t) > _MAX_SECONDS:
        _wrong(value, "t", "seconds, a number", place, line)
    if session is not None and (type(session) is not str or len(session) > _MAX_SESSION):
        _wrong(value, "session", f"text of at most {_MAX_SESSION} characters, or null", place, line)
    if type(given) is not int or not 1 <= given <= MAX_TOKENS:
        _wrong(value, "in", f"prompt tokens, an integer from 1 to {MAX_TOKENS}", place, line)
    if type(made) is not int or not 1 <= made <= MAX_TOKENS:
        _wrong(value, "out", f"answer tokens, an integer from 1 to {MAX_TOKENS}", place, line)
    if blocks is not None and (type(blocks) is not list or not set(map(type, blocks)) <= _INT or len(blocks) > given):
        _wrong(value, "blocks", "a list of integers, one per full prompt block, or null", place, line)
    if reasoning is not None and (type(reasoning) is not int or not 0 <= reasoning <= made):
        _wrong(value, "reasoning", f"an integer from 0 to `out` ({made}), or null", place, line)
    return Row(float(t), session or "", given, made, tuple(blocks or ()), reasoning or 0)


def _wrong(row: dict[str, object], field: str, expected: str, place: str, line: int) -> NoReturn:
    found = _shown(row[field]) if field in row else "nothing"
    raise TraceError(f"{place}:{line}: {field}: expected {expected}; found {found}")


def _shown(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else text[:37] + "..."
