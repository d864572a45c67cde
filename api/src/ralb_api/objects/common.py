"""Pieces every kind shares: the base model, constraints, metadata, names, durations, header matches.

A rule across fields is a ``Constraint``: written once, it is checked by the model, put into the CRD as CEL, and explained
to the user. A pattern is written once too, with its meaning in words in ``FORMS``.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from ralb_api.problems import ObjectKey

_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DURATION_PATTERN = r"^([0-9]{1,8}(ms|s|m|h)){1,4}$"
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

_MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"
_HEADER_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_PATH = r"^/[!-~]*$"
_HOSTNAME = r"^(\*\.)?[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?$"
_HOST = r"^[A-Za-z0-9]([-A-Za-z0-9.:]*[A-Za-z0-9])?$"
_TEXT = r"^[ \t\r\n]*[^ \t\r\n](.|\n)*$"
_VISIBLE = r"^[!-~]([ -~]*[!-~])?$"
_CLAIM = r"^[A-Za-z0-9_][A-Za-z0-9._:/-]*$"
_PORT_NUMBER = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_AUTHORITY = r"([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(:" + _PORT_NUMBER + ")?"
_URL = r"^https?://" + _AUTHORITY + r"(/[!\"$-~]*)?$"
_HTTPS_URL = r"^https://" + _AUTHORITY + r"(/[!\"$-~]*)?$"
_CIDR = r"^[0-9A-Fa-f:.]{2,39}/(0|[1-9][0-9]{0,2})$"
_TIME_ZONE = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*){0,3}$"
_FILE = r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$"
_SECRET_KEY = r"^[A-Za-z0-9._-]+$"
_PATH_PREFIX = r"^(/[A-Za-z0-9_~][A-Za-z0-9._~:@+-]*)+$"
_LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
_LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"

# Words of CEL that can be field names: https://kubernetes.io/docs/reference/using-api/cel/#escaping
_CEL_WORDS = frozenset(
    (
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    )
)

# What a value must look like, in words, by the pattern that says so to machines.
FORMS: dict[str, str] = {
    _DNS_LABEL: "lower-case letters, digits and -, starting and ending with a letter or digit",
    _DNS_SUBDOMAIN: "lower-case letters, digits, - and ., starting and ending with a letter or digit, such as chat-small",
    DURATION_PATTERN: "whole numbers with units ms, s, m or h, such as 250ms, 30s or 1m30s",
    _MODEL_NAME: "letters, digits and . _ : / @ + -, starting with a letter or digit, such as meta-llama/Llama-3.1-8B",
    _HEADER_NAME: "an HTTP header name without colon or spaces, such as x-team",
    _WORD: "one word of letters, digits and . _ -, starting with a letter or digit",
    _PATH: "a path that starts with / and has no spaces, such as /v1/chat/completions",
    _HOSTNAME: "a host name without scheme and port, such as llm.example.com or *.example.com",
    _HOST: "a DNS name or an IP address without scheme and port, such as chat.models.svc",
    _TEXT: "text that is not blank",
    _VISIBLE: "printable ASCII text that neither starts nor ends with a space",
    _CLAIM: "a claim's name such as sub or https://example.com/tenant",
    _URL: "a URL without user and fragment, such as https://tools.example.com/mcp",
    _HTTPS_URL: "an https URL without user and fragment, such as https://login.example.com",
    _CIDR: "an address range such as 10.0.0.0/8 or fd00::/8",
    _TIME_ZONE: "a name of the time zone database such as UTC or Europe/Berlin",
    _FILE: "an absolute path of a file without . and .. and spaces, such as /models/encoder.onnx",
    _SECRET_KEY: "a key of a Secret: letters, digits and - _ .",
    _PATH_PREFIX: "a path that starts with / and does not end with it, without query and dot segments, such as /openai",
    _LABEL_VALUE: "letters, digits and - _ ., starting and ending with a letter or digit",
    _LABEL_KEY: "a label key such as app or app.kubernetes.io/name",
}

DNSLabel = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_DNS_LABEL)]
ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=_DNS_SUBDOMAIN)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=_MODEL_NAME)]
HeaderName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=_HEADER_NAME), AfterValidator(str.lower)
]
Word = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_WORD)]
Path = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=_PATH)]
Hostname = Annotated[str, StringConstraints(min_length=1, max_length=253, to_lower=True, pattern=_HOSTNAME)]
Host = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=_HOST)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=_TEXT)]
Visible = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=_VISIBLE)]
Claim = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=_CLAIM)]
Url = Annotated[str, StringConstraints(min_length=8, max_length=1024, pattern=_URL)]
HttpsUrl = Annotated[str, StringConstraints(min_length=9, max_length=1024, pattern=_HTTPS_URL)]
Cidr = Annotated[str, StringConstraints(min_length=4, max_length=43, pattern=_CIDR)]
TimeZone = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_TIME_ZONE)]
FilePath = Annotated[str, StringConstraints(min_length=2, max_length=512, pattern=_FILE)]
SecretKey = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=_SECRET_KEY)]
PathPrefix = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_PATH_PREFIX)]
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=_LABEL_VALUE)]
# The pattern bounds the length too.
LabelKey = Annotated[str, StringConstraints(pattern=_LABEL_KEY)]
Port = Annotated[int, Field(ge=1, le=65535)]
Duration = Annotated[
    str,
    StringConstraints(min_length=2, max_length=36, pattern=DURATION_PATTERN),
]


def seconds(duration: str) -> float:
    """Seconds of a Go-style duration such as ``1m30s`` or ``250ms`` (already validated)."""
    return sum(int(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(duration))


def duplicates(values: Iterable[str]) -> list[str]:
    """The values that occur more than once, in order of first occurrence."""
    return [value for value, count in Counter(values).items() if count > 1]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A rule across the fields of one model.

    Attributes:
        cel: the rule as Kubernetes checks it (``x-kubernetes-validations``); true when it holds.
        breach: the rule as the model checks it: None when it holds, else what exactly breaks it ("" if there is no more
            to say than ``message``).
        message: what must hold.
        hint: what to do.
        field: wire name of the field to blame; "" for the whole object.
    """

    cel: str
    breach: Callable[[Any], str | None]
    message: str
    hint: str
    field: str = ""

    def error(self, detail: str) -> PydanticCustomError:
        """The validation error; its context has ``message``, ``hint`` and ``field`` apart."""
        message = f"{self.message}: {detail}" if detail else self.message
        return PydanticCustomError(
            "constraint", "{message}", {"message": message, "hint": self.hint, "field": self.field}
        )

    def to_cel(self) -> dict[str, str]:
        """The item of ``x-kubernetes-validations``."""
        out = {"rule": self.cel, "message": f"{self.message}; {self.hint}"}
        return {**out, "fieldPath": f".{self.field}"} if self.field else out


