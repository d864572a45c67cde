"""YAML files to a View: objects without a cluster.

Reads ``*.yaml`` and ``*.yml`` below a directory (hidden ones left out), or one file. Whatever is wrong with a file, a
document or an object becomes a problem and the rest goes on. Does blocking I/O: an event loop runs it in a thread.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ralb_api.objects import ModelPool, ModelTier, Object, RoutingPolicy
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator import yamldoc
from ralb_operator.explain_errors import Finding, dotted, shown
from ralb_operator.parse import (
    INVALID,
    Parsed,
    concerns_us,
    foreign_kind,
    ignored,
    key_of,
    to_grant,
    to_inference_pool,
    to_object,
    to_pod,
    to_secret,
    to_service,
    to_slice,
)
from ralb_operator.view import EndpointSlice, Gateway, Grant, InferencePool, Pod, Secret, Service, View

SUFFIXES = (".yaml", ".yml")
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 2_000
MAX_TOTAL_BYTES = 64 * 1024 * 1024
MAX_PROBLEMS = 2_000

UNREADABLE = "Unreadable"
DUPLICATE = "Duplicate"

T = TypeVar("T")


_Foreign = Pod | Service | EndpointSlice | InferencePool | Grant | Secret
_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Parsed[Any]]] = {
    "Pod": lambda data, file: to_pod(data, file, assume_ready=True),
    "Service": to_service,
    "EndpointSlice": to_slice,
    "InferencePool": to_inference_pool,
    "ReferenceGrant": to_grant,
    "Secret": to_secret,
}


@dataclass(slots=True)
class _Found:
    """What has been read so far."""

    pools: dict[ObjectKey, ModelPool] = field(default_factory=dict)
    tiers: dict[ObjectKey, ModelTier] = field(default_factory=dict)
    policies: dict[ObjectKey, RoutingPolicy] = field(default_factory=dict)
    others: dict[ObjectKey, Object] = field(default_factory=dict)
    foreign: list[_Foreign] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    claimed: dict[ObjectKey, str] = field(default_factory=dict)
    sources: dict[ObjectKey, str] = field(default_factory=dict)
    untold: int = 0

    def report(self, *problems: Problem) -> None:
        """Notes problems; beyond ``MAX_PROBLEMS`` only how many."""
        room = MAX_PROBLEMS - len(self.problems)
        self.problems += problems[:room]
        self.untold += len(problems[room:])

    def of(self, kind: type[T]) -> tuple[T, ...]:
        """What was found of one of the kinds in ``foreign``."""
        return tuple(value for value in self.foreign if isinstance(value, kind))


def load(source: str | Path, gateway: Gateway | None = None) -> View:
    """Reads a directory (recursively, in the order of its sorted paths) or one file.

    Args:
        source: where the YAML is; problems name files below it as the user would.
        gateway: settings of the installation; the defaults when left out.

    Returns:
        All valid objects, and a problem for everything that is not.

    Raises:
        FileNotFoundError: there is nothing at ``source``.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or directory")
    found = _Found()
    budget = MAX_TOTAL_BYTES
    paths = list(yaml_files(source))
    if len(paths) > MAX_FILES:
        _file_problem(
            found, source, f"has more than {MAX_FILES} YAML files; the rest is left out", "name a folder inside"
        )
    for path in paths[:MAX_FILES]:
        text = _read(path, budget, found)
        if text is not None:
            budget -= len(text)
            _take_file(path, text, found)
    return View(
        pools=found.pools,
        tiers=found.tiers,
        policies=found.policies,
        pods=found.of(Pod),
        services=found.of(Service),
        slices=found.of(EndpointSlice),
        inference_pools=found.of(InferencePool),
        grants=found.of(Grant),
        secrets={(secret.namespace, secret.name): secret for secret in found.of(Secret)},
        others=found.others,
        problems=(*found.problems, *_untold(source, found.untold)),
        sources=found.sources,
        gateway=gateway or Gateway(),
    )


def yaml_files(source: Path) -> Iterator[Path]:
    """The YAML files ``load`` reads, sorted; hidden files and folders and linked folders are left out."""
    if not source.is_dir():
        yield source
        return
    found: list[Path] = []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in names if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
        if len(found) > 2 * MAX_FILES:
            break
    yield from sorted(found)


def _untold(source: Path, count: int) -> tuple[Problem, ...]:
    if not count:
        return ()
    message = f"{count} more problems were found"
    return (Problem(None, "", UNREADABLE, message, "fix the first ones and run again", _place(source, 0)),)


