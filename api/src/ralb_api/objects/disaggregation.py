"""Prefill and decode on different pods: what part a pool plays, and how a Decode pool gets its prompts computed elsewhere.

May not enter: when splitting pays for one request; that is decided per request by the processor.
"""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from ralb_api.objects.common import Duration, ObjectName, Spec, duration_within


class Role(StrEnum):
    """What part of a request a pool's replicas do."""

    UNIFIED = "Unified"
    PREFILL = "Prefill"
    DECODE = "Decode"


class Connector(StrEnum):
    """Who carries a prompt's computed KV blocks from a prefill pod to a decode pod, and so who asks the prefill pod."""

    NIXL = "NIXL"
    SIDECAR = "Sidecar"


class Disaggregation(Spec):
    """How the prompts of a Decode pool are computed by the pods of a Prefill pool."""

    constraints: ClassVar = (
        duration_within("timeout", "100ms", "5m", "30s is enough for most prompts; a request never waits longer"),
    )

    prefill_pool: ObjectName = Field(
        description="prefillPool is a ModelPool of the same namespace with role Prefill that serves the same model.",
    )
    connector: Connector = Field(
        default=Connector.NIXL,
        description="connector says who asks the prefill pod. NIXL: the gateway does, and gives the decode pod the "
        "kv_transfer_params of its answer, as vLLM's NixlConnector expects. Sidecar: a sidecar of the decode pod does, "
        "told by the header x-prefiller-host-port, as llm-d's routing sidecar expects. Defaults to NIXL.",
    )
    min_prompt_tokens: int = Field(
        default=2048,
        ge=1,
        le=100_000_000,
        description="minPromptTokens is from how many prompt tokens on that no prefix cache of the decode pod holds "
        "another pod may compute the prompt; shorter ones the decode pod computes itself. Defaults to 2048.",
    )
    timeout: Duration = Field(
        default="30s",
        description="timeout is how long computing the prompt on the prefill pod may take, as a duration from 100ms "
        "to 5m; after it the decode pod computes the prompt itself. With Sidecar the sidecar has a timeout of its own; "
        "this one then only bounds for which prefill pods the wait is thought worth while. Defaults to 30s.",
    )
