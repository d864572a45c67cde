"""What the readers of all kinds share: the shape of an answer, identities, and taking fields apart without trusting them.

Trap: values come from outside and end in terminals and statuses, so they are shown only through ``shown`` and ``printable``.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.explain_errors import Finding, dotted, shown

INVALID = "Invalid"
UNNAMED = "<unnamed>"
MAX_TEXT = 4096

_MAX_FINDINGS = 50

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """What came of it: the value, unless one of the problems is an error."""

    value: T | None
    problems: tuple[Problem, ...] = ()


def key_of(data: Mapping[str, Any]) -> ObjectKey:
    """The identity an object claims, however broken it is; fit to be printed."""
    metadata = data.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}

    def text(value: object, default: str) -> str:
        return printable(value) if isinstance(value, str) and value else default

    return ObjectKey(
        text(data.get("kind"), "Object"),
        text(metadata.get("namespace"), "default"),
        text(metadata.get("name"), UNNAMED),
    )


def problems_of(
    data: Mapping[str, Any],
    findings: list[Finding],
    file: str,
    *,
    reason: str = INVALID,
    warn: bool = False,
) -> tuple[Problem, ...]:
    """The findings about one object as problems; of very many only the first."""
    severity = Severity.WARNING if warn else Severity.ERROR
    key = key_of(data)
    rest = len(findings) - _MAX_FINDINGS
    if rest > 0:
        findings = [
            *findings[:_MAX_FINDINGS],
            Finding("", f"and {rest} more errors", "fix the first ones and run again"),
        ]
    return tuple(Problem(key, f.field, reason, f.message, f.hint, file, severity) for f in findings)


def printable(text: str) -> str:
    """At most 253 characters of a text, none of them able to do anything to a terminal."""
    clean = "".join(ch if ch.isprintable() else "?" for ch in text[:254])
    return clean if len(text) <= 253 else f"{clean[:253]}..."


@dataclass(slots=True)
class Fields:
    """Fields of one object, read one by one; what is wrong is noted in ``findings`` and read as if it were not there."""

    data: Mapping[str, Any]
    findings: list[Finding]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Fields":
        """Nothing read yet."""
        return cls(data, [])

    def wrong(self, path: str, message: str, hint: str = "") -> None:
        """Note what is wrong with a field."""
        self.findings.append(Finding(path, message, hint))

    def mapping(self, parent: Mapping[str, Any], name: str, prefix: str = "") -> Mapping[str, Any]:
        """A field that is a mapping; empty when it is missing."""
        value = parent.get(name)
        if value is None or isinstance(value, Mapping):
            return value or {}
        self.wrong(f"{prefix}{name}", f"must be a mapping of names to values, not {shown(value)}")
        return {}

    def texts(self, parent: Mapping[str, Any], name: str, prefix: str) -> dict[str, str]:
        """A field that maps texts to texts; ``prefix`` as in ``metadata.``."""
        out: dict[str, str] = {}
        for key, value in self.mapping(parent, name, prefix).items():
            if isinstance(value, str):
                out[str(key)] = value
            else:
                path = f"{prefix}{dotted((name, str(key)))}"
                self.wrong(path, f"must be text, not {shown(value)}", "put it in quotes")
        return out

    def items(
        self, parent: Mapping[str, Any], name: str, prefix: str, most: int
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The (path, mapping) of each item of a list field; nothing when it is missing, or longer than ``most``."""
        value = parent.get(name)
        if value is None:
            return
        path = f"{prefix}{name}"
        if not isinstance(value, list):
            self.wrong(path, f"must be a list, not {shown(value)}")
        elif len(value) > most:
            self.wrong(path, f"has {len(value)} items; at most {most} are read", "split the object")
        else:
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield f"{path}[{index}]", item
                else:
                    self.wrong(f"{path}[{index}]", f"must be a mapping of names to values, not {shown(item)}")

    def text(self, parent: Mapping[str, Any], name: str, path: str, *, default: str | None = None) -> str:
        """A field that is one line of text. Without ``default`` it must be there and not empty."""
        value = parent.get(name)
        if value is None and default is not None:
            return default
        if value is None or (value == "" and default is None):
            self.wrong(path, "required field is missing", f"add {name}")
        elif not isinstance(value, str):
            self.wrong(path, f"must be text, not {shown(value)}", "put it in quotes")
        elif len(value) > MAX_TEXT or not value.isprintable():
            self.wrong(path, "is not a line of ordinary text", "write one line")
        else:
            return value
        return ""

    def number(self, parent: Mapping[str, Any], name: str, path: str) -> int:
        """A port number; 0 when it is none."""
        value = parent.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
            return value
        if value is None:
            self.wrong(path, "required field is missing", f"add {name}")
        else:
            self.wrong(path, f"must be a port number, not {shown(value)}", "between 1 and 65535, such as 8000")
        return 0

    def identity(self, what: str) -> tuple[str, str]:
        """(namespace, name) from the metadata."""
        metadata = self.mapping(self.data, "metadata")
        name, namespace = metadata.get("name"), metadata.get("namespace") or "default"
        if not isinstance(name, str) or not name:
            self.wrong("metadata.name", "required field is missing", f"name the {what}")
        if not isinstance(namespace, str):
            self.wrong("metadata.namespace", f"must be text, not {shown(namespace)}", "put it in quotes")
        return str(namespace), str(name)

    def problems(self, file: str) -> tuple[Problem, ...]:
        """Everything noted, as errors."""
        return problems_of(self.data, self.findings, file)


def ip_address(value: object) -> str:
    """An address a pod can have, in its usual spelling; "" when it is none."""
    if isinstance(value, str) and len(value) <= 45 and "%" not in value:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return ""
        if not (address.is_unspecified or address.is_multicast):
            return str(address)
    return ""
