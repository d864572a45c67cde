"""Rebuilds everything generated, or with ``--check`` says what is out of date.

A step writes its files below a root folder, at the same paths as in the repository, and names the patterns of the files
it owns, so that leftovers of what is no longer generated are found too. Add a step to ``STEPS``.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Step:
    """One generator.

    Attributes:
        name: for messages.
        build: writes the files below the given root.
        owns: patterns (relative to the root) of all files it may write.
    """

    name: str
    build: Callable[[Path], None]
    owns: tuple[str, ...]


def protobuf(root: Path) -> None:
    """Python code of our own protocols in ``proto/``."""
    import grpc_tools
    from grpc_tools import protoc

    source, target = REPOSITORY / "proto", root / "api" / "src"
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(str(path.relative_to(source)) for path in source.rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{source}", f"-I{well_known}", *outputs, *files]):
        raise SystemExit("protoc failed")


def crds(root: Path) -> None:
    """CustomResourceDefinitions from the models."""
    from ralb_api import crd

    folder = root / "crds"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in crd.render().items():
        (folder / name).write_text(text, encoding="utf-8")


def crd_chart(root: Path) -> None:
    """The same definitions as templates of the chart ``ralb-crds``; Helm leaves them in the cluster at uninstall."""
    from ralb_api import crd

    folder = root / "charts" / "ralb-crds" / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    keep = "\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n"
    for name, text in crd.render().items():
        if text.count("\nmetadata:\n") != 1 or "annotations:" in text.partition("\nspec:\n")[0]:
            raise SystemExit(f"{name}: the chart's annotation cannot be put in; see crd_chart in tools/generate.py")
        escaped = text.replace("{{", '{{ "{{" }}')
        (folder / name).write_text(escaped.replace("\nmetadata:\n", keep), encoding="utf-8")


def chart_values(root: Path) -> None:
    """The table of values inside the README of the chart ``ralb``."""
    import json

    import yaml

    chart = Path("charts/ralb")
    source = (REPOSITORY / chart / "values.yaml").read_text(encoding="utf-8")
    rows = ["| value | default | what it is |", "| --- | --- | --- |"]
    for path, comment in commented(source):
        value = yaml.safe_load(source)
        for key in path:
            value = value[key]
        default = json.dumps(value).replace("|", "\\|")
        text = comment.replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{'.'.join(path)}` | `{default}` | {text} |")
    begin, end = "by `make generate` -->\n", "<!-- /values -->"
    readme = (REPOSITORY / chart / "README.md").read_text(encoding="utf-8")
    head, _, rest = readme.partition(begin)
    table = "\n".join(rows)
    (root / chart).mkdir(parents=True, exist_ok=True)
    (root / chart / "README.md").write_text(
        f"{head}{begin}\n{table}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8"
    )


def commented(text: str) -> list[tuple[tuple[str, ...], str]]:
    """Path and comment of every key of a YAML file that has a comment beginning with ``# --``."""
    found, path, comment = [], list[tuple[int, str]](), ""
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("# -- "):
            comment = words.removeprefix("# -- ")
        elif words.startswith("#") and comment:
            comment += " " + words.removeprefix("#").strip()
        elif words and not words.startswith(("#", "-")):
            indent = len(line) - len(line.lstrip())
            path = [*((at, key) for at, key in path if at < indent), (indent, words.partition(":")[0])]
            if comment:
                found.append((tuple(key for _, key in path), comment))
                comment = ""
    return found


def reference(root: Path) -> None:
    """The tables of fields inside docs/objects.md."""
    from ralb_api.reference import fill

    (root / "docs").mkdir(parents=True, exist_ok=True)
    text = (REPOSITORY / "docs" / "objects.md").read_text(encoding="utf-8")
    (root / "docs" / "objects.md").write_text(fill(text), encoding="utf-8")


def hold_filter(root: Path) -> None:
    """The first-token hold filter, assembled from its source."""
    import wasmtime

    folder = Path("operator/src/ralb_operator/compile/envoy")
    (root / folder).mkdir(parents=True, exist_ok=True)
    source = (REPOSITORY / folder / "hold.wat").read_text(encoding="utf-8")
    (root / folder / "hold.wasm").write_bytes(bytes(wasmtime.wat2wasm(source)))


STEPS = (
    Step(
        "protobuf code",
        protobuf,
        ("api/src/ralb/**/*_pb2.py", "api/src/ralb/**/*_pb2.pyi", "api/src/ralb/**/*_pb2_grpc.py"),
    ),
    Step("CRDs", crds, ("crds/*.yaml",)),
    Step("CRD chart", crd_chart, ("charts/ralb-crds/templates/*.yaml",)),
    Step("chart values", chart_values, ("charts/ralb/README.md",)),
    Step("hold filter", hold_filter, ("operator/src/ralb_operator/compile/envoy/*.wasm",)),
    Step("field reference", reference, ("docs/objects.md",)),
)


def owned(root: Path, step: Step) -> dict[str, bytes]:
    """Content of the files of a step that are below ``root``, by relative path."""
    paths = {path for pattern in step.owns for path in root.glob(pattern) if path.is_file()}
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(paths)}


def drift(root: Path, steps: tuple[Step, ...] = STEPS) -> list[str]:
    """What differs below ``root`` from what the steps would write, one line per file."""
    lines = []
    for step in steps:
        with tempfile.TemporaryDirectory() as scratch:
            step.build(Path(scratch))
            wanted, present = owned(Path(scratch), step), owned(root, step)
        for path in sorted(wanted.keys() | present.keys()):
            if path not in present:
                lines.append(f"{path}: missing ({step.name})")
            elif path not in wanted:
                lines.append(f"{path}: no longer generated, delete it ({step.name})")
            elif wanted[path] != present[path]:
                lines.append(f"{path}: out of date ({step.name})")
    return lines


def generate(root: Path, steps: tuple[Step, ...] = STEPS) -> None:
    """Runs the steps and removes leftovers."""
    for step in steps:
        with tempfile.TemporaryDirectory() as scratch:
            step.build(Path(scratch))
            wanted = owned(Path(scratch), step)
        for path in owned(root, step).keys() - wanted.keys():
            (root / path).unlink()
        for path, content in wanted.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != content:
                target.write_bytes(content)
                print(f"wrote {path}")


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 when ``--check`` finds drift."""
    parser = argparse.ArgumentParser(description="Rebuild everything that is generated.")
    parser.add_argument("--check", action="store_true", help="change nothing; list the files that are out of date")
    args = parser.parse_args(argv)
    if not args.check:
        generate(REPOSITORY)
        return 0
    lines = drift(REPOSITORY)
    for line in lines:
        print(line)
    if lines:
        print("run `make generate` and commit the result")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
