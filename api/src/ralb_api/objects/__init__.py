"""The custom resources as typed models: one file per kind, shared pieces in ``common``.

These models are the single source of the schema: the CRDs in ``crds/`` are generated from them, and YAML files are
parsed by them. Every field has bounds and a description whose first words are the field's name, because that is what
``kubectl explain`` shows.
"""

from ralb_api.objects.backend import (
    Backend,
    CACertificateRef,
    CredentialsRef,
    Engine,
    ExternalBackend,
    InferencePoolBackend,
    PodsBackend,
    ProviderSchema,
    ProviderTLS,
    Selector,
    ServiceBackend,
    TLSMode,
)
from ralb_api.objects.common import HeaderMatch, HeaderMatchType, Metadata, Object
from ralb_api.objects.policy import (
    Action,
    ActionOptions,
    Match,
    Range,
    Reject,
    RoutingPolicy,
    RoutingPolicySpec,
    Rule,
    StreamUsage,
    TokenRange,
    ToolsCondition,
    Use,
    When,
)
from ralb_api.objects.pool import Balancing, Capability, CircuitBreaker, Cost, Model, ModelPool, ModelPoolSpec
from ralb_api.objects.tier import ModelTier, ModelTierSpec, ReasoningEffort, TierPool

KINDS: dict[str, type[Object]] = {
    "ModelPool": ModelPool,
    "ModelTier": ModelTier,
    "RoutingPolicy": RoutingPolicy,
}

__all__ = [
    "TLSMode",
    "ProviderTLS",
    "ProviderSchema",
    "InferencePoolBackend",
    "ExternalBackend",
    "CredentialsRef",
    "CACertificateRef",
    "KINDS",
    "Action",
    "ActionOptions",
    "Backend",
    "Balancing",
    "Capability",
    "CircuitBreaker",
    "Cost",
    "Engine",
    "HeaderMatch",
    "HeaderMatchType",
    "Match",
    "Metadata",
    "Model",
    "ModelPool",
    "ModelPoolSpec",
    "ModelTier",
    "ModelTierSpec",
    "Object",
    "PodsBackend",
    "Range",
    "ReasoningEffort",
    "Reject",
    "RoutingPolicy",
    "RoutingPolicySpec",
    "Rule",
    "Selector",
    "ServiceBackend",
    "StreamUsage",
    "TierPool",
    "TokenRange",
    "ToolsCondition",
    "Use",
    "When",
]
