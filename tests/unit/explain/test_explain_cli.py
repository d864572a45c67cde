"""``ralb explain``: rows in, one line for each out, whatever is in them."""

import argparse
import io
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support_routing import chat

from ralb_cli import explain as module

CONFIG = """
apiVersion: ralb.dev/v1alpha1
kind: ModelPool
metadata: {name: small}
spec:
  model: {name: llama-8b, contextWindow: 8000}
  backend: {pods: {selector: {matchLabels: {model: small}}}}
---
apiVersion: ralb.dev/v1alpha1
kind: ModelPool
metadata: {name: big}
spec:
  model: {name: qwen-235b, aliases: [qwen]}
  backend: {service: {host: big.example.com, port: 443}}
---
apiVersion: ralb.dev/v1alpha1
kind: ModelTier
metadata: {name: low}
spec: {level: 1, pools: [{name: small}], fallbackTier: high}
---
apiVersion: ralb.dev/v1alpha1
kind: ModelTier
metadata: {name: high}
spec: {level: 2, pools: [{name: big}], outputCap: 4000, reasoningEffort: High}
---
apiVersion: ralb.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: main}
spec:
  rules:
    - name: team
      when: {headers: [{name: x-team, value: blue}]}
      use: {reject: {message: Not for blue.}}
    - name: easy
      when: {complexity: {max: 0.4}}
      use: {tier: low}
  default:
    use: {tier: high}
"""
PODS = """
---
apiVersion: v1
kind: Pod
metadata: {name: small-0, labels: {model: small}, annotations: {ralb.dev/port: "8001"}}
status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: small-1, labels: {model: small}, annotations: {ralb.dev/port: "8002"}}
status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}
"""
HARD = "Prove rigorously that there are infinitely many primes."


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "ralb.yaml").write_text(CONFIG)
    return tmp_path


def run(files: Path, given: bytes, *flags: str) -> tuple[int, list[str], str]:
    """Exit code, lines of output, and what was said on standard error."""
    parser = argparse.ArgumentParser()
    module.register(parser.add_subparsers())
    args = parser.parse_args(["explain", "-f", str(files), *flags])
    stream, errors = io.StringIO(), io.StringIO()
    code = module.explain(
        args.files,
        jsonl=args.jsonl,
        path=args.path,
        headers=args.header,
        text=args.text,
        source=io.BytesIO(given),
        stream=stream,
        errors=errors,
    )
    return code, stream.getvalue().splitlines(), errors.getvalue()


def rows(files: Path, given: Sequence[Any], *flags: str) -> list[dict[str, Any]]:
    raw = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in given)
    code, lines, _ = run(files, raw, "--jsonl", *flags)
    assert code == 0
    return [json.loads(line) for line in lines]


def test_one_body(config: Path) -> None:
    code, lines, errors = run(config, json.dumps(chat(HARD)).encode())
    assert (code, len(lines), errors) == (0, 1, "")
    decision = json.loads(lines[0])["decision"]
    assert decision["understanding"]["intent"] == "maths"
    assert decision["understanding"]["complexity"] > 0.6
    assert decision["understanding"]["reasons"][0][0] == "asks for proof"
    assert decision["plan"]["policy"] == "default/main"
    assert (decision["plan"]["rule"], decision["plan"]["tier"]) == ("default", "high")
    assert decision["plan"]["candidates"] == ["default/big"]
    assert (decision["placement"]["pool"], decision["placement"]["model"]) == ("default/big", "qwen-235b")


def test_pools_whose_pods_are_not_in_the_files_are_taken_as_ready(config: Path) -> None:
    (row,) = rows(config, [{"id": "a", "body": chat("hi")}])
    assert row["decision"]["placement"]["pool"] == "default/small"
    assert row["decision"]["placement"]["endpoint"] == ""


@pytest.mark.parametrize(
    "backend",
    [
        "{external: {host: api.example.com, credentialsRef: {name: not-in-the-files}}}",
        "{service: {name: not-in-the-files, port: 80}}",
        "{inferencePool: {name: not-in-the-files}}",
    ],
)
def test_what_pools_refer_to_need_not_be_in_the_files(config: Path, backend: str) -> None:
    (config / "ralb.yaml").write_text(CONFIG.replace("{service: {host: big.example.com, port: 443}}", backend))
    (row,) = rows(config, [{"id": "a", "body": {**chat("hi"), "model": "qwen"}}])
    assert row["decision"]["placement"]["pool"] == "default/big"


def test_pods_in_the_files_are_chosen_from(config: Path) -> None:
    (config / "ralb.yaml").write_text(CONFIG + PODS)
    found = rows(config, [{"id": i, "body": chat("hi")} for i in range(50)])
    chosen = {row["decision"]["placement"]["endpoint"] for row in found}
    assert chosen == {"10.0.0.1:8001", "10.0.0.1:8002"}


def test_pods_in_the_files_that_are_not_ready_count(config: Path) -> None:
    (config / "ralb.yaml").write_text(CONFIG + PODS.replace('"True"', '"False"'))
    (row,) = rows(config, [{"id": "a", "body": chat("hi")}])
    assert row["decision"]["placement"]["pool"] == "default/big"
    assert row["decision"]["plan"]["skipped"] == [["default/small", "no ready endpoint"]]


