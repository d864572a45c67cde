"""SemanticRoute: a route given by example utterances, for rules to name."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from ralb_api.objects.common import Constraint, Duration, FilePath, Object, Spec, Text, duration_within


class Abstain(Spec):
    """When a route neither matches nor does not."""

    band: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="band is how far below threshold a similarity still counts as unsure rather than as no match. "
        "Defaults to 0.05.",
    )
    margin: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="margin is by how much this route must be more similar than the next best one; with less it is "
        "unsure. Defaults to 0.05.",
    )


class EmbedderType(StrEnum):
    """What turns text into vectors."""

    BUILT_IN = "BuiltIn"
    ONNX = "ONNX"


class ONNXEncoder(Spec):
    """A sentence encoder on the processor's disk."""

    constraints: ClassVar = (
        duration_within("timeout", "1ms", "5s", "requests wait for the encoder; 50ms is a good value"),
    )

    model_path: FilePath = Field(
        description="modelPath is the encoder in the processor's file system, an absolute path such as "
        "/models/encoder.onnx.",
    )
    tokenizer_path: FilePath = Field(
        description="tokenizerPath is the encoder's tokenizer.json in the processor's file system, an absolute path."
    )
    timeout: Duration = Field(
        default="50ms",
        description="timeout is how long a request waits for the encoder before the route abstains, from 1ms to 5s. "
        "Defaults to 50ms.",
    )


class Embedder(Spec):
    """How similarity is measured."""

    constraints: ClassVar = (
        Constraint(
            # Kubernetes tries rules on a field's default as it is written, before the defaults inside it are there.
            cel="(has(self.type) && self.type == 'ONNX') == has(self.onnx)",
            breach=lambda embedder: (
                None
                if (embedder.type is EmbedderType.ONNX) == (embedder.onnx is not None)
                else f"type is {embedder.type}"
            ),
            message="onnx must be set when type is ONNX, and left out otherwise",
            hint="add onnx, or set type: BuiltIn and remove it",
            field="onnx",
        ),
    )

    type: EmbedderType = Field(
        default=EmbedderType.BUILT_IN,
        description="type is BuiltIn (needs no model) or ONNX (a sentence encoder from a local path). Defaults to "
        "BuiltIn.",
    )
    onnx: ONNXEncoder | None = Field(
        default=None, description="onnx is the encoder to be used with type ONNX. Unset with any other type."
    )


class SemanticRouteSpec(Spec):
    """What the user asks for."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.abstain) || self.abstain.band <= self.threshold",
            breach=lambda spec: (
                f"{spec.abstain.band:g} is greater than {spec.threshold:g}"
                if spec.abstain.band > spec.threshold
                else None
            ),
            message="abstain.band must not be greater than threshold",
            hint="lower abstain.band; it is the width of the zone below threshold",
            field="abstain",
        ),
    )

    utterances: tuple[Text, ...] = Field(
        min_length=1,
        max_length=256,
        description="utterances are examples of what users say when they mean this route, each listed once.",
    )
    threshold: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="threshold is the cosine similarity to the nearest utterance from which on the route matches. "
        "Defaults to 0.75.",
    )
    abstain: Abstain = Field(
        default_factory=Abstain,
        description="abstain says when the route is unsure instead of matching; rules that ask for confidence then do "
        "not hold. The defaults of its fields apply when absent.",
    )
    embedder: Embedder = Field(
        default_factory=Embedder,
        description="embedder is what similarity is measured with. The built-in one when absent.",
    )


class SemanticRoute(Object):
    """SemanticRoute is a kind of request, given by examples of what users say."""

    short_names: ClassVar[tuple[str, ...]] = ("sr",)
    plural: ClassVar[str] = "semanticroutes"

    kind: Literal["SemanticRoute"] = "SemanticRoute"
    spec: SemanticRouteSpec = Field(description="spec is the route as wanted: examples, and how near is near enough.")
