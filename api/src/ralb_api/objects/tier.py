"""ModelTier: one level of reasoning, and the pools that provide it."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from ralb_api.objects.common import Constraint, Object, ObjectName, Spec, duplicates


class ReasoningEffort(StrEnum):
    """How much a reasoning model should think; the values of OpenAI's ``reasoning_effort``, in PascalCase."""

    NONE = "None"
    MINIMAL = "Minimal"
    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


class Weights(StrEnum):
    """Whether measured capacity moves the shares."""

    DYNAMIC = "Dynamic"
    STATIC = "Static"


class Prefer(StrEnum):
    """What decides among pools of the same priority."""

    BALANCE = "Balance"
    PRICE = "Price"


class TierPool(Spec):
    """A pool in a tier."""

    name: ObjectName = Field(description="name is a ModelPool in the tier's own namespace.")
    weight: int = Field(
        default=1,
        ge=0,
        le=1_000_000,
        description="weight is the pool's share among the pools of the same priority, as it is or times what the pool can "
        "do: see weights. 0 keeps it for failover only. Defaults to 1.",
    )
    priority: int = Field(
        default=0,
        ge=0,
        le=15,
        description="priority orders the pools: 0 first; higher ones serve when the lower ones can not. Defaults to 0.",
    )


def _pool_names_breach(spec: "ModelTierSpec") -> str | None:
    again = duplicates(pool.name for pool in spec.pools)
    return f"{again[0]} is there more than once" if again else None


class ModelTierSpec(Spec):
    """What the user asks for."""

    constraints: ClassVar = (
        Constraint(
            cel="self.pools.all(a, self.pools.exists_one(b, a.name == b.name))",
            breach=_pool_names_breach,
            message="each pool may be in a tier once",
            hint="keep one entry per pool and set its weight and priority there",
            field="pools",
        ),
    )

    level: int = Field(
        ge=1,
        le=100,
        description="level ranks the tiers of a namespace by ability: 1 for trivial work, higher for harder.",
    )
    pools: tuple[TierPool, ...] = Field(
        min_length=1,
        max_length=32,
        description="pools provide the tier, each named once.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    weights: Weights = Field(
        default=Weights.DYNAMIC,
        description="weights says what shares of the traffic the pools get. Dynamic: weight times the capacity measured of "
        "the pool's working pods, less while requests queue there; of a pool not measured yet, its pods count as its "
        "peers' do. Static: exactly the weights, whatever the pools can do. Defaults to Dynamic.",
    )
    prefer: Prefer = Field(
        default=Prefer.BALANCE,
        description="prefer says what decides among pools of the same priority. Balance: their shares. Price: the cheapest "
        "for the request at the pools' cost, what it finds in prefix caches considered, while that pool is not saturated; "
        "pools of nearly the same price share. Defaults to Balance.",
    )
    spill_tier: ObjectName | None = Field(
        default=None,
        description="spillTier is the ModelTier that takes what is too much for this one: while all of this tier's working "
        "pods are at their concurrency cap or requests queue there, new requests in excess go there, unless it is "
        "saturated itself. May be the fallbackTier. Unset means that requests queue here.",
    )
    fallback_tier: ObjectName | None = Field(
        default=None,
        description="fallbackTier is the ModelTier that takes a request when no pool of this one can: none is ready, "
        "or the request needs a longer context or an ability they lack. Unset means that such requests are refused.",
    )
    output_cap: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="outputCap is the most answer tokens a request may ask for here; larger wishes are lowered to it. "
        "Unset means no cap.",
    )
    reasoning_effort: ReasoningEffort | None = Field(
        default=None,
        description="reasoningEffort is set on chat requests that do not say themselves: None, Minimal, Low, Medium "
        "or High. Unset leaves requests alone.",
    )


def _spill_breach(tier: "ModelTier") -> str | None:
    return "" if tier.spec.spill_tier == tier.metadata.name else None


class ModelTier(Object):
    """ModelTier is one level of reasoning and the pools that provide it."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.spec.spillTier) || self.spec.spillTier != self.metadata.name",
            breach=_spill_breach,
            message="a tier can not spill over to itself",
            hint="name another ModelTier in spillTier, or leave it out",
            field="spec.spillTier",
        ),
    )

    short_names: ClassVar[tuple[str, ...]] = ("mt",)
    plural: ClassVar[str] = "modeltiers"

    kind: Literal["ModelTier"] = "ModelTier"
    spec: ModelTierSpec = Field(description="spec is the tier as wanted: its level and its pools.")
