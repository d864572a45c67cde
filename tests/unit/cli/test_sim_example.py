"""``ralb sim`` as a user runs it, on the example trace: the same results in one process as in two, and a clean end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TRACE = Path(__file__).parents[3] / "examples" / "trace.jsonl"
COMMAND = [
    sys.executable,
    "-m",
    "ralb_cli.main",
    "sim",
    "--trace",
    str(TRACE),
    "--pods",
    "2",
    "--profile",
    "llama-3-8b-l4",
]


def results(tmp_path: Path, *words: str) -> tuple[list[dict[str, Any]], str]:
    done = subprocess.run(
        [*COMMAND, "--json", "j.json", *words], cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "j.json").read_text()), done.stdout


def test_the_example(tmp_path: Path) -> None:
    words = [
        "--policy",
        "product,round-robin,oracle",
        "--load",
        "0.5,0.8",
        "--staleness-ms",
        "500",
        "--replicas",
        "2",
    ]
    one, text = results(tmp_path, *words, "--jobs", "1")
    two, again = results(tmp_path, *words, "--jobs", "2", "--plot", "none")
    assert one == two
    assert text.splitlines()[:-1] == again.splitlines()[:-1]  # the last line is about real time
    assert (tmp_path / "ralb-sim-trace.png").read_bytes().startswith(b"\x89PNG")
    assert [(row["policy"], row["load"]) for row in one] == [
        (policy, load) for load in (0.5, 0.8) for policy in ("product", "round-robin", "oracle")
    ]
    by_policy = {row["policy"]: row for row in one[:3]}
    for row in one:
        assert 0 < row["ttft_p50"] <= row["ttft_p90"] <= row["ttft_p99"] <= row["e2e_p99"]
        assert 1 <= row["max_mean_work"] <= 2
        assert row["output_tok_s"] > row["goodput"] > 0
    assert (
        by_policy["oracle"]["prefix_hit"] > by_policy["round-robin"]["prefix_hit"] > 0.3
    )  # system prompts are shared by all
    assert by_policy["oracle"]["ttft_mean"] < by_policy["round-robin"]["ttft_mean"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ends_with_all_its_processes(tmp_path: Path, sign: signal.Signals) -> None:
    words = ["--policy", "round-robin,oracle", "--seeds", "100", "--jobs", "2", "--plot", "none"]
    running = subprocess.Popen(
        [*COMMAND, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stderr is not None
    assert running.stderr.readline().startswith("20/200 ")
    # As a terminal does: to the whole group for Ctrl-C; to the one process otherwise.
    (os.killpg if sign is signal.SIGINT else os.kill)(running.pid, sign)
    text, errors = running.communicate(timeout=60)  # returns only when the last process has let go of the pipes
    assert running.returncode == 128 + sign
    assert text == ""
    assert "Traceback" not in errors
