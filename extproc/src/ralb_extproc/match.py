"""Whether a policy claims a request, and whether a rule's conditions hold.

The snapshot's messages are compiled once into plain tests, so that a request pays for set look-ups and comparisons only.

May not enter: tiers, pools, anything about what happens next (that is ``plan``). Trap: header *values* compare with case,
but intents, labels and workload classes do not, because people type those by hand.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.types import Request, Understanding


@dataclass(frozen=True, slots=True)
class HeaderTest:
    """A condition on one request header.

    Attributes:
        name: lower case.
        value: compared exactly, or as a prefix; unused when ``present``.
        prefix: compare only the beginning.
        present: any value will do.
    """

    name: str
    value: str = ""
    prefix: bool = False
    present: bool = False

    @staticmethod
    def of(message: pb.HeaderMatch) -> "HeaderTest":
        """Compile; ValueError when the name is missing or the type unknown."""
        if not message.name:
            raise ValueError("a header match has no header name")
        if message.type not in (pb.HeaderMatch.EXACT, pb.HeaderMatch.PREFIX, pb.HeaderMatch.PRESENT):
            raise ValueError(f"header match on {message.name!r} has the unknown type {message.type}")
        return HeaderTest(
            message.name.lower(),
            message.value,
            message.type == pb.HeaderMatch.PREFIX,
            message.type == pb.HeaderMatch.PRESENT,
        )

    def holds(self, headers: Mapping[str, str]) -> bool:
        """Whether the header is there and as wanted; ``headers`` has lower-case names."""
        value = headers.get(self.name)
        if value is None:
            return False
        if self.present:
            return True
        return value.startswith(self.value) if self.prefix else value == self.value


def path_has_prefix(path: str, prefix: str) -> bool:
    """Whether ``prefix`` is the beginning of ``path`` and ends on a segment border: /v1/chat is not in /v1/chatty."""
    if not path.startswith(prefix):
        return False
    return len(path) == len(prefix) or prefix.endswith("/") or path[len(prefix)] == "/"


@dataclass(frozen=True, slots=True)
class Claim:
    """Which traffic a policy owns; every part that is not empty must hold."""

    hosts: frozenset[str]
    host_suffixes: tuple[str, ...]
    paths: tuple[str, ...]
    models: frozenset[str]
    headers: tuple[HeaderTest, ...]

    @staticmethod
    def of(policy: pb.Policy) -> "Claim":
        """Compile; ValueError on something that can not be tested."""
        if not policy.models:
            raise ValueError("claims no model name")
        names = [name.lower() for name in policy.hostnames]
        return Claim(
            hosts=frozenset(name for name in names if not name.startswith("*.")),
            # "*.example.com" is ".example.com" at the end with something before it.
            host_suffixes=tuple(name[1:] for name in names if name.startswith("*.")),
            paths=tuple(policy.paths),
            models=frozenset(policy.models),
            headers=tuple(HeaderTest.of(header) for header in policy.headers),
        )

    def owns(self, request: Request) -> bool:
        """Whether the request falls under the claim."""
        return (
            request.model in self.models
            and self._has_host(request.host)
            and (not self.paths or any(path_has_prefix(request.path, prefix) for prefix in self.paths))
            and all(test.holds(request.headers) for test in self.headers)
        )

    def _has_host(self, host: str) -> bool:
        if not self.hosts and not self.host_suffixes:
            return True
        return host in self.hosts or any(
            len(host) > len(suffix) and host.endswith(suffix) for suffix in self.host_suffixes
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """A rule's ``when``; None or empty parts ask nothing."""

    intents: frozenset[str]
    complexity: tuple[float, float] | None
    confidence: float | None
    tools: bool | None
    tool_names: frozenset[str]
    tokens: tuple[int, int | None] | None
    classes: frozenset[str]
    labels: frozenset[str]
    headers: tuple[HeaderTest, ...]
    models: frozenset[str]

    @staticmethod
    def of(when: pb.When) -> "Condition":
        """Compile; ValueError on a range that is empty or not a number."""
        complexity: tuple[float, float] | None = None
        if when.HasField("complexity_min") or when.HasField("complexity_max"):
            low = when.complexity_min if when.HasField("complexity_min") else 0.0
            high = when.complexity_max if when.HasField("complexity_max") else 1.0
            if not 0.0 <= low <= high <= 1.0:
                raise ValueError(f"complexity range {low} to {high} is not an increasing part of 0 to 1")
            complexity = (low, high)
        confidence = when.confidence_min if when.HasField("confidence_min") else None
        if confidence is not None and not 0.0 <= confidence <= 1.0:
            raise ValueError(f"confidence {confidence} is not between 0 and 1")
        tokens: tuple[int, int | None] | None = None
        if when.HasField("input_tokens_min") or when.HasField("input_tokens_max"):
            tokens = (when.input_tokens_min, when.input_tokens_max if when.HasField("input_tokens_max") else None)
        return Condition(
            intents=_folded(when.intents),
            complexity=complexity,
            confidence=confidence,
            tools=when.tools if when.HasField("tools") else None,
            tool_names=frozenset(when.tool_names),
            tokens=tokens,
            classes=_folded(when.workload_classes),
            labels=_folded(when.labels),
            headers=tuple(HeaderTest.of(header) for header in when.headers),
            models=frozenset(when.models),
        )

    def holds(self, request: Request, understanding: Understanding) -> bool:
        """Whether every part that is set holds."""
        return (
            (not self.intents or understanding.intent in self.intents)
            and (self.complexity is None or within(understanding.complexity, *self.complexity))
            and (self.confidence is None or understanding.confidence >= self.confidence)
            and (self.tools is None or bool(request.tools) is self.tools)
            and (not self.tool_names or not self.tool_names.isdisjoint(request.tools))
            and (self.tokens is None or _tokens_within(request.input_tokens, self.tokens))
            and (not self.classes or understanding.workload_class in self.classes)
            and (not self.labels or understanding.label in self.labels)
            and (not self.models or request.model in self.models)
            and all(test.holds(request.headers) for test in self.headers)
        )


def within(complexity: float, low: float, high: float) -> bool:
    """Whether ``low <= complexity < high``; a high of 1 includes 1, so ranges can cover [0, 1] without a gap."""
    return low <= complexity and (complexity < high or high >= 1.0)


def _tokens_within(tokens: int, limits: tuple[int, int | None]) -> bool:
    low, high = limits
    return low <= tokens and (high is None or tokens <= high)


def _folded(words: Iterable[str]) -> frozenset[str]:
    return frozenset(word.lower() for word in words)
