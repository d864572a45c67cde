"""The benches that need a running gateway, with settings so small that they only show that they work."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.envoy


def run(name: str, out: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What it printed and what it wrote."""
    command = [sys.executable, str(ROOT / "bench" / name), *arguments, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, json.loads(out.read_bytes())


def test_strategies_live_and_offline(tmp_path: Path) -> None:
    options = "--trace examples/trace.jsonl --profile llama-3-8b-l4 --pods 2 --rows 24 --repeats 1 --time-scale 0.02"
    text, result = run(
        "placement_live.py", tmp_path / "live.json", *options.split(), "--strategies", "ReasoningAware,RoundRobin"
    )
    assert result["live"].keys() == result["offline"].keys() == {"ReasoningAware", "RoundRobin"}
    for side in ("live", "offline"):
        for strategy, found in result[side].items():
            (figures,) = found["figures"]
            assert figures["count"] == 18
            assert figures["failed"] == 0
            # The rows of this trace share a lot, so pods that found nothing would mean prompts that do not.
            assert figures["prefix_hit"] > 0.3, (side, strategy)
            assert figures["ttft_mean"] > 0
    assert set(result["compared"]) == {"ttft_mean", "ttft_p50", "ttft_p90", "goodput", "prefix_hit"}
    assert "rank correlation" in text


def test_an_ill_pod(tmp_path: Path) -> None:
    options = "--scenarios restart --pods 2 --rate 10 --time-scale 0.3 --before 3 --after 6 --ill 1"
    text, result = run("faults.py", tmp_path / "faults.json", *options.split())
    found = result["scenarios"]["restart"]
    assert found["cure"] > found["onset"] >= 3.0
    assert found["errors"] == 0
    assert found["requests"] > 50
    placed = sum(map(sum, found["placed_per_second"]))
    assert found["requests"] - found["broken"] - 1 <= placed <= found["requests"]
    assert all(sum(second[pod] for second in found["placed_per_second"]) for pod in (0, 1))
    assert found["states"][0][1] == "Healthy"
    assert (tmp_path / found["plot"]).read_bytes().startswith(b"\x89PNG")
    assert "restart" in text
