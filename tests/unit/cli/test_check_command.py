"""``ralb check``: what it prints, and its exit codes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ralb_cli import check, main

EXAMPLES = Path(__file__).parents[3] / "examples"
TIER = "apiVersion: ralb.dev/v1alpha1\nkind: ModelTier\nmetadata: {name: t}\nspec: {level: 0, pools: [{name: a}]}\n"
OTHER = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\n"


def checked(path: Path, *, as_json: bool = False) -> tuple[int, str, str]:
    stream, errors = io.StringIO(), io.StringIO()
    code = check.check(str(path), as_json=as_json, stream=stream, errors=errors)
    return code, stream.getvalue(), errors.getvalue()


def test_clean() -> None:
    assert checked(EXAMPLES / "quickstart") == (0, "3 pools, 3 tiers, 1 policy: no problems\n", "")


def test_pods_are_counted() -> None:
    assert checked(EXAMPLES / "static-pods")[1] == "1 pool, 1 tier, 1 policy, 3 pods: no problems\n"


def test_errors(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TIER + "---\n" + OTHER)
    code, text, _ = checked(tmp_path)
    assert code == 1
    assert text == (
        f"error: {tmp_path}/a.yaml:1: ModelTier default/t: spec.level: must be between 1 and 100, not 0 "
        "(level ranks the tiers of a namespace by ability: 1 for trivial work, higher for harder.)\n"
        f"warning: {tmp_path}/a.yaml:6: ConfigMap default/s: v1 is not for RALB; the object is ignored "
        "(kinds that are read: ModelPool, ModelTier, RoutingPolicy, Tenant, SemanticRoute, ToolBackend, Pod, Service, "
        "Secret, EndpointSlice, InferencePool, ReferenceGrant)\n"
        "0 pools, 0 tiers, 0 policies: 1 error, 1 warning\n"
    )


def test_warnings_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(OTHER)
    code, text, _ = checked(tmp_path)
    assert code == 0
    assert text.endswith("0 pools, 0 tiers, 0 policies: 1 warning\n")


BACKENDS = {
    "external: {host: api.example.com, credentialsRef: {name: key}}": "credentialsRef: there is no Secret m/key",
    "external: {host: a.example.com, tls: {caCertificateRef: {name: ca}}}": "caCertificateRef: there is no Secret m/ca",
    "service: {name: chat, port: 80}": "service: there is no Service m/chat",
    "service: {name: chat, port: 80, namespace: other}": "may not refer to Service other/chat",
    "inferencePool: {name: chat}": "inferencePool: there is no InferencePool m/chat",
}
POOL = """apiVersion: ralb.dev/v1alpha1
kind: ModelPool
metadata: {{name: chat, namespace: m}}
spec: {{model: {{name: chat}}, backend: {{{backend}}}}}
"""


@pytest.mark.parametrize(("backend", "said"), BACKENDS.items(), ids=range(len(BACKENDS)))
def test_what_only_a_cluster_has_is_no_error(tmp_path: Path, backend: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(POOL.format(backend=backend))
    code, out, _ = checked(tmp_path)
    assert code == 0, out
    assert out.startswith("warning: ")
    assert said in out
    assert "fine if the cluster has what these files lack; else " in out
    assert out.endswith("1 pool, 0 tiers, 0 policies: 1 warning\n")


@pytest.mark.parametrize(
    ("there", "backend", "said"),
    [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: chat, namespace: m}\nspec: {ports: [{port: 81}]}\n",
            "service: {name: chat, port: 80}",
            "has no port 80",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: key, namespace: m}\nstringData: {other: x}\n",
            "external: {host: api.example.com, credentialsRef: {name: key}}",
            "has no key apiKey",
        ),
    ],
)
def test_what_is_there_and_unfit_is_an_error(tmp_path: Path, there: str, backend: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(there + "---\n" + POOL.format(backend=backend))
    code, out, _ = checked(tmp_path)
    assert code == 1, out
    assert said in out


def test_what_compile_finds_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TIER.replace("level: 0", "level: 1"))
    code, text, _ = checked(tmp_path)
    assert code == 1
    assert f"error: {tmp_path}/a.yaml:1: ModelTier default/t: spec.pools[0].name: " in text
    lines = text.splitlines()
    assert len(set(lines)) == len(lines), "one finding is said once"


def test_json(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TIER)
    code, text, _ = checked(tmp_path, as_json=True)
    report = json.loads(text)
    assert code == 1
    assert report["ok"] is False
    assert report["counts"] == {"pools": 0, "tiers": 0, "policies": 0, "pods": 0, "errors": 1, "warnings": 0}
    (problem,) = report["problems"]
    assert problem["object"] == {"kind": "ModelTier", "namespace": "default", "name": "t", "id": "default/t"}
    assert (problem["field"], problem["severity"], problem["reason"]) == ("spec.level", "error", "Invalid")
    assert problem["file"] == f"{tmp_path}/a.yaml:1"


def test_json_of_what_is_clean() -> None:
    code, text, _ = checked(EXAMPLES / "reject", as_json=True)
    assert (code, json.loads(text)["ok"], json.loads(text)["problems"]) == (0, True, [])


def test_nothing_to_check(tmp_path: Path) -> None:
    code, text, errors = checked(tmp_path)
    assert (code, text, errors) == (2, "", f"ralb check: {tmp_path}: no *.yaml or *.yml file in it\n")
    code, text, errors = checked(tmp_path / "missing")
    assert (code, text, errors) == (2, "", f"ralb check: {tmp_path}/missing: no such file or directory\n")


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["check", "-f", str(EXAMPLES / "quickstart")]) == 0
    assert "no problems" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["check"], ["nonsense"], ["check", "-f"]])
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(argv)
    assert caught.value.code == 2
    assert "usage: ralb" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("ralb 0.")


def test_help_needs_nothing_slow() -> None:
    code = (
        "import sys\nfrom ralb_cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "slow = {'pydantic', 'numpy', 'grpc', 'aiohttp', 'orjson', 'yaml'} & sys.modules.keys()\nassert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"    {name}" in done.stdout for name in main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_is_there(name: str) -> None:
    module = main.command(name)
    assert callable(module.run)
    assert callable(module.register)


@pytest.mark.parametrize("count", [1, 300])
def test_a_reader_that_goes_away(tmp_path: Path, count: int) -> None:
    (tmp_path / "a.yaml").write_text("---\n".join([TIER.replace("name: t", f"name: t{i}") for i in range(count)]))
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ralb_cli.main", "check", "-f", str(tmp_path)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""
