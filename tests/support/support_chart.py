"""The charts as Helm renders them, as plain data, and how to find one's way in it."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
CHARTS = REPOSITORY / "charts"
RALB = CHARTS / "ralb"
CRDS = CHARTS / "ralb-crds"
CI = sorted(path.name.removesuffix("-values.yaml") for path in (RALB / "ci").glob("*-values.yaml"))
NAMESPACE = "ralb-system"

Object = dict[str, Any]


def values_file(name: str) -> Path:
    """The file of a case in ``charts/ralb/ci``."""
    return RALB / "ci" / f"{name}-values.yaml"


@dataclass(frozen=True)
class Helm:
    """The Helm program without a cluster."""

    program: Path
    home: Path

    def __hash__(self) -> int:
        return hash(self.program)

    def run(self, *arguments: str | Path, input: str | None = None) -> subprocess.CompletedProcess[str]:
        homes = {f"HELM_{name}_HOME": str(self.home / name) for name in ("CACHE", "CONFIG", "DATA")}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "HELM_"))}
        return subprocess.run(
            [self.program, *arguments],
            env=environment | homes | {"KUBECONFIG": "/nowhere"},
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def template(self, chart: Path, *arguments: str | Path, release: str = "ralb", values: Any = None) -> list[Object]:
        """The objects; ``values`` are data, further ``arguments`` Helm's own."""
        done = self.try_template(chart, *arguments, release=release, values=values)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def try_template(
        self, chart: Path, *arguments: str | Path, release: str = "ralb", values: Any = None
    ) -> subprocess.CompletedProcess[str]:
        given = ["--values", "-"] if values is not None else []
        text = json.dumps(values) if values is not None else None
        return self.run("template", release, chart, "--namespace", NAMESPACE, *given, *arguments, input=text)

    @cache  # noqa: B019  # one per session
    def case(self, name: str) -> "Rendered":
        """A case of ``charts/ralb/ci``."""
        return Rendered(tuple(self.template(RALB, "--values", values_file(name))))


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a chart makes."""

    objects: tuple[Object, ...]

    def of(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"] == name)
        return found

    def component(self, kind: str, component: str) -> Object:
        """The object of a kind that belongs to ``operator``, ``gateway`` or ``epp``."""
        (found,) = (
            each for each in self.of(kind) if each["metadata"]["labels"].get("app.kubernetes.io/component") == component
        )
        return found

    def pods(self) -> Iterator[tuple[str, Object]]:
        """(Deployment's name, pod template) of all."""
        for deployment in self.of("Deployment"):
            yield deployment["metadata"]["name"], deployment["spec"]["template"]


def containers(template: Object) -> list[Object]:
    """All containers of a pod, init containers first."""
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def container(template: Object, name: str) -> Object:
    (found,) = (each for each in containers(template) if each["name"] == name)
    return found


def golden(objects: Sequence[Object]) -> str:
    """Objects in an order of their own, keys sorted: what a person reviews."""

    def key(each: Object) -> tuple[str, str, str]:
        return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]

    return yaml.safe_dump_all(sorted(objects, key=key), sort_keys=True, width=120, default_flow_style=False)
