"""What is wrong with an object, said so that its author can fix it: where (file, object, field), what, and what to do."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """Whether the object is unusable or merely suspicious."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Identity of an object. ``str()`` gives ``Kind namespace/name``."""

    kind: str
    namespace: str
    name: str

    @property
    def id(self) -> str:
        """``namespace/name``, the id used in snapshots."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding.

    Attributes:
        object: whose it is; None when a file could not even be read as objects.
        field: dotted path such as ``spec.rules[2].when.complexity.min``; "" when it is about the whole object.
        reason: stable CamelCase word, used as a condition's reason (``Invalid``, ``RefNotFound``, ``Conflicted`` ...).
        message: what is wrong.
        hint: what to do about it.
        file: path as the user gave it, with ``:line`` of the object's start where known; "" for cluster objects.
    """

    object: ObjectKey | None
    field: str
    reason: str
    message: str
    hint: str = ""
    file: str = ""
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, str(self.object or ""), self.field) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form for ``ralb check --json``."""
        out = asdict(self)
        out["object"] = None if self.object is None else {**asdict(self.object), "id": self.object.id}
        out["severity"] = str(self.severity)
        return out

    def sort_key(self) -> tuple[str, str, str, str, str]:
        """Stable order: by file, object, field, then text."""
        return (self.file, str(self.object or ""), self.field, self.reason, self.message)
