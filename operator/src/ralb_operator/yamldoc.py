"""YAML text to plain data, for text that nobody vouches for.

Works on libyaml's events with a stack of its own, so deep nesting cannot overflow the interpreter's; resolves scalars as
Kubernetes does (YAML 1.1 without dates and base-60 numbers); refuses duplicate keys, tags beyond the core ones, keys that
are not text, NaN and infinity; bounds depth and size, aliases counted each time they are used. A document that cannot be
read does not stop the ones after it.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from ralb_operator.explain_errors import Path, shown

MAX_DEPTH = 64
MAX_NODES = 500_000
MAX_DOCUMENTS = 20_000

_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SEPARATOR = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_CONTENT = re.compile(r"^(?![ \t\r]*(#.*)?$|%|\.\.\.[ \t\r]*$)", re.MULTILINE)
_INT = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*)?\.?[0-9_]+([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*\.([eE][-+]?[0-9]+)?")
_DIGITS = re.compile(r"[-+0-9_.eE]+")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **{word: None for word in ("", "~", "null", "Null", "NULL")},
    **{word: True for base in ("true", "yes", "on") for word in (base, base.capitalize(), base.upper())},
    **{word: False for base in ("false", "no", "off") for word in (base, base.capitalize(), base.upper())},
}
_CORE = "tag:yaml.org,2002:"
_MAX_DIGITS = 400


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong inside a document: where, what, what to do."""

    path: Path
    message: str
    hint: str


@dataclass(slots=True)
class Document:
    """One YAML document.

    Attributes:
        data: plain dicts, lists, str, int, float, bool, None; finite numbers and text keys only.
        line: 1-based line where it starts.
        lines: line of each item of a top-level ``items`` list.
        flaws: what is wrong inside it; the data is what remains without those parts.
        error: why it could not be read at all ("" if it could); then ``data`` is None and ``line`` the error's.
    """

    data: Any = None
    line: int = 1
    lines: dict[int, int] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)
    error: str = ""
    hint: str = ""


