"""ModelPool: interchangeable replicas of one model."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from ralb_api.objects.backend import Backend
from ralb_api.objects.balancing import Balancing
from ralb_api.objects.common import (
    Constraint,
    LabelKey,
    LabelValue,
    ModelName,
    Object,
    Spec,
    duplicates,
)
from ralb_api.objects.disaggregation import Disaggregation, Role
from ralb_api.objects.speculative import Speculative


class Capability(StrEnum):
    """What a model can do that not every model can."""

    CHAT = "Chat"
    COMPLETIONS = "Completions"
    EMBEDDINGS = "Embeddings"
    TOOLS = "Tools"
    VISION = "Vision"
    AUDIO = "Audio"
    STRUCTURED_OUTPUT = "StructuredOutput"
    REASONING = "Reasoning"


def _model_names_breach(model: "Model") -> str | None:
    again = duplicates((model.name, *model.aliases, *model.adapters))
    return f"{again[0]} is used twice" if again else None


class Model(Spec):
    """The model a pool serves."""

    constraints: ClassVar = (
        Constraint(
            cel="!(has(self.aliases) && self.name in self.aliases) && !(has(self.adapters) && self.name in self.adapters)"
            " && !(has(self.aliases) && has(self.adapters) && self.aliases.exists(a, a in self.adapters))",
            breach=_model_names_breach,
            message="name, aliases and adapters must all differ",
            hint="keep each name in one place only",
        ),
    )

    name: ModelName = Field(
        description="name is the model's name as its servers know it (vLLM's --served-model-name). Requests sent to "
        "this pool carry it, whatever the client called the model.",
    )
    aliases: tuple[ModelName, ...] = Field(
        default=(),
        max_length=16,
        description="aliases are further names by which clients may ask for this model. Empty, the default, means "
        "none.",
    )
    adapters: tuple[ModelName, ...] = Field(
        default=(),
        max_length=64,
        description="adapters are LoRA adapters the servers have loaded; each can be asked for as a model and is sent "
        "to the server under its own name. Empty, the default, means none.",
    )
    context_window: int = Field(
        default=0,
        ge=0,
        le=100_000_000,
        description="contextWindow is how many tokens prompt and answer may have together. Longer requests are not "
        "sent here. 0, the default, means unknown: nothing is refused.",
    )
    capabilities: tuple[Capability, ...] = Field(
        default=(),
        max_length=16,
        description="capabilities lists what the model can do: Chat, Completions, Embeddings, Tools, Vision, Audio, "
        "StructuredOutput, Reasoning. A request that needs one that is not listed goes elsewhere. Empty, the default, "
        "means not declared: nothing is refused.",
    )


class Cost(Spec):
    """What using the model costs, in US dollars."""

    input_per_million: float = Field(
        default=0.0,
        ge=0,
        le=100_000,
        description="inputPerMillion is dollars per million prompt tokens. Defaults to 0.",
    )
    cached_input_per_million: float | None = Field(
        default=None,
        ge=0,
        le=100_000,
        description="cachedInputPerMillion is dollars per million prompt tokens served from the prefix cache. "
        "Defaults to inputPerMillion.",
    )
    output_per_million: float = Field(
        default=0.0,
        ge=0,
        le=100_000,
        description="outputPerMillion is dollars per million answer tokens. Defaults to 0.",
    )


def _not_seen(spec: "ModelPoolSpec") -> bool:
    service = spec.backend.service
    return spec.backend.external is not None or (service is not None and service.name is None)


class ModelPoolSpec(Spec):
    """What the user asks for."""

    constraints: ClassVar = (
        Constraint(
            cel="(self.role == 'Decode') == has(self.disaggregation)",
            breach=lambda spec: "" if (spec.role is Role.DECODE) != (spec.disaggregation is not None) else None,
            message="disaggregation must be set for role Decode, and left out for other roles",
            hint="add disaggregation.prefillPool and role: Decode, or remove both",
            field="disaggregation",
        ),
        Constraint(
            cel="self.role == 'Unified' || has(self.backend.pods) || has(self.backend.inferencePool)"
            " || (has(self.backend.service) && has(self.backend.service.name))",
            breach=lambda spec: "" if spec.role is not Role.UNIFIED and _not_seen(spec) else None,
            message="roles Prefill and Decode need replicas that are seen one by one",
            hint="use backend.pods, backend.inferencePool or backend.service.name, or leave role out",
            field="role",
        ),
    )

    model: Model = Field(description="model says which model the pool's replicas serve.")
    backend: Backend = Field(
        description="backend says where the replicas are: exactly one of pods, service, inferencePool and external."
    )
    cost: Cost = Field(
        default_factory=Cost,
        description="cost is what the model costs in US dollars; it is reported, and compared. Absent means that it "
        "costs nothing.",
    )
    balancing: Balancing = Field(
        default_factory=Balancing,
        description="balancing says how work is spread over the replicas. The defaults of its fields apply when "
        "absent.",
    )
    role: Role = Field(
        default=Role.UNIFIED,
        description="role says what part of a request the replicas do: Unified, all of it; Prefill, only computing "
        "prompts for Decode pools, so no request is sent here otherwise; Decode, answering, with long prompts computed "
        "by a Prefill pool. Defaults to Unified.",
    )
    disaggregation: Disaggregation | None = Field(
        default=None,
        description="disaggregation says which pool computes the prompts of this one, and from what length on. It "
        "belongs to role Decode. Unset means that the replicas compute all prompts themselves.",
    )
    speculative: Speculative | None = Field(
        default=None,
        description="speculative says that the servers decode speculatively, so that the condition MetricsAvailable "
        "tells when they do not publish how much of it is accepted. What they publish is used whether or not this is "
        "set. Unset, the default, means that nothing is expected.",
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict,
        max_length=32,
        description="labels describe the pool, such as its region or what data it may see, for a Tenant's "
        "compliance.poolLabels to choose by. Empty, the default, means none.",
    )


class ModelPool(Object):
    """ModelPool is a set of interchangeable replicas of one model."""

    short_names: ClassVar[tuple[str, ...]] = ("mp",)
    plural: ClassVar[str] = "modelpools"

    kind: Literal["ModelPool"] = "ModelPool"
    spec: ModelPoolSpec = Field(
        description="spec is the pool as wanted: the model, where its replicas are, what it costs."
    )
