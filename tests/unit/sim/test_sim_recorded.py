"""The simulator beside recorded answers of a real vLLM 0.32.0 (skipped where the recordings are not)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import Pod, StartPod, parse_events


def exchanges(folder: Path) -> dict[str, dict[str, Any]]:
    rows = (json.loads(line) for line in (folder / "vllm-0.32.0-exchanges.jsonl").read_text().splitlines())
    return {row["name"]: row for row in rows}


def shape(value: Any) -> Any:
    """Return keys in order and types, without values; lists are as their first entry (bytes may be none)."""
    if isinstance(value, dict):
        return {key: "bytes" if key == "bytes" else shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def ordered(value: Any) -> str:
    return json.dumps(value)


JSON_CASES = [
    "models",
    "version",
    "chat",
    "chat-prefix-hit",
    "chat-alias-orca-json",
    "chat-orca-text",
    "chat-logprobs",
    "completions",
    "responses",
    "anthropic-messages",
    "unknown-model",
    "context-overflow",
    "bad-json-type",
    "json-schema",
]


async def replay(pod: Pod, row: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    asked = row["request"]
    async with pod.session.request(
        asked["method"], asked["path"], json=asked["body"], headers=asked["headers"]
    ) as response:
        return response.status, await response.text(), dict(response.headers)


@pytest.fixture
async def recorded_pod(start_pod: StartPod) -> Pod:
    return await start_pod(output_median=40, block_size=128)


async def first_asked(pod: Pod, rows: dict[str, dict[str, Any]], name: str) -> None:
    """Bring the pod's cache to where the recording's was."""
    if name != "chat":
        await replay(pod, rows["chat"])


@pytest.mark.parametrize("name", JSON_CASES)
async def test_json_answers_have_the_recorded_shape(recorded: Path, recorded_pod: Pod, name: str) -> None:
    rows = exchanges(recorded)
    await first_asked(recorded_pod, rows, name)
    row = rows[name]
    status, text, headers = await replay(recorded_pod, row)
    assert status == row["response"]["status"]
    mine, theirs = shape(json.loads(text)), shape(json.loads(row["response"]["body"]))
    assert ordered(mine) == ordered(theirs)
    for key in ("Content-Type", "Server", "Vary"):
        assert headers[key] == row["response"]["headers"][key]


@pytest.mark.parametrize("name", ["unknown-model", "bad-json-type"])
async def test_error_bodies_are_the_recorded_ones(recorded: Path, recorded_pod: Pod, name: str) -> None:
    row = exchanges(recorded)[name]
    _status, text, _headers = await replay(recorded_pod, row)
    assert json.loads(text) == json.loads(row["response"]["body"])


async def test_context_overflow_is_worded_as_recorded(recorded: Path, start_pod: StartPod) -> None:
    pod = await start_pod()
    row = exchanges(recorded)["context-overflow"]
    row["request"]["body"]["messages"][0]["content"] = "x" * 40_000
    _status, text, _headers = await replay(pod, row)
    assert json.loads(text) == json.loads(row["response"]["body"])


@pytest.mark.parametrize("name", ["chat-alias-orca-json", "chat-orca-text"])
async def test_load_header_is_the_recorded_one(recorded: Path, recorded_pod: Pod, name: str) -> None:
    row = exchanges(recorded)[name]
    _status, _text, headers = await replay(recorded_pod, row)
    assert headers["endpoint-load-metrics"] == row["response"]["headers"]["endpoint-load-metrics"]


@pytest.mark.parametrize("name", ["chat-stream", "chat-stream-usage", "anthropic-messages-stream"])
async def test_streams_have_the_recorded_events(recorded: Path, recorded_pod: Pod, name: str) -> None:
    rows = exchanges(recorded)
    await first_asked(recorded_pod, rows, name)
    row = rows[name]
    _status, text, headers = await replay(recorded_pod, row)
    assert headers["Content-Type"] == row["response"]["headers"]["Content-Type"]
    assert headers["Transfer-Encoding"] == "chunked"

    def kinds(body: str) -> list[str]:
        seen: list[str] = []
        for event in parse_events(body):
            one = ordered(shape(event))
            # How many deltas there are depends on how tokens fall together; their form does not.
            if not seen or seen[-1] != one:
                seen.append(one)
        return seen

    assert kinds(text) == kinds(row["response"]["body"])
    assert re.findall(r"^event: .*$", text, re.M)[:3] == re.findall(r"^event: .*$", row["response"]["body"], re.M)[:3]


async def test_cache_fields_are_the_recorded_ones(recorded: Path, recorded_pod: Pod) -> None:
    rows = exchanges(recorded)
    known = 0
    for name in ("chat", "chat-prefix-hit"):
        _status, text, _headers = await replay(recorded_pod, rows[name])
        usages = [json.loads(body)["usage"] for body in (text, rows[name]["response"]["body"])]
        for usage in usages:
            details = usage["prompt_tokens_details"]
            # What was not found is created, in full blocks: so it is in the recording, and so it must be here.
            assert details["created_cache_tokens"] == usage["prompt_tokens"] // 128 * 128 - details["cached_tokens"]
        assert usages[0]["prompt_tokens_details"]["cached_tokens"] == known
        known = usages[0]["prompt_tokens"] // 128 * 128


def parts(page: str) -> tuple[list[str], set[str], dict[str, str]]:
    """Return family heads in order, series (name and labels without values that differ), and types."""
    heads = [line for line in page.splitlines() if line.startswith("#")]
    series = set()
    for line in page.splitlines():
        if line and not line.startswith("#"):
            series.add(line.rsplit(" ", 1)[0])
    return heads, series, {line.split(" ")[2]: line.split(" ")[3] for line in heads if line.startswith("# TYPE")}


async def test_metrics_page_has_the_recorded_families_and_series(recorded: Path, recorded_pod: Pod) -> None:
    rows = exchanges(recorded)
    for row in rows.values():
        await replay(recorded_pod, row)
    _status, page = await recorded_pod.get("/metrics")
    theirs = (recorded / "vllm-0.32.0-metrics-under-load.txt").read_text()
    mine_heads, mine_series, _types = parts(page.decode())
    their_heads, their_series, _types = parts(theirs)
    assert mine_heads == their_heads

    def comparable(series: set[str]) -> set[str]:
        kept = set()
        for one in series:
            if one.startswith("vllm:cache_config_info"):
                one = "vllm:cache_config_info " + ",".join(re.findall(r"([a-z_]+)=", one))
            elif one.startswith("python_info"):
                one = "python_info"
            kept.add(one)
        return kept

    assert comparable(mine_series) == comparable(their_series)
