from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNIFIED: _ClassVar[Role]
    ROLE_PREFILL: _ClassVar[Role]
    ROLE_DECODE: _ClassVar[Role]

class Connector(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONNECTOR_NIXL: _ClassVar[Connector]
    CONNECTOR_SIDECAR: _ClassVar[Connector]

class Engine(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENGINE_UNSPECIFIED: _ClassVar[Engine]
    ENGINE_VLLM: _ClassVar[Engine]
    ENGINE_SGLANG: _ClassVar[Engine]
    ENGINE_GENERIC: _ClassVar[Engine]
    ENGINE_TENSORRT_LLM: _ClassVar[Engine]

class StreamUsage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_USAGE_AS_REQUESTED: _ClassVar[StreamUsage]
    STREAM_USAGE_INJECT: _ClassVar[StreamUsage]
ROLE_UNIFIED: Role
ROLE_PREFILL: Role
ROLE_DECODE: Role
CONNECTOR_NIXL: Connector
CONNECTOR_SIDECAR: Connector
ENGINE_UNSPECIFIED: Engine
ENGINE_VLLM: Engine
ENGINE_SGLANG: Engine
ENGINE_GENERIC: Engine
ENGINE_TENSORRT_LLM: Engine
STREAM_USAGE_AS_REQUESTED: StreamUsage
STREAM_USAGE_INJECT: StreamUsage

class WatchRequest(_message.Message):
    __slots__ = ("node_id", "version", "error", "metrics")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    version: str
    error: str
    metrics: MetricsReport
    def __init__(self, node_id: _Optional[str] = ..., version: _Optional[str] = ..., error: _Optional[str] = ..., metrics: _Optional[_Union[MetricsReport, _Mapping]] = ...) -> None: ...

class MetricsReport(_message.Message):
    __slots__ = ("pools",)
    POOLS_FIELD_NUMBER: _ClassVar[int]
    pools: _containers.RepeatedCompositeFieldContainer[PoolMetrics]
    def __init__(self, pools: _Optional[_Iterable[_Union[PoolMetrics, _Mapping]]] = ...) -> None: ...

class PoolMetrics(_message.Message):
    __slots__ = ("pool", "pods", "troubles")
    POOL_FIELD_NUMBER: _ClassVar[int]
    PODS_FIELD_NUMBER: _ClassVar[int]
    TROUBLES_FIELD_NUMBER: _ClassVar[int]
    pool: str
    pods: int
    troubles: _containers.RepeatedCompositeFieldContainer[MetricsTrouble]
    def __init__(self, pool: _Optional[str] = ..., pods: _Optional[int] = ..., troubles: _Optional[_Iterable[_Union[MetricsTrouble, _Mapping]]] = ...) -> None: ...

class MetricsTrouble(_message.Message):
    __slots__ = ("series", "error", "pods", "examples")
    SERIES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PODS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    series: str
    error: str
    pods: int
    examples: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, series: _Optional[str] = ..., error: _Optional[str] = ..., pods: _Optional[int] = ..., examples: _Optional[_Iterable[str]] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("version", "pools", "tiers", "policies")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    version: str
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    tiers: _containers.RepeatedCompositeFieldContainer[Tier]
    policies: _containers.RepeatedCompositeFieldContainer[Policy]
    def __init__(self, version: _Optional[str] = ..., pools: _Optional[_Iterable[_Union[Pool, _Mapping]]] = ..., tiers: _Optional[_Iterable[_Union[Tier, _Mapping]]] = ..., policies: _Optional[_Iterable[_Union[Policy, _Mapping]]] = ...) -> None: ...

class Pool(_message.Message):
    __slots__ = ("id", "cluster", "rewrite_cluster", "model", "engine", "metrics_path", "endpoints", "cost", "concurrency_per_replica", "labels", "apis", "blocked", "role", "disaggregation", "balancing", "health", "speculative_tokens", "kv_events")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    REWRITE_CLUSTER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    METRICS_PATH_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_PER_REPLICA_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    APIS_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DISAGGREGATION_FIELD_NUMBER: _ClassVar[int]
    BALANCING_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    SPECULATIVE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_EVENTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    cluster: str
    rewrite_cluster: str
    model: Model
    engine: Engine
    metrics_path: str
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    cost: Cost
    concurrency_per_replica: int
    labels: _containers.ScalarMap[str, str]
    apis: _containers.RepeatedScalarFieldContainer[str]
    blocked: str
    role: Role
    disaggregation: Disaggregation
    balancing: Balancing
    health: Health
    speculative_tokens: int
    kv_events: KvEvents
    def __init__(self, id: _Optional[str] = ..., cluster: _Optional[str] = ..., rewrite_cluster: _Optional[str] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., engine: _Optional[_Union[Engine, str]] = ..., metrics_path: _Optional[str] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., concurrency_per_replica: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., apis: _Optional[_Iterable[str]] = ..., blocked: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., disaggregation: _Optional[_Union[Disaggregation, _Mapping]] = ..., balancing: _Optional[_Union[Balancing, _Mapping]] = ..., health: _Optional[_Union[Health, _Mapping]] = ..., speculative_tokens: _Optional[int] = ..., kv_events: _Optional[_Union[KvEvents, _Mapping]] = ...) -> None: ...

class Disaggregation(_message.Message):
    __slots__ = ("prefill_pool", "connector", "min_prompt_tokens", "timeout_s")
    PREFILL_POOL_FIELD_NUMBER: _ClassVar[int]
    CONNECTOR_FIELD_NUMBER: _ClassVar[int]
    MIN_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    prefill_pool: str
    connector: Connector
    min_prompt_tokens: int
    timeout_s: float
    def __init__(self, prefill_pool: _Optional[str] = ..., connector: _Optional[_Union[Connector, str]] = ..., min_prompt_tokens: _Optional[int] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class KvEvents(_message.Message):
    __slots__ = ("port", "replay_port")
    PORT_FIELD_NUMBER: _ClassVar[int]
    REPLAY_PORT_FIELD_NUMBER: _ClassVar[int]
    port: int
    replay_port: int
    def __init__(self, port: _Optional[int] = ..., replay_port: _Optional[int] = ...) -> None: ...

class Balancing(_message.Message):
    __slots__ = ("strategy", "hash_header", "bounded_load_percent", "max_key_share_percent", "affinity_ttl_s")
    class Strategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASONING_AWARE: _ClassVar[Balancing.Strategy]
        WEIGHTED_ROUND_ROBIN: _ClassVar[Balancing.Strategy]
        ROUND_ROBIN: _ClassVar[Balancing.Strategy]
        LEAST_REQUEST: _ClassVar[Balancing.Strategy]
        POWER_OF_TWO: _ClassVar[Balancing.Strategy]
        RING_HASH: _ClassVar[Balancing.Strategy]
        MAGLEV: _ClassVar[Balancing.Strategy]
        PREFIX_AWARE: _ClassVar[Balancing.Strategy]
        KV_AWARE: _ClassVar[Balancing.Strategy]
        SESSION_AFFINITY: _ClassVar[Balancing.Strategy]
    REASONING_AWARE: Balancing.Strategy
    WEIGHTED_ROUND_ROBIN: Balancing.Strategy
    ROUND_ROBIN: Balancing.Strategy
    LEAST_REQUEST: Balancing.Strategy
    POWER_OF_TWO: Balancing.Strategy
    RING_HASH: Balancing.Strategy
    MAGLEV: Balancing.Strategy
    PREFIX_AWARE: Balancing.Strategy
    KV_AWARE: Balancing.Strategy
    SESSION_AFFINITY: Balancing.Strategy
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    HASH_HEADER_FIELD_NUMBER: _ClassVar[int]
    BOUNDED_LOAD_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MAX_KEY_SHARE_PERCENT_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_TTL_S_FIELD_NUMBER: _ClassVar[int]
    strategy: Balancing.Strategy
    hash_header: str
    bounded_load_percent: int
    max_key_share_percent: int
    affinity_ttl_s: float
    def __init__(self, strategy: _Optional[_Union[Balancing.Strategy, str]] = ..., hash_header: _Optional[str] = ..., bounded_load_percent: _Optional[int] = ..., max_key_share_percent: _Optional[int] = ..., affinity_ttl_s: _Optional[float] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "aliases", "adapters", "context_window", "capabilities")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_WINDOW_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    adapters: _containers.RepeatedScalarFieldContainer[str]
    context_window: int
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., adapters: _Optional[_Iterable[str]] = ..., context_window: _Optional[int] = ..., capabilities: _Optional[_Iterable[str]] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("address", "name", "draining")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    address: str
    name: str
    draining: bool
    def __init__(self, address: _Optional[str] = ..., name: _Optional[str] = ..., draining: _Optional[bool] = ...) -> None: ...

class Health(_message.Message):
    __slots__ = ("degraded_error", "failed_error", "max_ejected", "slow_factor", "slow_start_s", "drain_s")
    DEGRADED_ERROR_FIELD_NUMBER: _ClassVar[int]
    FAILED_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_EJECTED_FIELD_NUMBER: _ClassVar[int]
    SLOW_FACTOR_FIELD_NUMBER: _ClassVar[int]
    SLOW_START_S_FIELD_NUMBER: _ClassVar[int]
    DRAIN_S_FIELD_NUMBER: _ClassVar[int]
    degraded_error: float
    failed_error: float
    max_ejected: float
    slow_factor: float
    slow_start_s: float
    drain_s: float
    def __init__(self, degraded_error: _Optional[float] = ..., failed_error: _Optional[float] = ..., max_ejected: _Optional[float] = ..., slow_factor: _Optional[float] = ..., slow_start_s: _Optional[float] = ..., drain_s: _Optional[float] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("input_per_million", "cached_input_per_million", "output_per_million")
    INPUT_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    input_per_million: float
    cached_input_per_million: float
    output_per_million: float
    def __init__(self, input_per_million: _Optional[float] = ..., cached_input_per_million: _Optional[float] = ..., output_per_million: _Optional[float] = ...) -> None: ...

class Tier(_message.Message):
    __slots__ = ("id", "name", "level", "pools", "output_cap", "reasoning_effort", "fallback_tiers", "spill_tiers", "dynamic_weights", "prefer_price")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_CAP_FIELD_NUMBER: _ClassVar[int]
    REASONING_EFFORT_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_TIERS_FIELD_NUMBER: _ClassVar[int]
    SPILL_TIERS_FIELD_NUMBER: _ClassVar[int]
    DYNAMIC_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    PREFER_PRICE_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    level: int
    pools: _containers.RepeatedCompositeFieldContainer[TierPool]
    output_cap: int
    reasoning_effort: str
    fallback_tiers: _containers.RepeatedScalarFieldContainer[str]
    spill_tiers: _containers.RepeatedScalarFieldContainer[str]
    dynamic_weights: bool
    prefer_price: bool
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., level: _Optional[int] = ..., pools: _Optional[_Iterable[_Union[TierPool, _Mapping]]] = ..., output_cap: _Optional[int] = ..., reasoning_effort: _Optional[str] = ..., fallback_tiers: _Optional[_Iterable[str]] = ..., spill_tiers: _Optional[_Iterable[str]] = ..., dynamic_weights: _Optional[bool] = ..., prefer_price: _Optional[bool] = ...) -> None: ...

class TierPool(_message.Message):
    __slots__ = ("pool", "weight", "priority")
    POOL_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    pool: str
    weight: int
    priority: int
    def __init__(self, pool: _Optional[str] = ..., weight: _Optional[int] = ..., priority: _Optional[int] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("id", "name", "hostnames", "paths", "models", "headers", "rules", "default_action", "stream_usage")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOSTNAMES_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_ACTION_FIELD_NUMBER: _ClassVar[int]
    STREAM_USAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    hostnames: _containers.RepeatedScalarFieldContainer[str]
    paths: _containers.RepeatedScalarFieldContainer[str]
    models: _containers.RepeatedScalarFieldContainer[str]
    headers: _containers.RepeatedCompositeFieldContainer[HeaderMatch]
    rules: _containers.RepeatedCompositeFieldContainer[Rule]
    default_action: Action
    stream_usage: StreamUsage
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., hostnames: _Optional[_Iterable[str]] = ..., paths: _Optional[_Iterable[str]] = ..., models: _Optional[_Iterable[str]] = ..., headers: _Optional[_Iterable[_Union[HeaderMatch, _Mapping]]] = ..., rules: _Optional[_Iterable[_Union[Rule, _Mapping]]] = ..., default_action: _Optional[_Union[Action, _Mapping]] = ..., stream_usage: _Optional[_Union[StreamUsage, str]] = ...) -> None: ...

class HeaderMatch(_message.Message):
    __slots__ = ("name", "type", "value")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        EXACT: _ClassVar[HeaderMatch.Type]
        PREFIX: _ClassVar[HeaderMatch.Type]
        PRESENT: _ClassVar[HeaderMatch.Type]
    EXACT: HeaderMatch.Type
    PREFIX: HeaderMatch.Type
    PRESENT: HeaderMatch.Type
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: HeaderMatch.Type
    value: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[HeaderMatch.Type, str]] = ..., value: _Optional[str] = ...) -> None: ...

class Rule(_message.Message):
    __slots__ = ("name", "when", "action")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHEN_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    when: When
    action: Action
    def __init__(self, name: _Optional[str] = ..., when: _Optional[_Union[When, _Mapping]] = ..., action: _Optional[_Union[Action, _Mapping]] = ...) -> None: ...

class When(_message.Message):
    __slots__ = ("intents", "complexity_min", "complexity_max", "confidence_min", "tools", "tool_names", "input_tokens_min", "input_tokens_max", "workload_classes", "labels", "headers", "models")
    INTENTS_FIELD_NUMBER: _ClassVar[int]
    COMPLEXITY_MIN_FIELD_NUMBER: _ClassVar[int]
    COMPLEXITY_MAX_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_MIN_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    TOOL_NAMES_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_MIN_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_CLASSES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    intents: _containers.RepeatedScalarFieldContainer[str]
    complexity_min: float
    complexity_max: float
    confidence_min: float
    tools: bool
    tool_names: _containers.RepeatedScalarFieldContainer[str]
    input_tokens_min: int
    input_tokens_max: int
    workload_classes: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    headers: _containers.RepeatedCompositeFieldContainer[HeaderMatch]
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, intents: _Optional[_Iterable[str]] = ..., complexity_min: _Optional[float] = ..., complexity_max: _Optional[float] = ..., confidence_min: _Optional[float] = ..., tools: _Optional[bool] = ..., tool_names: _Optional[_Iterable[str]] = ..., input_tokens_min: _Optional[int] = ..., input_tokens_max: _Optional[int] = ..., workload_classes: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[str]] = ..., headers: _Optional[_Iterable[_Union[HeaderMatch, _Mapping]]] = ..., models: _Optional[_Iterable[str]] = ...) -> None: ...

class Action(_message.Message):
    __slots__ = ("tier", "reject", "output_cap", "reasoning_effort")
    TIER_FIELD_NUMBER: _ClassVar[int]
    REJECT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_CAP_FIELD_NUMBER: _ClassVar[int]
    REASONING_EFFORT_FIELD_NUMBER: _ClassVar[int]
    tier: str
    reject: Reject
    output_cap: int
    reasoning_effort: str
    def __init__(self, tier: _Optional[str] = ..., reject: _Optional[_Union[Reject, _Mapping]] = ..., output_cap: _Optional[int] = ..., reasoning_effort: _Optional[str] = ...) -> None: ...

class Reject(_message.Message):
    __slots__ = ("status", "code", "message")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    status: int
    code: str
    message: str
    def __init__(self, status: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
