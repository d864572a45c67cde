"""Traces are read whole or refused with the place of the mistake."""

import gzip
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ralb_sim.offline.trace import Row, Trace, TraceError, block_size, read_trace

ROW = {"t": 1.5, "session": "s", "in": 100, "out": 7, "blocks": [1, 2, 3], "reasoning": 4}


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(tmp_path: Path, content: bytes, **options: Any) -> Trace:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    return read_trace(path, **options)


def refused(tmp_path: Path, content: bytes, **options: Any) -> str:
    with pytest.raises(TraceError) as caught:
        read(tmp_path, content, **options)
    return str(caught.value).removeprefix(str(tmp_path))


def test_a_row(tmp_path: Path) -> None:
    trace = read(tmp_path, lines(ROW))
    assert trace.name == "a"
    assert trace.rows == (Row(0.0, "s", 100, 7, (1, 2, 3), 4),)
    assert trace.block_tokens == 32


@pytest.mark.parametrize("extra", [{}, {"session": None, "blocks": None, "reasoning": None}, {"blocks": [], "else": 1}])
def test_what_may_be_absent(tmp_path: Path, extra: dict[str, Any]) -> None:
    trace = read(tmp_path, lines({"t": 0, "in": 1, "out": 1, **extra}))
    assert trace.rows == (Row(0.0, "", 1, 1),)
    assert trace.block_tokens == 0


def test_rows_are_sorted_stably_from_zero(tmp_path: Path) -> None:
    rows = [{"t": t, "session": name, "in": 1, "out": 1} for t, name in ((9, "a"), (7.5, "b"), (9, "c"), (-1, "d"))]
    trace = read(tmp_path, lines(*rows))
    assert [(row.t, row.session) for row in trace.rows] == [(0.0, "d"), (8.5, "b"), (10.0, "a"), (10.0, "c")]


def test_limit_and_blank_lines(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + lines(ROW) + b"\n  \r\n" + lines(ROW, ROW)
    assert len(read(tmp_path, content).rows) == 3
    assert len(read(tmp_path, content, limit=2).rows) == 2


@pytest.mark.parametrize("name", ["norm.jsonl.gz", "norm.jsonl", "norm", "norm.gz"])
@pytest.mark.parametrize("zipped", [True, False])
def test_gzip_is_known_by_content(tmp_path: Path, name: str, zipped: bool) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(lines(ROW)) if zipped else lines(ROW))
    trace = read_trace(path)
    assert trace.name == "norm"
    assert len(trace.rows) == 1


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("pipe", [True, False])
def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, pipe: bool) -> None:
    content = gzip.compress(lines(ROW)) if zipped else lines(ROW)
    if pipe:
        reader, writer = os.pipe()
        os.write(writer, content)  # less than a pipe holds
        os.close(writer)
        stream = os.fdopen(reader, "rb")
    else:
        (tmp_path / "in").write_bytes(content)
        stream = (tmp_path / "in").open("rb")
    with io.TextIOWrapper(stream) as text:
        monkeypatch.setattr(sys, "stdin", text)
        trace = read_trace("-")
    assert trace.name == "stdin"
    assert len(trace.rows) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"t": None}, "t: expected seconds, a number; found null"),
        ({"t": True}, "t: expected seconds, a number; found true"),
        ({"t": 1e300}, "t: expected seconds, a number; found 1e+300"),
        ({"session": 3}, "session: expected text of at most 1024 characters, or null; found 3"),
        (
            {"session": "x" * 1025},
            f'session: expected text of at most 1024 characters, or null; found "{"x" * 36}...',
        ),
        ({"in": 0}, "in: expected prompt tokens, an integer from 1 to 10000000; found 0"),
        ({"in": 1.5}, "in: expected prompt tokens, an integer from 1 to 10000000; found 1.5"),
        ({"in": 10**18}, "in: expected prompt tokens, an integer from 1 to 10000000; found 1000000000000000000"),
        ({"out": "7"}, 'out: expected answer tokens, an integer from 1 to 10000000; found "7"'),
        (
            {"blocks": [1, None]},
            "blocks: expected a list of integers, one per full prompt block, or null; found [1,null]",
        ),
        ({"blocks": [True]}, "blocks: expected a list of integers, one per full prompt block, or null; found [true]"),
        ({"blocks": {}}, "blocks: expected a list of integers, one per full prompt block, or null; found {}"),
        ({"reasoning": 8}, "reasoning: expected an integer from 0 to `out` (7), or null; found 8"),
    ],
)
def test_bad_fields(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    assert refused(tmp_path, lines(ROW, {**ROW, **change})) == f"/a.jsonl:2: {expected}"


@pytest.mark.parametrize("field", ["t", "in", "out"])
def test_needed_fields(tmp_path: Path, field: str) -> None:
    row = {name: value for name, value in ROW.items() if name != field}
    assert refused(tmp_path, lines(row)).startswith(f"/a.jsonl:1: {field}: expected ")
    assert refused(tmp_path, lines(row)).endswith("; found nothing")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "/a.jsonl: no rows; expected one JSON object per line"),
        (b"\n \n", "/a.jsonl: no rows; expected one JSON object per line"),
        (b"[1]\n", "/a.jsonl:1: expected an object, not [1]"),
        (lines(ROW) + b"\n{nonsense\n", "/a.jsonl:3: not JSON: "),
        (b'{"t": NaN}', "/a.jsonl:1: not JSON: "),
        (gzip.compress(lines(*[ROW] * 999))[:-9], "/a.jsonl: damaged gzip after line "),
        (gzip.compress(lines(ROW))[:12] + b"garbage", "/a.jsonl: damaged gzip after line 0: "),
    ],
)
def test_no_trace(tmp_path: Path, content: bytes, expected: str) -> None:
    assert refused(tmp_path, content).startswith(expected)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        read_trace(tmp_path / "nowhere.jsonl")


