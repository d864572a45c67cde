"""Builds what ``locate`` finds. Go verifies every module against the committed go.sum; nothing else is downloaded."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from cluster_tools import cache, locate
from cluster_tools.golang import CannotBuild, Go, find
from cluster_tools.modules import CONTROL_PLANE, MODULES, GoModule, Program

Say = Callable[[str], None]
_STILL_S = 30.0


def say_now(line: str) -> None:
    """Prints at once, also into a pipe: a build takes minutes."""
    print(line, flush=True)


def build(modules: tuple[GoModule, ...] = MODULES, *, say: Say = say_now) -> list[str]:
    """Builds what is not in the cache yet; returns what there is now, one line each.

    Raises:
        CannotBuild: with the reason.
        OSError: the cache cannot be written.
    """
    lines = []
    for module in modules:
        if module is CONTROL_PLANE and os.environ.get(locate.ASSETS):
            lines += assets()
            continue
        folder = cache.once(module.name, module.key, partial(_make, module, say), say=say)
        lines.append(f"{module.name}: {folder}")
    return lines


def assets(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What of the control plane is in ``$KUBEBUILDER_ASSETS`` and what is missing there."""
    lines = [f"control-plane: ${locate.ASSETS} = {environment[locate.ASSETS]} is used, nothing is built"]
    for program in CONTROL_PLANE.programs:
        try:
            locate.program(program.name, environment)
        except locate.Missing as missing:
            lines.append(f"  {missing}")
    return lines


def _make(module: GoModule, say: Say, target: Path) -> None:
    go = find(module.minimum_go, say)
    if module.programs:
        say(f"building {module.name} with {go.version}; this happens once and can take minutes")
    for program in module.programs:
        _program(go, module, program, target, say)
    if module.files:
        say(f"fetching {module.name}")
        _files(go, module, target)


def _program(go: Go, module: GoModule, program: Program, target: Path, say: Say) -> None:
    title = f"{program.name} {module.version(program.module)}"
    say(f"  {title} ...")
    began = time.monotonic()
    command = [str(go.path), "build", "-trimpath", "-ldflags", module.ldflags(program)]
    command += ["-o", str(target / program.name), program.package]
    with (target / ".log").open("w+", encoding="utf-8", errors="replace") as log:
        with subprocess.Popen(command, cwd=module.folder, env=go.environment(), stdout=log, stderr=log) as process:
            try:
                _wait(process, title, began, say)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            log.seek(0)
            said = "\n".join(log.read().strip().splitlines()[-20:])
            raise CannotBuild(f"{title} cannot be built ({go.version}):\n{said}")
    (target / ".log").unlink()
    say(f"  {title} built in {time.monotonic() - began:.0f} s")


def _wait(process: "subprocess.Popen[bytes]", title: str, began: float, say: Say) -> None:
    while True:
        try:
            process.wait(_STILL_S)
            return
        except subprocess.TimeoutExpired:
            say(f"  {title}: still building after {time.monotonic() - began:.0f} s")


def _files(go: Go, module: GoModule, target: Path) -> None:
    """Copies files out of modules. The version is named, as only then Go compares the content with go.sum."""
    wanted = [f"{path}@{module.version(path)}" for path in sorted({name for name, _ in module.files})]
    sums = (module.folder / "go.sum").read_text(encoding="utf-8")
    for one in wanted:
        if one.replace("@", " ") + " h1:" not in sums:
            raise CannotBuild(f"{one} is not in {module.name}/go.sum; run `go mod download {one}` there")
    decoder, text, folders = json.JSONDecoder(), go.run("mod", "download", "-json", *wanted, cwd=module.folder), {}
    while text := text.lstrip():
        entry, end = decoder.raw_decode(text)
        folders[entry["Path"]] = Path(entry["Dir"])
        text = text[end:]
    for name, path in module.files:
        # Not shutil.copy: the module cache is read-only and its modes would come along.
        shutil.copyfile(folders[name] / path, target / Path(path).name)
