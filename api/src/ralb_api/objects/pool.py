"""ModelPool: interchangeable replicas of one model."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from ralb_api.objects.backend import Backend
from ralb_api.objects.common import (
    Constraint,
    Duration,
    LabelKey,
    LabelValue,
    ModelName,
    Object,
    Spec,
    duplicates,
    duration_within,
)


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


class CircuitBreaker(Spec):
    """Limits that stop a pool from being buried."""

    max_requests: int = Field(
        default=100_000,
        ge=1,
        le=4_000_000,
        description="maxRequests is how many requests one gateway may have open to the pool; those that come to it by "
        "failover from another model are counted apart. Defaults to 100000.",
    )
    retry_budget_percent: int = Field(
        default=50,
        ge=0,
        le=100,
        description="retryBudgetPercent is the share of open requests that may be retries. Defaults to 50.",
    )
    min_retries: int = Field(
        default=64,
        ge=0,
        le=100_000,
        description="minRetries is how many retries may run at once however few requests are open. Defaults to 64.",
    )


class Balancing(Spec):
    """How work is spread over the pool's pods."""

    constraints: ClassVar = (
        duration_within("slow_start", "0s", "1h", "a new pod gets its full share within minutes; 30s is a good value"),
    )

    concurrency_per_replica: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="concurrencyPerReplica is how many requests one pod should have at once; pods at the cap are "
        "chosen only when all are. 0, the default, means no cap.",
    )
    slow_start: Duration = Field(
        default="30s",
        description="slowStart is how long a new pod takes to get its full share, as a duration such as 30s, at most "
        "1h. Defaults to 30s.",
    )
    circuit_breaker: CircuitBreaker = Field(
        default_factory=CircuitBreaker,
        description="circuitBreaker limits open requests and retries towards the pool. The defaults of its fields "
        "apply when absent.",
    )


class ModelPoolSpec(Spec):
    """What the user asks for."""

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