def blocks_of(size: int, tokens: int) -> dict[str, Any]:
    return {"t": 0, "in": tokens, "out": 1, "blocks": list(range(tokens // size))}


@given(st.integers(1, 2048), st.lists(st.integers(1, 50_000), min_size=1, max_size=20))
def test_the_inferred_size_fits_every_row(size: int, prompts: list[int]) -> None:
    rows = [Row(0.0, "", tokens, 1, tuple(range(tokens // size))) for tokens in prompts]
    found = block_size(rows, list(range(1, len(rows) + 1)), "f")
    known = [row for row in rows if row.blocks]
    assert bool(found) == bool(known)
    assert all(row.input // found == len(row.blocks) for row in known)
    assert block_size(rows, list(range(1, len(rows) + 1)), "f", size) == (size if known else 0)


def test_powers_of_two_come_first(tmp_path: Path) -> None:
    assert read(tmp_path, lines({**ROW, "in": 100, "blocks": [1]})).block_tokens == 64  # 51 to 100 would fit
    assert read(tmp_path, lines({**ROW, "in": 200, "blocks": [1, 2]})).block_tokens == 100  # 67 to 100 would


def test_blocks_that_no_size_fits(tmp_path: Path) -> None:
    assert refused(tmp_path, lines(blocks_of(16, 1000), blocks_of(64, 1000))) == (
        "/a.jsonl:2: blocks: no block size fits all rows: line 2 needs at least 63 tokens per block, line 1 at most 16; "
        "expected the ids of the full prompt blocks, floor(in / block size) of them"
    )


def test_a_given_size_must_fit(tmp_path: Path) -> None:
    assert read(tmp_path, lines({**ROW, "in": 100, "blocks": [1]}), block_tokens=60).block_tokens == 60
    assert refused(tmp_path, lines({**ROW, "in": 100, "blocks": [1]}), block_tokens=16) == (
        "/a.jsonl:1: blocks: 1 for 100 prompt tokens; with 16 tokens per block there would be 6"
    )
