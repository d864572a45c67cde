"""Pieces every kind shares: the base model, metadata, names, durations, header matches."""

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from ralb_api.problems import ObjectKey

_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_DURATION = r"^([0-9]{1,8}(ms|s|m|h)){1,4}$"
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

DNSLabel = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_DNS_LABEL)]
ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=_DNS_SUBDOMAIN)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$")]
HeaderName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"),
    AfterValidator(str.lower),
]
Word = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Duration = Annotated[
    str,
    StringConstraints(min_length=2, max_length=36, pattern=_DURATION),
]


def seconds(duration: str) -> float:
    """Seconds of a Go-style duration such as ``1m30s`` or ``250ms`` (already validated)."""
    return sum(int(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(duration))


class Spec(BaseModel):
    """Base of every nested model: camelCase on the wire, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", frozen=True
    )


class Metadata(BaseModel):
    """The part of Kubernetes metadata RALB reads; the rest is carried by the API server and ignored here."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="ignore", frozen=True)

    name: ObjectName
    namespace: DNSLabel = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    generation: int = 0
    creation_timestamp: str = ""


class Object(BaseModel):
    """Base of the kinds: apiVersion, kind, metadata; subclasses add ``spec``."""

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

    name: HeaderName = Field(description="name is the header's name; upper and lower case are the same.")
    type: HeaderMatchType = Field(
        default=HeaderMatchType.EXACT,
        description="type says how value is compared: Exact, Prefix or Present (any value). Defaults to Exact.",
    )
    value: str = Field(
        default="",
        max_length=512,
        description="value is what the header is compared with. At most 512 characters; leave it out for Present.",
    )

    @model_validator(mode="after")
    def _value_fits_type(self) -> "HeaderMatch":
        if (self.type is HeaderMatchType.PRESENT) == bool(self.value):
            raise ValueError("value must be set for Exact and Prefix, and left out for Present")
        return self