def test_rows_have_paths_and_headers_of_their_own(config: Path) -> None:
    body = {"model": "auto", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    blue = {"X-Team": "blue"}
    found = rows(
        config,
        [
            {"id": 1, "path": "/v1/messages", "body": body},
            {"id": 2, "path": None, "headers": None, "body": body},
            {"id": 3, "headers": blue, "body": body},
            {"id": 4, "headers": {"x-team": "red"}, "body": body},
        ],
        "--header",
        "X-TEAM: blue",
    )
    assert [row.get("error", {}).get("code") for row in found] == ["rejected_by_policy"] * 3 + [None]
    assert found[0]["error"] == {"status": 403, "code": "rejected_by_policy", "message": "Not for blue.", "param": None}


def test_the_path_of_all_rows_can_be_said(config: Path) -> None:
    (row,) = rows(config, [{"id": 1, "body": {"model": "qwen", "prompt": "x"}}], "--path", "/v1/completions")
    assert row["decision"]["placement"]["model"] == "qwen-235b"
    assert row["decision"]["plan"]["policy"] == ""


def test_bad_rows_get_an_error_and_the_rest_goes_on(config: Path) -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    found = rows(
        config,
        [
            b"not json",
            b"[]",
            {"id": "no-body"},
            {"id": "path", "path": 7, "body": {}},
            {"id": "headers", "headers": {"a": 1}, "body": {}},
            b'{"id": "deep", "body": ' + json.dumps(deep).encode() + b"}",
            {"id": "raw", "body": "{oops"},
            {"id": "none", "body": None},
            {"id": "unknown", "body": {**chat("x"), "model": "gpt"}},
            {"id": "wrong", "body": {"model": "auto", "messages": [{"role": "user", "content": 7}]}},
            b"   ",
            b"\xff\xfe",
            {"body": chat("hi")},
        ],
    )
    codes = [(row["id"], row.get("error", {}).get("code")) for row in found]
    assert codes == [
        (None, "invalid_row"),
        (None, "invalid_row"),
        ("no-body", "invalid_row"),
        ("path", "invalid_row"),
        ("headers", "invalid_row"),
        ("deep", "invalid_row"),
        ("raw", "invalid_json"),
        ("none", "invalid_request"),
        ("unknown", "model_not_found"),
        ("wrong", "invalid_request"),
        (None, "invalid_row"),
        (13, None),
    ]
    assert found[9]["error"]["param"] == "messages[0].content"
    assert "line 1 is not JSON" in found[0]["error"]["message"]


def test_a_line_that_is_too_long_is_one_bad_row(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 1000)
    found = rows(config, [{"id": 1, "body": chat("x" * 5000)}, {"id": 2, "body": chat("hi")}])
    assert [("error" in row, row["id"]) for row in found] == [(True, None), (False, 2)]


def test_an_answer_depends_on_its_row_alone(config: Path) -> None:
    (config / "ralb.yaml").write_text(CONFIG + PODS)
    given = [{"id": f"r{i}", "body": chat(f"hi {i}")} for i in range(40)]
    shuffled = random.Random(1).sample(given, 30)
    by_id = {row["id"]: row for row in rows(config, given)}
    assert all(row == by_id[row["id"]] for row in rows(config, shuffled))


def test_words_for_people(config: Path) -> None:
    given = [
        {"id": "proof", "body": chat(HARD)},
        {"id": "bad", "body": chat()},
        {"id": "named", "body": {**chat("x"), "model": "qwen"}},
    ]
    raw = "".join(json.dumps(row) + "\n" for row in given).encode()
    code, lines, _ = run(config, raw, "--jsonl", "--text")
    text = "\n".join(lines)
    assert code == 0
    assert "proof: maths, complexity 0." in text
    assert "asks for proof" in text
    assert "policy default/main, rule default -> tier high" in text
    assert "at most 4000 answer tokens" in text
    assert "reasoning effort high" in text
    assert "bad: refused with 400 invalid_request (messages): messages must not be empty" in text
    assert "no policy: asked for by model name" in text


@pytest.mark.parametrize("flags", [["--header", "no-colon"], ["--header", ": x"]])
def test_wrong_flags(config: Path, flags: list[str]) -> None:
    code, lines, errors = run(config, b"{}", *flags)
    assert (code, lines) == (2, [])
    assert "is not NAME:VALUE" in errors


def test_unusable_configuration(tmp_path: Path) -> None:
    code, lines, errors = run(tmp_path / "missing", b"{}")
    assert (code, lines) == (2, [])
    assert "no such file" in errors
    (tmp_path / "ralb.yaml").write_text("kind: [")
    code, _, errors = run(tmp_path, b"{}")
    assert code == 2
    assert "no usable ModelPool" in errors
    assert "ralb.yaml" in errors


def test_broken_objects_are_named_and_the_rest_is_used(config: Path) -> None:
    (config / "more.yaml").write_text(
        "apiVersion: ralb.dev/v1alpha1\nkind: ModelPool\nmetadata: {name: bad}\nspec: {}\n"
    )
    code, lines, errors = run(config, json.dumps(chat("hi")).encode())
    assert code == 0
    assert "decision" in json.loads(lines[0])
    assert "ModelPool default/bad" in errors


def test_it_is_quick(config: Path) -> None:
    answer = module.explainer(module.load_snapshot(str(config), io.StringIO()))
    bodies = [json.dumps(chat(f"{HARD} Question {i}. " * 5)).encode() for i in range(300)]
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for number, body in enumerate(bodies):
            answer(number, module.DEFAULT_PATH, {}, body)
        best = min(best, time.perf_counter() - start)
    # 2,000 rows a second are promised of a quiet machine; a third of it is asked of a busy one.
    assert len(bodies) / best > 700