def _file_problem(found: _Found, path: Path, message: str, hint: str, line: int = 0) -> None:
    place = _place(path, line)
    found.report(Problem(None, "", UNREADABLE, message, hint, place))


def _place(path: Path, line: int) -> str:
    text = "".join(ch if ch.isprintable() else "?" for ch in str(path))
    return f"{text}:{line}" if line else text


def _read(path: Path, budget: int, found: _Found) -> str | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            _file_problem(found, path, "is not a regular file", "replace it by a file, or rename it")
            return None
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        _file_problem(found, path, f"cannot be read: {error.strerror or error}", "check that it exists and may be read")
        return None
    if len(data) > MAX_FILE_BYTES:
        _file_problem(
            found, path, f"is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB", "split it into several files"
        )
        return None
    if len(data) > budget:
        _file_problem(
            found,
            path,
            f"brings the total over {MAX_TOTAL_BYTES // 1024 // 1024} MiB; it is left out",
            "load less at once",
        )
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        _file_problem(found, path, f"is not UTF-8 text (byte {error.start})", "save it as UTF-8", line)
        return None


def _take_file(path: Path, text: str, found: _Found) -> None:
    for document in yamldoc.documents(text):
        if document.error:
            _file_problem(found, path, document.error, document.hint, document.line)
        elif document.data is not None:
            _take_document(path, document, found)


def _take_document(path: Path, document: yamldoc.Document, found: _Found) -> None:
    data = document.data
    if not isinstance(data, Mapping):
        message = f"holds {shown(data)} where an object should be"
        _file_problem(found, path, message, "an object has apiVersion, kind, metadata and spec", document.line)
        return
    if not _is_list(data):
        _take_object(data, _place(path, document.line), document.flaws, found)
        return
    for index, item in enumerate(data["items"]):
        line = document.lines.get(index, document.line)
        inside = [
            yamldoc.Flaw(flaw.path[2:], flaw.message, flaw.hint)
            for flaw in document.flaws
            if flaw.path[:2] == ("items", index)
        ]
        if isinstance(item, Mapping):
            _take_object(item, _place(path, line), inside, found)
        else:
            _file_problem(found, path, f"items[{index}] is {shown(item)}, not an object", "make it an object", line)
    for flaw in document.flaws:
        if flaw.path[:1] != ("items",) or len(flaw.path) < 2:
            _file_problem(found, path, f"{dotted(flaw.path)} {flaw.message}".strip(), flaw.hint, document.line)


def _is_list(data: Mapping[str, Any]) -> bool:
    kind = data.get("kind")
    return isinstance(kind, str) and kind.endswith("List") and isinstance(data.get("items"), list)


def _take_object(data: Mapping[str, Any], place: str, flaws: list[yamldoc.Flaw], found: _Found) -> None:
    findings = [Finding(dotted(flaw.path), flaw.message, flaw.hint) for flaw in flaws]
    kind, version = data.get("kind"), data.get("apiVersion")
    if foreign := foreign_kind(data):
        _take_foreign(foreign, data, place, findings, found)
    elif concerns_us(data) or not isinstance(kind, str) or not isinstance(version, str):
        parsed = to_object(data, place, findings)
        found.report(*parsed.problems)
        value = parsed.value
        if _claim(key_of(data), place, found) and value is not None:
            found.sources[value.key] = place
            match value:
                case ModelPool():
                    found.pools[value.key] = value
                case ModelTier():
                    found.tiers[value.key] = value
                case RoutingPolicy():
                    found.policies[value.key] = value
                case _:
                    found.others[value.key] = value
    else:
        found.report(ignored(data, place))


def _take_foreign(kind: str, data: Mapping[str, Any], place: str, findings: list[Finding], found: _Found) -> None:
    parsed = _READERS[kind](data, place)
    key = key_of(data)
    if kind == "Secret":
        # What is wrong is said without what it is about.
        findings = [Finding(f.field, "cannot be read", "write it as plain YAML, in quotes") for f in findings]
    found.report(*(Problem(key, f.field, INVALID, f.message, f.hint, place) for f in findings), *parsed.problems)
    if _claim(key, place, found) and parsed.value is not None and not findings:
        found.foreign.append(parsed.value)
        found.sources[key] = place


def _claim(key: ObjectKey, place: str, found: _Found) -> bool:
    """Whether the object is the first of its name."""
    if key.name.startswith("<"):
        return False
    first = found.claimed.setdefault(key, place)
    if first is place:
        return True
    found.report(
        Problem(
            key,
            "metadata.name",
            DUPLICATE,
            f"is already defined at {first}; this one is ignored",
            "rename or remove one of the two",
            place,
            Severity.ERROR,
        )
    )
    return False
