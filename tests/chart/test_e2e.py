"""``make e2e`` as far as it can be seen without Docker: its plan, its manifests, and what it does when something fails."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from support_chart import RALB, REPOSITORY, Helm, golden
from support_cluster import ControlPlane
from support_net import wait_until

from ralb_api.objects import ModelPool
from ralb_cli.stack.simpods import wanted

E2E = REPOSITORY / "e2e"


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ralb_e2e_run", E2E / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def call(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(E2E / "run.py"), *arguments]
    environment = os.environ | {"PATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


# ---- what it would do ----


def test_dry_run_prints_the_plan_and_needs_nothing(tmp_path: Path) -> None:
    done = call("--dry-run", path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    order = [
        "docker build",
        "kind create",
        "kind load",
        "install ralb-crds",
        "install ralb ",
        "examples/quickstart",
        "demo --url",
    ]
    positions = [next(i for i, line in enumerate(lines) if words in line) for words in order]
    assert positions == sorted(positions)
    assert lines[-1] == "kind delete cluster --name ralb-e2e"


def test_every_file_named_exists(run: ModuleType, tmp_path: Path) -> None:
    named = [
        word
        for step in run.Run(tmp_path, "python", 1).steps()
        for word in step.command
        if word.startswith(("e2e/", "charts/", "examples/"))
    ]
    assert len(named) >= 6
    assert not [word for word in named if not (REPOSITORY / word).exists()]


def test_images_are_those_the_chart_asks_for(run: ModuleType, helm: Helm, tmp_path: Path) -> None:
    built = {
        step.command[5] for step in run.Run(tmp_path, "python", 1).steps() if step.command[:2] == ("docker", "build")
    }
    rendered = golden(helm.template(RALB, "--values", E2E / "values.yaml")) + (E2E / "pods.yaml").read_text()
    for image in built:
        assert f"image: {image}\n" in rendered
    assert len(built) == 2


def test_node_images_are_pinned() -> None:
    nodes = yaml.safe_load((E2E / "kind.yaml").read_text())["nodes"]
    assert len(nodes) == 3
    assert {node["image"] for node in nodes} == {nodes[0]["image"]}
    assert "@sha256:" in nodes[0]["image"]


def test_simulated_pods_are_what_the_quickstart_asks_for() -> None:
    objects = yaml.safe_load_all((REPOSITORY / "examples" / "quickstart" / "pools.yaml").read_text())
    pods, complaints = wanted([ModelPool.model_validate(each) for each in objects])
    assert not complaints
    asked = {(pod.labels, frozenset(zip(pod.arguments[::2], pod.arguments[1::2], strict=True))): 0 for pod in pods}
    for pod in pods:
        asked[pod.labels, frozenset(zip(pod.arguments[::2], pod.arguments[1::2], strict=True))] += 1
    made = {}
    for deployment in yaml.safe_load_all((E2E / "pods.yaml").read_text()):
        template = deployment["spec"]["template"]
        (container,) = template["spec"]["containers"]
        pairs = [argument.partition("=")[::2] for argument in container["args"]]
        arguments = frozenset((name, value) for name, value in pairs if name not in ("--host", "--port"))
        made[tuple(sorted(template["metadata"]["labels"].items())), arguments] = deployment["spec"]["replicas"]
    assert made == asked


def test_the_api_server_takes_all_manifests(control_plane: ControlPlane, crds: list[str], helm: Helm) -> None:
    rendered = golden(helm.template(RALB, "--values", E2E / "values.yaml"))
    plane = control_plane
    plane.api.create_namespace("ralb-system", {"pod-security.kubernetes.io/warn": "restricted"})
    try:
        apply = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f")
        for file in (E2E / "namespace.yaml", E2E / "pods.yaml", REPOSITORY / "examples" / "quickstart"):
            assert "Warning" not in plane.kubectl(*apply, file).stderr
        assert "Warning" not in plane.kubectl(*apply, "-", input=rendered).stderr
    finally:
        plane.api.delete_namespace("ralb-system")


# ---- when something is wrong ----


def tools(folder: Path, **scripts: str) -> str:
    """A PATH with stand-ins that write down how they were called."""
    folder.mkdir()
    for name in ("docker", "kind", "kubectl", "helm"):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n{scripts.get(name, "exit 0")}\n')
        program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_missing_tools_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    done = call(path=str(tmp_path))
    assert done.returncode == 2
    for tool in ("docker", "kind", "kubectl", "helm"):
        assert f"{tool} is missing: https://" in done.stderr


@pytest.mark.parametrize(
    "scripts",
    [
        {"docker": "exit 1"},
        {"kind": 'test "$1" != create'},
        {"helm": "exit 1"},
        {"kubectl": 'test "$1" != wait'},
    ],
    ids=lambda scripts: next(iter(scripts)),
)
def test_the_cluster_is_removed_after_a_failure(tmp_path: Path, scripts: Mapping[str, str]) -> None:
    path = tools(tmp_path / "bin", **scripts)
    done = call(path=path)
    assert done.returncode == 1
    assert "FAILED" in done.stderr
    seen = calls(tmp_path / "bin")
    assert any("get pods --all-namespaces" in line for line in seen)  # the diagnosis
    assert seen[-1] == "kind delete cluster --name ralb-e2e"


async def test_the_cluster_is_removed_when_it_is_told_to_end(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", helm="exec sleep 60")
    environment = os.environ | {"PATH": path}
    null = asyncio.subprocess.DEVNULL
    program = (sys.executable, str(E2E / "run.py"))
    process = await asyncio.create_subprocess_exec(*program, env=environment, stdout=null, stderr=null)
    seen = tmp_path / "bin" / "calls"
    await wait_until(lambda: "helm " in seen.read_text(), 30, what="the first call of helm")
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 1
    assert calls(tmp_path / "bin")[-1] == "kind delete cluster --name ralb-e2e"


def test_a_cluster_may_be_kept(tmp_path: Path) -> None:
    done = call("--keep", path=tools(tmp_path / "bin", helm="exit 1"))
    assert done.returncode == 1
    assert not [line for line in calls(tmp_path / "bin") if "kind delete" in line]
    assert "KUBECONFIG=" in done.stdout


def test_the_users_kubeconfig_is_left_alone(tmp_path: Path) -> None:
    call(path=tools(tmp_path / "bin", kind='echo "$KUBECONFIG" >> $(dirname $0)/config; test "$1" != create'))
    configs = set((tmp_path / "bin" / "config").read_text().split())
    assert len(configs) == 1
    assert "/ralb-e2e-" in configs.pop()
