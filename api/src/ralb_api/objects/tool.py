"""ToolBackend: a deterministic tool, or a tool behind an API, that answers in a model's place."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from ralb_api.objects.backend import CredentialsRef
from ralb_api.objects.common import (
    Constraint,
    Duration,
    Object,
    ObjectName,
    SecretKey,
    Spec,
    Text,
    TimeZone,
    Url,
    Word,
    duration_within,
    exactly_one,
)


class Calculator(Spec):
    """Arithmetic with exact decimals and units."""

    precision: int = Field(
        default=28,
        ge=1,
        le=100,
        description="precision is how many significant decimal digits results have. Defaults to 28.",
    )
    max_depth: int = Field(
        default=32,
        ge=1,
        le=100,
        description="maxDepth is how deeply expressions may be nested; deeper ones are a tool error. Defaults to 32.",
    )


class DateTime(Spec):
    """Dates, times and the distances between them."""

    time_zone: TimeZone = Field(
        default="UTC",
        description="timeZone is the time zone of questions that name none, such as Europe/Berlin. Defaults to UTC.",
    )


class RegexMode(StrEnum):
    """What a regular expression is used for."""

    EXTRACT = "Extract"
    VALIDATE = "Validate"


class RegexTool(Spec):
    """A regular expression over the text of the request."""

    pattern: Text = Field(
        description="pattern is the regular expression, in RE2's syntax (no look-around, no back references)."
    )
    mode: RegexMode = Field(
        default=RegexMode.EXTRACT,
        description="mode is Extract (answers what was found) or Validate (answers whether all of the text matches). "
        "Defaults to Extract.",
    )
    max_matches: int = Field(
        default=100,
        ge=1,
        le=1000,
        description="maxMatches is how many matches are answered; further ones are left out. Defaults to 100.",
    )


class JSONTool(Spec):
    """A transformation of the JSON in the request."""

    expression: Text = Field(description="expression is the transformation as a JMESPath expression.")
    max_depth: int = Field(
        default=32,
        ge=1,
        le=128,
        description="maxDepth is how deeply the JSON may be nested; deeper JSON is a tool error. Defaults to 32.",
    )


class ConfigMapRef(Spec):
    """A ConfigMap of the tool's own namespace."""

    name: ObjectName = Field(description="name is a ConfigMap in the tool's own namespace.")
    key: SecretKey | None = Field(
        default=None,
        description="key is where in the ConfigMap a JSON or YAML mapping of the entries is. Unset means that the "
        "ConfigMap's own keys are the entries.",
    )


def _in_clear(endpoint: "HTTPEndpoint") -> str | None:
    return "" if endpoint.credentials_ref is not None and not endpoint.url.startswith("https://") else None


class HTTPEndpoint(Spec):
    """An HTTP endpoint, with credentials where it needs them."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.credentialsRef) || self.url.startsWith('https://')",
            breach=_in_clear,
            message="credentialsRef needs an https url",
            hint="keys never travel in clear: use https, or remove credentialsRef",
            field="credentialsRef",
        ),
    )

    url: Url = Field(description="url is the endpoint, http or https, without user and fragment.")
    credentials_ref: CredentialsRef | None = Field(
        default=None,
        description="credentialsRef is the Secret with a key that is sent as authorization: Bearer; only with https. "
        "Unset means that nothing is sent.",
    )


class LookupEndpoint(HTTPEndpoint):
    """An HTTP endpoint that knows entries."""

    parameter: Word = Field(
        default="key",
        description="parameter is the query parameter that carries what is looked up. Defaults to key.",
    )


class Lookup(Spec):
    """Entries by name; exactly one of ConfigMap and HTTP endpoint."""

    constraints: ClassVar = (
        exactly_one("config_map_ref", "http"),
        duration_within("cache_for", "0s", "24h", "entries that change often need a short time; 0s asks every time"),
    )

    config_map_ref: ConfigMapRef | None = Field(
        default=None,
        description="configMapRef is a ConfigMap that holds the entries. Unset means that http is used; exactly one "
        "must be set.",
    )
    http: LookupEndpoint | None = Field(
        default=None,
        description="http is an endpoint that is asked with GET and answers one entry. Unset means that configMapRef "
        "is used; exactly one must be set.",
    )
    cache_for: Duration = Field(
        default="60s",
        description="cacheFor is how long an entry from http is kept, as a duration from 0s to 24h. Defaults to 60s.",
    )


class MCPServer(HTTPEndpoint):
    """A server of the Model Context Protocol, over streamable HTTP."""

    tools: tuple[Word, ...] = Field(
        default=(),
        max_length=64,
        description="tools are the server's tools that may be called. Empty, the default, means all.",
    )


class OnError(StrEnum):
    """What follows when a tool can not answer."""

    MODEL = "Model"
    FAIL = "Fail"


_OTHER = "Unset means that another tool is used; exactly one must be set."


class ToolBackendSpec(Spec):
    """What the user asks for."""

    constraints: ClassVar = (
        exactly_one("calculator", "date_time", "regex", "json_", "lookup", "mcp"),
        duration_within("timeout", "1ms", "30s", "the client waits for the tool; 1s is a good value"),
    )

    calculator: Calculator | None = Field(
        default=None, description=f"calculator answers arithmetic, with exact decimals and units. {_OTHER}"
    )
    date_time: DateTime | None = Field(
        default=None, description=f"dateTime answers questions about dates and times. {_OTHER}"
    )
    regex: RegexTool | None = Field(
        default=None, description=f"regex extracts or validates by a regular expression. {_OTHER}"
    )
    json_: JSONTool | None = Field(
        default=None, alias="json", description=f"json transforms the JSON in a request. {_OTHER}"
    )
    lookup: Lookup | None = Field(
        default=None, description=f"lookup answers with an entry of a ConfigMap or of an HTTP endpoint. {_OTHER}"
    )
    mcp: MCPServer | None = Field(
        default=None, description=f"mcp calls tools of a Model Context Protocol server over HTTP. {_OTHER}"
    )
    timeout: Duration = Field(
        default="1s",
        description="timeout is how long the tool may take, as a duration from 1ms to 30s; longer is a tool error. "
        "Defaults to 1s.",
    )
    max_input_bytes: int = Field(
        default=65_536,
        ge=1,
        le=1_048_576,
        description="maxInputBytes is how many bytes the tool is given; more is a tool error. Defaults to 65536.",
    )
    max_result_bytes: int = Field(
        default=65_536,
        ge=1,
        le=1_048_576,
        description="maxResultBytes is how many bytes the tool may answer; more is a tool error. Defaults to 65536.",
    )
    on_error: OnError = Field(
        default=OnError.MODEL,
        description="onError is Model (a model answers instead, as the policy says) or Fail (the client gets the "
        "error). Defaults to Model.",
    )


class ToolBackend(Object):
    """ToolBackend is a tool that answers requests without a model."""

    short_names: ClassVar[tuple[str, ...]] = ("tb",)
    plural: ClassVar[str] = "toolbackends"

    kind: Literal["ToolBackend"] = "ToolBackend"
    spec: ToolBackendSpec = Field(description="spec is the tool as wanted: exactly one tool, and its limits.")