def exactly_one(*fields: str) -> Constraint:
    """Of several optional fields (attribute names) one must be set and the others not."""
    names = [to_camel(name.rstrip("_")) for name in fields]
    every = f"{', '.join(names[:-1])} and {names[-1]}"
    few = len(names) == 2

    def breach(model: Any) -> str | None:
        there = [name for name, field in zip(names, fields, strict=True) if getattr(model, field) is not None]
        if len(there) == 1:
            return None
        if not there:
            return "neither is" if few else "none is"
        return "both are" if few else f"{', '.join(there[:-1])} and {there[-1]} are"

    there = [f"has(self.{cel_name(name)})" for name in names]
    return Constraint(
        cel=f"{there[0]} != {there[1]}" if few else f"[{', '.join(there)}].exists_one(x, x)",
        breach=breach,
        message=f"exactly one of {every} must be set",
        hint=f"set {names[0]} or {names[1]}, and remove the other" if few else "set one of them, and remove the others",
    )


def duration_within(field: str, low: str, high: str, hint: str) -> Constraint:
    """A duration must be between two others, both included.

    Args:
        field: attribute name.
        low: the shortest duration that is allowed.
        high: the longest duration that is allowed.
        hint: what to do.
    """
    name = to_camel(field)

    def breach(model: Any) -> str | None:
        value = getattr(model, field)
        return None if value is None or seconds(low) <= seconds(value) <= seconds(high) else f"it is {value}"

    rule = f"duration(self.{name}) >= duration('{low}') && duration(self.{name}) <= duration('{high}')"
    return Constraint(
        cel=f"!has(self.{name}) || ({rule})",
        breach=breach,
        message=f"{name} must be between {low} and {high}",
        hint=hint,
        field=name,
    )


