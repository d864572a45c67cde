"""Reading a Dockerfile and its ``.dockerignore``, as far as ours go, so that tests can perform the steps without Docker."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(slots=True)
class Stage:
    """One ``FROM``.

    Attributes:
        name: after ``AS``.
        base: image, or the name of an earlier stage.
        steps: (instruction, text) in order, variables filled in.
    """

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]

    def command(self, instruction: str) -> list[str]:
        """The last ENTRYPOINT or CMD, which must be in exec form."""
        return list(json.loads(self.all(instruction)[-1]))

    def variables(self) -> dict[str, str]:
        """What ENV sets."""
        pairs = (word.partition("=") for text in self.all("ENV") for word in shlex.split(text))
        return {name: value for name, _, value in pairs}


def parse(path: Path) -> dict[str, Stage]:
    """The stages of a Dockerfile by name."""
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    stage: Stage | None = None
    for line in _lines(path.read_text()):
        instruction, _, rest = line.partition(" ")
        text = _VARIABLE.sub(lambda match: arguments[match[1]], rest.strip())
        if instruction == "FROM":
            base, _, name = text.partition(" AS ")
            stage = stages[name] = Stage(name, base)
        elif instruction == "ARG":
            name, _, value = text.partition("=")
            arguments[name] = value
        if stage is not None:
            stage.steps.append((instruction, text))
    return stages


def _lines(text: str) -> Iterator[str]:
    whole = ""
    for line in text.splitlines():
        if line.strip().startswith("#") or not (whole or line.strip()):
            continue
        whole += line.strip()
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        yield whole
        whole = ""


class Ignore:
    """A ``.dockerignore``: the last pattern that matches a path, or a folder it is in, decides."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._rules = [(_regex(p.removeprefix("!")), p.startswith("!")) for p in patterns]
        self._kept = [p.removeprefix("!") for p in patterns if p.startswith("!")]

    @classmethod
    def read(cls, path: Path) -> "Ignore":
        lines = (line.strip() for line in path.read_text().splitlines())
        return cls([line for line in lines if line and not line.startswith("#")])

    def ignores(self, path: str) -> bool:
        ignored = False
        for pattern, keep in self._rules:
            if pattern.match(path):
                ignored = not keep
        return ignored

    def context(self, root: Path) -> list[str]:
        """Paths of all files that Docker would be sent, relative to ``root``."""
        found = []
        for folder, folders, files in os.walk(root):
            here = Path(folder).relative_to(root).as_posix()
            prefix = "" if here == "." else f"{here}/"
            folders[:] = [name for name in folders if self._enter(prefix + name)]
            found += [prefix + name for name in files if not self.ignores(prefix + name)]
        return sorted(found)

    def _enter(self, folder: str) -> bool:
        return not self.ignores(folder) or any(kept.startswith(f"{folder}/") for kept in self._kept)


def _regex(pattern: str) -> re.Pattern[str]:
    out = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/")):
        out += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.compile(f"{out}(?:/.*)?$")
