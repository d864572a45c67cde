"""What is built: three Go modules of this repository, read from their go.mod and go.sum.

The key of a build covers those two files, the programs, their flags and the machine type. Go's own version is in it as the
``go`` line of go.mod, not as that of the Go at hand: any Go that is new enough builds what the tests need, and looking for a
cached build must not need Go at all.
"""

import hashlib
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Program:
    """One program.

    Attributes:
        name: of the binary.
        package: Go package of its ``main``.
        module: Go module whose version it has.
        stamp: from that version (``v1.36.3``) to linker variables that the program reports.
    """

    name: str
    package: str
    module: str
    stamp: Callable[[str], dict[str, str]] = field(default=lambda _: {}, compare=False)


@dataclass(frozen=True)
class GoModule:
    """A folder with go.mod and go.sum, and the programs (or files) that are taken from it."""

    name: str
    programs: tuple[Program, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # (Go module, path in it)
    tools: Path = TOOLS

    @property
    def folder(self) -> Path:
        """Where its go.mod is."""
        return self.tools / self.name

    @cached_property
    def text(self) -> str:
        """The go.mod."""
        return (self.folder / "go.mod").read_text(encoding="utf-8")

    @property
    def minimum_go(self) -> tuple[int, int, int]:
        """The oldest Go that builds it."""
        match = re.search(r"^go (\d+)\.(\d+)(?:\.(\d+))?$", self.text, re.MULTILINE)
        if match is None:
            raise ValueError(f"{self.folder / 'go.mod'} has no go line")
        return int(match[1]), int(match[2]), int(match[3] or 0)

    def version(self, module: str) -> str:
        """The version of a Go module in go.mod, as ``v1.36.3``."""
        match = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", self.text, re.MULTILINE)
        if match is None:
            raise ValueError(f"{self.folder / 'go.mod'} does not require {module}")
        return match[1]

    def ldflags(self, program: Program) -> str:
        """Linker flags: no debug information, and the version where the program reports it."""
        variables = program.stamp(self.version(program.module))
        return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in variables.items())])

    @property
    def key(self) -> str:
        """Names a build in the cache; see the module's docstring for what it covers."""
        digest = hashlib.sha256()
        parts = [self.text, (self.folder / "go.sum").read_text(encoding="utf-8"), sys.platform, platform.machine()]
        for program in self.programs:
            parts += [program.name, program.package, self.ldflags(program)]
        for module, path in self.files:
            parts += [module, path]
        for part in parts:
            digest.update(f"{len(part)}:{part}".encode())
        return digest.hexdigest()[:20]


def _kubernetes(version: str) -> dict[str, str]:
    """Unstamped programs call themselves v0.0.0-master, which Helm's kubeVersion check and clients do not take."""
    major, minor, _ = version.removeprefix("v").split(".", 2)
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return {f"{package}.{name}": value for package in packages for name, value in values.items()}


def _helm(version: str) -> dict[str, str]:
    return {"helm.sh/helm/v4/internal/version.version": version}


def _kubernetes_program(name: str) -> Program:
    return Program(name, f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", _kubernetes)


CONTROL_PLANE = GoModule(
    "control-plane",
    (
        Program("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        _kubernetes_program("kube-apiserver"),
        _kubernetes_program("kube-controller-manager"),
        _kubernetes_program("kubectl"),
    ),
)
HELM = GoModule("helm", (Program("helm", "helm.sh/helm/v4/cmd/helm", "helm.sh/helm/v4", _helm),))
FOREIGN_CRDS = GoModule(
    "foreign-crds",
    files=(
        (
            "sigs.k8s.io/gateway-api-inference-extension",
            "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml",
        ),
        ("sigs.k8s.io/gateway-api", "config/crd/standard/gateway.networking.k8s.io_referencegrants.yaml"),
        (
            "github.com/prometheus-operator/prometheus-operator",
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        ),
    ),
)
MODULES = (CONTROL_PLANE, HELM, FOREIGN_CRDS)