class _Refused(Exception):
    def __init__(self, line: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.line, self.message, self.hint = line, message, hint


def documents(text: str) -> Iterator[Document]:
    """The documents of a YAML stream; empty ones are left out."""
    starts = [0, *(match.start() for match in _SEPARATOR.finditer(text))]
    line, nodes, count = 0, MAX_NODES, 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        chunk = text[start:end]
        body = chunk[3:] if chunk.startswith("---") else chunk
        if _CONTENT.search(body):
            if count == MAX_DOCUMENTS:
                error = f"has more than {MAX_DOCUMENTS} documents; the rest is left out"
                yield Document(line=line + 1, error=error, hint="split the file")
                return
            count += 1
            document = _Builder(line, nodes).read(chunk)
            nodes -= document_size(document.data)
            yield document
        line += chunk.count("\n")


def document_size(data: Any) -> int:
    """Number of values in plain data."""
    total, stack = 0, [data]
    while stack:
        value = stack.pop()
        total += 1
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return total


@dataclass(slots=True)
class _Open:
    """A collection being read."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    path: Path
    size: int = 1
    height: int = 1
    key: str | None = None  # of a mapping whose value comes next
    awaiting_value: bool = False
    skip: bool = False  # the value that comes next is dropped
    merging: bool = False  # the value that comes next belongs to <<
    merges: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Done:
    value: Any
    size: int
    height: int


class _Builder:
    def __init__(self, line: int, nodes: int) -> None:
        self._line = line
        self._nodes = nodes
        self._used = 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Done] = {}
        self._document = Document(line=line + 1)
        self._seen_root = False

    def read(self, text: str) -> Document:
        document = self._document
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                self._event(event)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._fail(
                mark.line if mark else 0, f"not valid YAML: {_one_line(error.problem or str(error))}", _YAML_HINT
            )
        except yaml.YAMLError as error:
            self._fail(0, f"not valid YAML: {_one_line(str(error))}", _YAML_HINT)
        except _Refused as refused:
            self._fail(refused.line, refused.message, refused.hint)
        return document

    def _fail(self, line: int, message: str, hint: str) -> None:
        self._document.data, self._document.flaws = None, []
        self._document.line = self._line + line + 1
        self._document.error, self._document.hint = message, hint

    def _event(self, event: Any) -> None:
        line = event.start_mark.line
        match event:
            case yaml.ScalarEvent():
                self._count(line, 1)
                if self._expects_key():
                    self._key(event)
                else:
                    self._mark(line)
                    self._value(_Done(self._scalar(event), 1, 0), event.anchor, line)
            case yaml.AliasEvent():
                anchor = str(event.anchor)
                done = self._anchors.get(anchor)
                if done is None:
                    raise _Refused(line, f"alias *{_one_line(anchor)} has no anchor before it", _YAML_HINT)
                self._count(line, done.size)
                if len(self._stack) + done.height > MAX_DEPTH:
                    raise _Refused(line, f"nests deeper than {MAX_DEPTH} levels", "make it flatter")
                if self._expects_key():
                    self._bad_key(done.value if isinstance(done.value, str) else f"*{anchor}")
                else:
                    self._value(done, None, line)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._open(event, line)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._close(line)
            case yaml.DocumentStartEvent():
                if self._seen_root:
                    raise _Refused(line, "two documents without --- between them", _YAML_HINT)

    def _count(self, line: int, size: int) -> None:
        self._used += size
        if self._used > self._nodes:
            raise _Refused(
                line, f"has more than {MAX_NODES} values, aliases counted at each use", "split the file, drop aliases"
            )

    def _path(self) -> Path:
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.value, list):
            return (*top.path, len(top.value))
        return (*top.path, top.key) if top.key is not None else top.path

    def _expects_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and not self._stack[-1].awaiting_value

    def _flaw(self, path: Path, message: str, hint: str) -> None:
        if len(self._document.flaws) < 64:
            self._document.flaws.append(Flaw(path, message, hint))

    def _open(self, event: Any, line: int) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _CORE + ("map" if is_mapping else "seq")):
            raise _Refused(line, f"tag {_one_line(event.tag)} is not allowed", "write plain YAML without tags")
        if len(self._stack) >= MAX_DEPTH:
            raise _Refused(line, f"nests deeper than {MAX_DEPTH} levels", "make it flatter")
        if self._expects_key():
            raise _Refused(line, "a mapping or list is used as a key", "write keys as text")
        self._count(line, 1)
        self._mark(line)
        self._stack.append(_Open({} if is_mapping else [], event.anchor, self._path()))

    def _mark(self, line: int) -> None:
        """Notes where the document, or an item of a list of objects, begins."""
        if not self._stack:
            self._document.line = self._line + line + 1
        elif self._stack[-1].path == ("items",) and isinstance(self._stack[-1].value, list):
            self._document.lines[len(self._stack[-1].value)] = self._line + line + 1

    def _close(self, line: int) -> None:
        top = self._stack.pop()
        if isinstance(top.value, dict):
            for merged in top.merges:
                for key, value in merged.items():
                    top.value.setdefault(key, value)
        self._value(_Done(top.value, top.size, top.height), top.anchor, line)

    def _value(self, done: _Done, anchor: str | None, line: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = done
        if not self._stack:
            self._document.data, self._seen_root = done.value, True
            return
        top = self._stack[-1]
        top.size += done.size
        top.height = max(top.height, done.height + 1)
        if isinstance(top.value, list):
            top.value.append(done.value)
            return
        if top.merging:
            self._merge(top, done.value)
        elif not top.skip and top.key is not None:
            top.value[top.key] = done.value
        top.key, top.awaiting_value, top.skip, top.merging = None, False, False, False

    def _merge(self, top: _Open, value: Any) -> None:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                top.merges.append(part)
            else:
                self._flaw(top.path, "<< must be followed by a mapping", "write << : *anchor of a mapping")

    def _key(self, event: Any) -> None:
        top = self._stack[-1]
        top.awaiting_value = True
        value = self._scalar(event, flaw=False)
        top.merging = value == "<<" and event.implicit[0]
        if not isinstance(value, str):
            self._flaw(top.path, f"key {_one_line(event.value)} is read as {_kind(value)}", "put the key in quotes")
            top.skip = True
        elif len(value) > 512:
            self._flaw(top.path, "a key is longer than 512 characters", "shorten it")
            top.skip = True
        elif not top.merging and isinstance(top.value, dict) and value in top.value:
            self._flaw((*top.path, value), "is there twice", "keep one of them")
            top.skip = True
            top.key = value
        else:
            top.key = value

    def _bad_key(self, value: str) -> None:
        top = self._stack[-1]
        self._flaw(top.path, f"alias {shown(value)} is used as a key", "write the key out")
        top.awaiting_value = top.skip = True

    def _scalar(self, event: Any, *, flaw: bool = True) -> Any:
        """The value of a scalar; None where it is refused."""
        text, tag = event.value, event.tag
        plain = event.implicit[0] or tag in (_CORE + name for name in ("int", "float", "bool", "null"))
        if tag not in (None, "!", *(_CORE + name for name in ("str", "int", "float", "bool", "null"))):
            raise _Refused(
                event.start_mark.line, f"tag {_one_line(tag)} is not allowed", "write plain YAML without tags"
            )
        if not plain:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _NOT_FINITE.fullmatch(text):
            return self._refuse(text, flaw)
        if len(text) > _MAX_DIGITS:
            # The patterns below take quadratic time, and no number is that long.
            return self._refuse(text, flaw) if _DIGITS.fullmatch(text) else text
        if _INT.fullmatch(text):
            return _integer(text)
        if _FLOAT.fullmatch(text):
            number = float(text.replace("_", "")) if any(ch.isdigit() for ch in text) else text
            return number if isinstance(number, str) or math.isfinite(number) else self._refuse(text, flaw)
        return text

    def _refuse(self, text: str, flaw: bool) -> Any:
        if flaw:
            self._flaw(self._path(), f"must be an ordinary number, not {_one_line(text)}", "write digits")
            if self._stack and isinstance(self._stack[-1].value, dict):
                self._stack[-1].skip = True
        return None


_YAML_HINT = "check indentation, colons and quotes around this line"


def _integer(text: str) -> int | str:
    digits = text.replace("_", "").lstrip("+-").lower()
    base = 0 if digits[:2] in ("0x", "0o", "0b") else 8 if len(digits) > 1 and digits[0] == "0" else 10
    try:
        number = int(digits, base)
    except ValueError:
        return text
    return -number if text[0] == "-" else number


def _kind(value: object) -> str:
    return {bool: "true or false", type(None): "empty", int: "a number", float: "a number"}.get(type(value), "no text")


def _one_line(text: str) -> str:
    clean = "".join(ch if ch.isprintable() else " " for ch in text)
    return clean if len(clean) <= 120 else f"{clean[:120]}..."
