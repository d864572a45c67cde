"""RoutingPolicy: which traffic, and what to do with it."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from ralb_api.objects.common import (
    Constraint,
    HeaderMatch,
    Hostname,
    ModelName,
    Object,
    ObjectName,
    Path,
    Spec,
    Word,
    duplicates,
    exactly_one,
)
from ralb_api.objects.tier import ReasoningEffort


class Match(Spec):
    """Which traffic a policy claims; every part that is set must hold."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.hostnames) || self.hostnames.all(a, self.hostnames.exists_one(b, "
            "a.lowerAscii() == b.lowerAscii()))",
            # In the model they are lower case, and a list of text with something twice in it is refused.
            breach=lambda match: None,
            message="hostnames must differ in more than upper and lower case",
            hint="list each value once",
            field="hostnames",
        ),
    )

    hostnames: tuple[Hostname, ...] = Field(
        default=(),
        max_length=16,
        description="hostnames are the hosts clients call; *.example.com means any subdomain. Empty means every host.",
    )
    paths: tuple[Path, ...] = Field(
        default=(),
        max_length=16,
        description="paths are path prefixes such as /v1/chat/completions. Empty means every path.",
    )
    models: tuple[ModelName, ...] = Field(
        default=("auto",),
        min_length=1,
        max_length=32,
        description="models are the model names by which clients ask to be routed. Defaults to auto.",
    )
    headers: tuple[HeaderMatch, ...] = Field(
        default=(),
        max_length=16,
        description="headers are conditions on request headers; all must hold. Empty, the default, means no condition.",
    )


class Range(Spec):
    """Part of [0, 1]."""

    constraints: ClassVar = (
        Constraint(
            cel="self.min < self.max",
            breach=lambda r: f"{r.min:g} is not less than {r.max:g}" if r.min >= r.max else None,
            message="min must be less than max",
            hint="both ends are between 0 and 1; leave min or max out for an open end",
            field="min",
        ),
    )

    min: float = Field(default=0.0, ge=0, le=1, description="min is the lower end, included. Defaults to 0.")
    max: float = Field(
        default=1.0, ge=0, le=1, description="max is the upper end, excluded unless it is 1. Defaults to 1."
    )


class TokenRange(Spec):
    """A range of token counts."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.max) || self.min <= self.max",
            breach=lambda r: f"{r.min} is greater than {r.max}" if r.max is not None and r.min > r.max else None,
            message="min must not be greater than max",
            hint="leave max out for an open end",
            field="min",
        ),
    )

    min: int = Field(default=0, ge=0, le=100_000_000, description="min is the least number of tokens. Defaults to 0.")
    max: int | None = Field(
        default=None, ge=0, le=100_000_000, description="max is the greatest number of tokens. Unset means no limit."
    )


class ToolsCondition(Spec):
    """Whether, and which, tools a request offers."""

    constraints: ClassVar = (
        Constraint(
            cel="self.offered || !has(self.names) || size(self.names) == 0",
            breach=lambda tools: "" if tools.names and not tools.offered else None,
            message="names can only be set when offered is true",
            hint="remove names, or set offered: true",
            field="names",
        ),
    )

    offered: bool = Field(
        default=True,
        description="offered is whether the request must offer tools (true) or must not. Defaults to true.",
    )
    names: tuple[Word, ...] = Field(
        default=(),
        max_length=64,
        description="names are tools of which at least one must be offered. Empty, the default, means any.",
    )


class When(Spec):
    """Conditions of a rule; every one that is set must hold."""

    intents: tuple[Word, ...] = Field(
        default=(),
        max_length=32,
        description="intents are what the request is about, such as code, maths or chat; any of them. Empty, the "
        "default, means any.",
    )
    complexity: Range | None = Field(
        default=None,
        description="complexity is the range of estimated difficulty, from 0 (trivial) to 1 (frontier work). Unset "
        "means any.",
    )
    min_confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="minConfidence is how sure the estimate must be. Unset means any.",
    )
    tools: ToolsCondition | None = Field(
        default=None, description="tools is a condition on the tools a request offers. Unset means no condition."
    )
    input_tokens: TokenRange | None = Field(
        default=None, description="inputTokens is the range of estimated prompt tokens. Unset means any number."
    )
    workload_classes: tuple[Word, ...] = Field(
        default=(),
        max_length=16,
        description="workloadClasses are values of the x-ralb-workload-class header; any of them. Empty, the default, "
        "means no condition.",
    )
    labels: tuple[Word, ...] = Field(
        default=(),
        max_length=32,
        description="labels are values of the x-ralb-intent header; any of them. Empty, the default, means no "
        "condition.",
    )
    headers: tuple[HeaderMatch, ...] = Field(
        default=(),
        max_length=16,
        description="headers are conditions on request headers; all must hold. Empty, the default, means no condition.",
    )
    models: tuple[ModelName, ...] = Field(
        default=(),
        max_length=32,
        description="models are the model names the client asked for; any of them. Empty, the default, means any that "
        "match claims.",
    )


class Reject(Spec):
    """A refusal."""

    status: int = Field(default=403, ge=400, le=499, description="status is the HTTP status. Defaults to 403.")
    message: str = Field(
        default="This request is not allowed by policy.",
        min_length=1,
        max_length=512,
        description="message tells the client why. Defaults to a sentence that says so in general.",
    )


class Use(Spec):
    """What serves the request; exactly one."""

    constraints: ClassVar = (exactly_one("tier", "reject"),)

    tier: ObjectName | None = Field(
        default=None,
        description="tier is a ModelTier in the policy's own namespace that serves the request. Unset means that "
        "reject is used.",
    )
    reject: Reject | None = Field(
        default=None, description="reject refuses the request. Unset means that tier is used."
    )


class ActionOptions(Spec):
    """How the request is served; each overrides the tier's own setting."""

    output_cap: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="outputCap is the most answer tokens a request may ask for. Unset means the tier's.",
    )
    reasoning_effort: ReasoningEffort | None = Field(
        default=None,
        description="reasoningEffort is set on chat requests that do not say themselves: None, Minimal, Low, Medium "
        "or High. Unset means the tier's.",
    )