def cel_name(name: str) -> str:
    """A field's name as CEL must write it: words of the language are escaped."""
    return f"__{name}__" if name in _CEL_WORDS else name


class _Constrained(BaseModel):
    """Base of models with rules across their fields."""

    constraints: ClassVar[tuple[Constraint, ...]] = ()

    @model_validator(mode="after")
    def _constraints_hold(self) -> Self:
        for constraint in self.constraints:
            if (detail := constraint.breach(self)) is not None:
                raise constraint.error(detail)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Adds the constraints to the schema."""
        schema = handler(core)
        if cls.constraints:
            target = handler.resolve_ref_schema(schema)
            target["x-kubernetes-validations"] = [constraint.to_cel() for constraint in cls.constraints]
        return schema


class Spec(_Constrained):
    """Base of every nested model: camelCase on the wire, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", frozen=True
    )

    @field_validator("*")
    @classmethod
    def _listed_once(cls, value: Any) -> Any:
        # Lists of scalars are sets to Kubernetes (x-kubernetes-list-type: set).
        if isinstance(value, tuple) and (again := duplicates(item for item in value if isinstance(item, str))):
            message = f"{', '.join(again[:3])} listed more than once"
            raise PydanticCustomError("constraint", "{message}", {"message": message, "hint": "list each value once"})
        return value


class Metadata(BaseModel):
    """The part of Kubernetes metadata RALB reads; the rest is carried by the API server and ignored here."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="ignore", frozen=True)

    name: ObjectName
    namespace: DNSLabel = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    generation: int = 0
    creation_timestamp: str = ""
    uid: str = ""


class Object(_Constrained):
    """Base of the kinds: apiVersion, kind, metadata; subclasses add ``spec``. A constraint here is over the whole object."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True)

    short_names: ClassVar[tuple[str, ...]] = ()
    plural: ClassVar[str] = ""

    api_version: Literal["ralb.dev/v1alpha1"] = "ralb.dev/v1alpha1"
    metadata: Metadata
    kind: str

    @property
    def key(self) -> ObjectKey:
        """Identity."""
        return ObjectKey(self.kind, self.metadata.namespace, self.metadata.name)


class HeaderMatchType(StrEnum):
    """How a header value is compared."""

    EXACT = "Exact"
    PREFIX = "Prefix"
    PRESENT = "Present"


class HeaderMatch(Spec):
    """A condition on one request header."""

    constraints: ClassVar = (
        Constraint(
            cel="(self.type == 'Present') != (has(self.value) && self.value != '')",
            breach=lambda match: "" if (match.type is HeaderMatchType.PRESENT) == bool(match.value) else None,
            message="value must be set for Exact and Prefix, and left out for Present",
            hint="add value, or set type: Present to accept any value",
            field="value",
        ),
    )

    name: HeaderName = Field(description="name is the header's name; upper and lower case are the same.")
    type: HeaderMatchType = Field(
        default=HeaderMatchType.EXACT,
        description="type says how value is compared: Exact, Prefix or Present (any value). Defaults to Exact.",
    )
    value: str = Field(
        default="",
        max_length=512,
        description="value is what the header is compared with. Empty, the default, is for Present only.",
    )
