"""``ralb sim`` around a made-up world: what is run, printed, written; and wrong usage."""

import argparse
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from ralb_cli import sim, sim_runs
from ralb_sim.offline import simulate, world
from ralb_sim.offline.fleet import Event, Kind
from ralb_sim.offline.policies import REFERENCE

TRACE = "".join(json.dumps({"t": n, "in": 1000 + n, "out": 11}) + "\n" for n in range(20))
PNG = b"\x89PNG\r\n\x1a\n"
# TTFT of each policy in the made-up world, seconds.
TTFT = {"reasoning-aware": 0.2, "round-robin": 0.5, "oracle": 0.1, "session-hash": 0.2}
KEYS = [
    "policy", "trace", "load", "seed", "pods", "staleness_ms", "replicas", "ttft_mean", "ttft_p50", "ttft_p90", "ttft_p99",
    "tpot_p50", "e2e_p50", "e2e_p99", "output_tok_s", "goodput", "prefix_hit", "max_mean_work",
]  # fmt: skip


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A world in which TTFT is TTFT x load x seed; the conditions it was asked for."""
    asked: list[Any] = []

    def made_up(trace: Any, profiles: Any, policy: Any, conditions: Any) -> world.Run:
        asked.append((trace.name, [profile.name for profile in profiles], policy, conditions))
        ttft = TTFT[policy] * conditions.load * conditions.seed
        requests = [
            world.Served(n, row.input, row.output, n + ttft, n + ttft + 0.1, cached=row.input // 2)
            for n, row in enumerate(trace.rows)
        ]
        return world.Run(requests, [1.0] * (len(profiles) - 1) + [2.0], 20.0, 1.0, 0.1, 5000.0)

    monkeypatch.setattr(simulate, "simulate", made_up)
    monkeypatch.setattr(sim_runs, "policies", lambda: {name: name for name in TTFT})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.jsonl").write_text(TRACE)
    return asked


def command(*words: str) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser()
    sim.register(parser.add_subparsers())
    stream, errors = io.StringIO(), io.StringIO()
    args = parser.parse_args(["sim", "--jobs", "1", "--trace", "chat.jsonl", *words])
    return sim.sim(args, stream=stream, errors=errors), stream.getvalue(), errors.getvalue()


def rows_of(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()[4:] if line and line[0] not in " *"}


def test_table_plot_and_json(played: list[Any]) -> None:
    code, text, errors = command("--policy", "round-robin,reasoning-aware,oracle", "--pods", "3", "--json", "j.json")
    assert code == 0
    assert text.splitlines()[:4] == [
        "chat: 3 x llama-3-8b-h100, load 0.8: 20 requests at 1.00/s",
        "metrics every 50 ms, 1 router replica; objective: TTFT 0.200 s, TPOT 73.3 ms",
        "policy           TTFT mean      p50      p90      p99   TPOT   e2e p50     p99     output   goodput   hits       work",
        "                         s        s        s        s     ms         s       s   tokens/s     req/s      %   max/mean",
    ]
    assert rows_of(text) == {
        "round-robin": ["0.400", "0.400", "0.400", "0.400", "10.0", "0.500", "0.500", "11", "0", "50.0", "1.50"],
        "reasoning-aware": [
            "0.160*",
            "0.160*",
            "0.160*",
            "0.160*",
            "10.0",
            "0.260*",
            "0.260*",
            "11",
            "1.00*",
            "50.0",
            "1.50",
        ],
        "oracle": ["0.0800", "0.0800", "0.0800", "0.0800", "10.0", "0.180", "0.180", "11", "1.00", "50.0", "1.50"],
    }
    assert Path("ralb-sim-chat.png").read_bytes().startswith(PNG)
    assert errors.endswith("plot: ralb-sim-chat.png\n")
    found = json.loads(Path("j.json").read_text())
    assert [list(row) for row in found] == [KEYS] * 3
    assert [row["policy"] for row in found] == ["round-robin", "reasoning-aware", "oracle"]
    assert found[0] == {
        "policy": "round-robin", "trace": "chat", "load": 0.8, "seed": 1, "pods": 3, "staleness_ms": 50, "replicas": 1,
        "ttft_mean": pytest.approx(0.4), "ttft_p50": pytest.approx(0.4), "ttft_p90": pytest.approx(0.4),
        "ttft_p99": pytest.approx(0.4), "tpot_p50": pytest.approx(0.01), "e2e_p50": pytest.approx(0.5),
        "e2e_p99": pytest.approx(0.5), "output_tok_s": pytest.approx(11, rel=0.06), "goodput": 0.0,
        "prefix_hit": pytest.approx(0.5, abs=0.001), "max_mean_work": 1.5,
    }  # fmt: skip


def test_every_combination_is_run_with_its_conditions(played: list[Any]) -> None:
    Path("other.jsonl").write_text(TRACE)
    code, text, _ = command(
        "--trace", "other.jsonl", "--policy", "ralb,oracle", "--load", "0.5,0.9", "--seed", "3,4", "--pods", "2,4",
        "--staleness-ms", "50,500", "--replicas", "1,3", "--requests", "15", "--warmup", "0.1", "--plot", "none",
        "--json", "j.json",
    )  # fmt: skip
    assert code == 0
    found = json.loads(Path("j.json").read_text())
    seen = {tuple(row[key] for key in KEYS[:7]) for row in found}
    assert len(seen) == len(found) == len(played) == 2**7
    assert {row["policy"] for row in found} == {"ralb", "oracle"}
    assert {policy for _, _, policy, _ in played} == {"reasoning-aware", "oracle"}
    assert {(c.requests, c.warmup) for *_, c in played} == {(15, 0.1)}
    assert {(c.load, c.seed, c.staleness_s, c.replicas) for *_, c in played} == {
        (load, seed, stale, replicas)
        for load in (0.5, 0.9) for seed in (3, 4) for stale in (0.05, 0.5) for replicas in (1, 3)
    }  # fmt: skip
    assert text.count("objective") == 2**5
    assert not list(Path().glob("*.png"))


def test_events_happen_in_every_run(played: list[Any]) -> None:
    words = [
        "30:pod=2,speed=0.33",
        "0.5:pod=0,stop",
        " 60 : pod=0 , start",
        "1:pod=1,freeze",
        "2:pod=1,freeze=0",
        "3:pod=1,errors=0.03",
    ]
    options = [word for value in words for word in ("--event", value)]
    code, text, _ = command("--policy", "oracle", "--seeds", "2", "--plot", "none", *options)
    expected = [
        Event(30, 2, Kind.SPEED, 0.33), Event(0.5, 0, Kind.STOP), Event(60, 0, Kind.START), Event(1, 1, Kind.FREEZE),
        Event(2, 1, Kind.FREEZE, 0), Event(3, 1, Kind.ERRORS, 0.03),
    ]  # fmt: skip
    assert code == 0
    assert [conditions.events for *_, conditions in played] == [expected] * 2
    assert ", 2 seeds, 6 events; objective" in text
    assert "events" not in command("--policy", "oracle", "--plot", "none")[1]


def test_several_seeds_show_median_and_spread(played: list[Any]) -> None:
    _, text, _ = command("--policy", "session-hash,round-robin", "--seeds", "3", "--load", "1", "--plot", "none")
    lines = [line.split() for line in text.splitlines()]
    assert ", 3 seeds;" in text
    assert lines[4][:2] == ["session-hash", "0.400*"]
    assert lines[5][:2] == ["min..max", "0.200..0.600"]
    assert lines[7][:2] == ["min..max", "0.500..1.50"]
    assert lines[5][-1] == "="
    assert [one[3].seed for one in played] == [1, 1, 2, 2, 3, 3]


def test_equals_share_the_mark_and_the_oracle_has_none(played: list[Any]) -> None:
    _, text, _ = command("--policy", "reasoning-aware,oracle,session-hash,round-robin", "--plot", "none")
    assert [rows_of(text)[name][0] for name in TTFT] == ["0.160*", "0.400", "0.0800", "0.160*"]


def test_a_mixed_fleet(played: list[Any]) -> None:
    fleet = "llama-3-8b-h100:2,llama-3-8b-l4:1"
    code, text, _ = command("--policy", "oracle", "--profile", fleet, "--plot", "none", "--json", "j.json")
    assert (code, played[0][1]) == (0, ["llama-3-8b-h100", "llama-3-8b-h100", "llama-3-8b-l4"])
    assert text.startswith("chat: 2 x llama-3-8b-h100, 1 x llama-3-8b-l4, load")
    assert json.loads(Path("j.json").read_text())[0]["pods"] == 3
    assert "TPOT 501 ms" in text  # what the slower ones can do


def test_rows_too_long_for_the_pods(played: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"t": 50, "in": 34_000, "out": 1}
    made_up = simulate.simulate

    def leaving_out(*asked: Any) -> world.Run:
        run = made_up(*asked)
        run.left_out = 1234
        return run

    monkeypatch.setattr(simulate, "simulate", leaving_out)
    fleet = ["--policy", "oracle", "--plot", "none", "--profile", "llama-3-8b-l4"]
    Path("chat.jsonl").write_text(TRACE)
    _, without, _ = command(*fleet)
    Path("chat.jsonl").write_text(TRACE + "".join(json.dumps({**row, "t": n}) + "\n" for n in range(9)))
    _, text, _ = command(*fleet)
    assert "(1,234 rows are too long for the pods)\n" in text
    assert text.splitlines()[1] == without.splitlines()[1]  # the objective is made of what can be played
    Path("chat.jsonl").write_text(json.dumps(row))
    code, _, errors = command(*fleet)
    assert code == 2
    assert errors == "ralb sim: chat: no request fits into a pod's 32,768 tokens; choose a --profile with more memory\n"


def test_the_objective_can_be_set(played: list[Any]) -> None:
    _, text, _ = command("--policy", "reasoning-aware", "--slo-ttft", "0.159", "--slo-tpot", "0.5", "--plot", "none")
    assert "objective: TTFT 0.159 s, TPOT 500 ms" in text
    assert rows_of(text)["reasoning-aware"][8] == "0"


def test_all_leaves_out_aliases(played: list[Any]) -> None:
    _, text, _ = command("--policy", "all", "--plot", "none")
    assert list(rows_of(text)) == list(TTFT)


def test_a_failed_run_costs_only_itself(played: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    good = simulate.simulate

    def failing(trace: Any, profiles: Any, policy: str, conditions: Any) -> Any:
        if policy == "oracle":
            raise ValueError("request 3 does not fit")
        if policy == "round-robin":
            raise KeyError("a mistake")
        return good(trace, profiles, policy, conditions)

    monkeypatch.setattr(simulate, "simulate", failing)
    code, text, errors = command("--policy", "all", "--seeds", "2", "--json", "j.json")
    assert code == 1
    assert set(rows_of(text)) == {"reasoning-aware", "session-hash"}
    assert "ralb sim: chat, oracle (and 1 more runs): request 3 does not fit\n" in errors
    assert "ralb sim: chat, round-robin (and 1 more runs): Traceback" in errors
    assert "KeyError: 'a mistake'\n" in errors
    assert len(json.loads(Path("j.json").read_text())) == 4
    code, text, _ = command("--policy", "oracle", "--plot", "none")
    assert (code, text) == (1, "")


def test_what_cannot_be_measured_is_null(played: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = world.Run([world.Served(0.0, 5, 5)], [0.0, 0.0], 1.0, 1.0)
    monkeypatch.setattr(simulate, "simulate", lambda *_: nobody)
    code, text, _ = command("--policy", "oracle", "--json", "j.json")
    row = json.loads(Path("j.json").read_text())[0]
    assert code == 0
    assert (row["ttft_p90"], row["goodput"], row["max_mean_work"]) == (None, 0.0, None)
    assert rows_of(text)["oracle"] == ["-", "-", "-", "-", "-", "-", "-", "0", "0", "-", "-", "1"]
    assert "failed" in text


def test_without_matplotlib_the_table_is_still_printed(played: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for plot, expected in (([], 0), (["--plot", "p.png"], 1)):
        code, text, errors = command("--policy", "oracle", *plot)
        assert code == expected
        assert "oracle" in rows_of(text)
        assert "ralb sim: no plot: plots need matplotlib" in errors
        assert "pip install 'ralb[sim]'" in errors


def test_files_that_cannot_be_written(played: list[Any]) -> None:
    assert command("--policy", "oracle", "--json", "nowhere/j.json") == (
        2,
        "",
        "ralb sim: nowhere/j.json: there is no folder nowhere\n",
    )
    assert command("--policy", "oracle", "--plot", "nowhere/p.png")[0] == 2
    assert played == []
    Path("dir").mkdir()
    code, text, errors = command("--policy", "oracle", "--json", "dir", "--plot", "dir")
    assert code == 1
    assert "oracle" in rows_of(text)
    assert errors.count("Is a directory: 'dir'") == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--policy", "best"],
            "ralb sim: --policy: unknown policy 'best'; known: all, ralb, reasoning-aware, round-robin, ",
        ),
        (["--trace", "nowhere.jsonl"], "ralb sim: [Errno 2] No such file or directory: 'nowhere.jsonl'\n"),
        (["--trace", "bad.jsonl"], "ralb sim: bad.jsonl:2: in: expected prompt tokens, an integer from 1 to"),
        (["--profile", "llama-3-8b-l4:2", "--pods", "3"], "ralb sim: --profile names 2 pods, but --pods says 3; leave"),
        (
            ["--profile", "llama-3-8b-l4:4000,llama-3-8b-h100:4000"],
            "ralb sim: --profile names 8000 pods; at most 4096\n",
        ),
        (
            ["--seeds", "1000", "--load", ",".join(f"0.{n}" for n in range(11, 99)), "--replicas", "1,2"],
            "ralb sim: 704,000 runs asked for; at most 100,000\n",
        ),
        (["--pods", "2,4", "--event", "9:pod=2,stop"], "ralb sim: event stop of pod 2: there are pods 0 to 1\n"),
    ],
)
def test_wrong_usage(played: list[Any], words: list[str], expected: str) -> None:
    Path("bad.jsonl").write_text(TRACE[: TRACE.index("\n") + 1] + '{"t": 1, "in": 0, "out": 1}\n')
    chosen = [] if "--policy" in words else ["--policy", "oracle"] if "--seeds" not in words else ["--policy", "all"]
    code, text, errors = command(*chosen, *words)
    assert (code, text, played) == (2, "", [])
    assert errors.startswith(expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--load", "0"], "argument --load: expected a number above 0 and up to 10, not '0'"),
        (["--load", "0.5,nan"], "argument --load: expected a number above 0 and up to 10, not 'nan'"),
        (["--load", "0.5,"], "argument --load: expected a number above 0 and up to 10, not ''"),
        (["--pods", "4097"], "argument --pods: expected an integer from 1 to 4096, not '4097'"),
        (["--pods", "²"], "argument --pods: expected an integer from 1 to 4096, not '²'"),
        (["--staleness-ms", "0"], "argument --staleness-ms: expected a number from 1 up to 60000, not '0'"),
        (["--replicas", "-1"], "argument --replicas: expected an integer from 1 to 64, not '-1'"),
        (["--event", "30"], "argument --event: expected SECONDS:pod=N,KIND with KIND one of start, stop, speed=X, "),
        (["--event", "30:pod=1"], "argument --event: expected SECONDS:pod=N,KIND"),
        (["--event", "30:1,stop"], "argument --event: expected SECONDS:pod=N,KIND"),
        (["--event", "30:pod=1,burn"], "argument --event: expected SECONDS:pod=N,KIND"),
        (["--event", "30:pod=1,speed"], "argument --event: speed takes a value, found '30:pod=1,speed'"),
        (["--event", "30:pod=1,stop=1"], "argument --event: stop takes no value, found '30:pod=1,stop=1'"),
        (["--event", "x:pod=1,stop"], "argument --event: expected a number from 0 up to 1e+09, not 'x'"),
        (["--event", "30:pod=-1,stop"], "argument --event: expected an integer from 0 to 4095, not '-1'"),
        (
            ["--event", "30:pod=1,speed=0"],
            "argument --event: event speed of pod 1: expected a value from 0.001 to 1000",
        ),
        (["--event", "30:pod=1,errors=1.5"], "argument --event: event errors of pod 1: expected a value from 0 to 1"),
        (["--event", "30:pod=1,freeze=nan"], "argument --event: expected a number from 0 up to 1000, not 'nan'"),
        (["--seed", "1", "--seeds", "2"], "argument --seeds: not allowed with argument --seed"),
        (["--profile", "h100"], "argument --profile: unknown profile 'h100'; known: llama-3-8b-l4, "),
        (
            ["--profile", "llama-3-8b-l4,llama-3-8b-h100"],
            "expected how many pods of each, as in llama-3-8b-l4:4,llama-3-8b-h100:4",
        ),
        (["--profile", "llama-3-8b-l4:x"], "argument --profile: expected an integer from 1 to 4096, not 'x'"),
    ],
)
def test_wrong_values(capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command(*words)
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err


def test_help_names_every_policy_of_the_field() -> None:
    words = sim._EPILOG.replace(",", " ").replace(";", " ").split()
    assert set(REFERENCE) <= set(words)
    assert set(sim.DEFAULT_POLICIES.split(",")) <= {*REFERENCE, "reasoning-aware"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.000012345, "0.00001"),
        (0.01234, "0.0123"),
        (1, "1.00"),
        (9.999, "10.0"),
        (12.34, "12.3"),
        (123.4, "123"),
        (98765.4, "98765"),
    ],
)
def test_three_digits(value: float, shown: str) -> None:
    from ralb_cli.sim_table import three_digits

    assert three_digits(value) == shown
    assert not math.isnan(float(shown))