class Action(Spec):
    """What to do."""

    use: Use = Field(description="use says what serves the request: exactly one of tier and reject.")
    options: ActionOptions = Field(
        default_factory=ActionOptions,
        alias="with",
        description="with refines how it is served. The tier's own settings apply when absent.",
    )


class Rule(Action):
    """A condition and what to do when it holds."""

    name: Word = Field(description="name identifies the rule in decision records; once per policy.")
    when: When = Field(default_factory=When, description="when must hold for the rule to be used. Empty always holds.")


class StreamUsage(StrEnum):
    """Whether streamed answers must report token usage."""

    AS_REQUESTED = "AsRequested"
    INJECT = "Inject"


def _rule_names_breach(spec: "RoutingPolicySpec") -> str | None:
    again = duplicates(rule.name for rule in spec.rules)
    if not again:
        return None
    indexes = [f"rules[{i}]" for i, rule in enumerate(spec.rules) if rule.name == again[0]]
    return f"{again[0]} is the name of {' and '.join(indexes[:3])}"


class RoutingPolicySpec(Spec):
    """What the user asks for."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.rules) || self.rules.all(a, self.rules.exists_one(b, a.name == b.name))",
            breach=_rule_names_breach,
            message="rule names must be unique",
            hint="rename all but one; decision records name the rule that was used",
            field="rules",
        ),
    )

    match: Match = Field(
        default_factory=Match,
        description="match says which traffic the policy claims. Absent means everything sent to the model auto.",
    )
    rules: tuple[Rule, ...] = Field(
        default=(),
        max_length=64,
        description="rules are tried in order; the first whose when holds is used. Empty, the default, means that "
        "spec.default decides all.",
    )
    default: Action = Field(description="default is what happens when no rule holds.")
    stream_usage: StreamUsage = Field(
        default=StreamUsage.AS_REQUESTED,
        description="streamUsage is AsRequested, or Inject to ask servers for exact token usage at the end of every "
        "stream (clients then see one more chunk). Without it the usage of such streams is estimated. Defaults to "
        "AsRequested.",
    )


class RoutingPolicy(Object):
    """RoutingPolicy says which tier serves which requests."""

    short_names: ClassVar[tuple[str, ...]] = ("rp",)
    plural: ClassVar[str] = "routingpolicies"

    kind: Literal["RoutingPolicy"] = "RoutingPolicy"
    spec: RoutingPolicySpec = Field(description="spec is the policy as wanted: the traffic it claims and its rules.")
