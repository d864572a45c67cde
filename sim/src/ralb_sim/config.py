"""What a simulated server is told at its start; plain data, validated once."""

from dataclasses import dataclass
from enum import StrEnum

from ralb_sim.engine import EngineConfig
from ralb_sim.profiles import Profile

MIN_TIME_SCALE = 1e-4
MAX_TIME_SCALE = 1e3


@dataclass(frozen=True, slots=True)
class KvEventsConfig:
    """Where and how to publish what the cache stores and removes.

    Attributes:
        host: Address to bind, as ZeroMQ writes it.
        port: Of the publisher.
        replay_port: Where kept batches can be had again; 0 = nowhere.
        as_maps: Whether batches and events are maps, as newer vLLMs send them, or arrays.
        kept: Batches kept for replay.
    """

    port: int
    replay_port: int = 0
    host: str = "127.0.0.1"
    as_maps: bool = False
    kept: int = 10_000

    def __post_init__(self) -> None:
        _within("kv_events port", self.port, 1, 65_535)
        _within("kv_events replay_port", self.replay_port, 0, 65_535)


class MetricsDialect(StrEnum):
    """Whose metrics page a pod shows."""

    VLLM = "vllm"
    VLLM_OLD = "vllm-old"
    SGLANG = "sglang"
    TENSORRT_LLM = "tensorrt-llm"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One simulated pod.

    Attributes:
        names: Served model names; the first is the one metrics carry, the others are aliases.
        profile: Step-time constants and defaults.
        engine: Engine limits.
        max_model_len: Context window in tokens.
        time_scale: Real seconds per simulated second; 0.1 runs ten times faster.
        reasoning_share: Share of an answer that is reasoning, 0..0.95; 0 means the model does not reason.
        output_median: Median natural answer length in tokens.
        output_sigma: Spread of the log-normal answer length; 0 gives every answer the median length.
        tool_call_probability: Share of requests with tools and `tool_choice: auto` that are answered with a tool call.
        max_queued: Requests held at most before new ones get 503.
        embedding_size: Dimensions of embeddings.
        seed: Seed of everything random (faults, tool calls).
        sidecar: Have prompts computed by the pod that a request's `x-prefiller-host-port` names.
        kv_events: How to publish KV events; None = not at all.
        adapters: Those of the names that are LoRA adapters.
        max_loras: Adapters the engine holds at once.
        metrics: Whose metrics page to show.
    """

    names: tuple[str, ...]
    profile: Profile
    engine: EngineConfig
    max_model_len: int
    time_scale: float = 1.0
    reasoning_share: float = 0.0
    output_median: int = 180
    output_sigma: float = 0.7
    tool_call_probability: float = 0.0
    max_queued: int = 10_000
    embedding_size: int = 256
    seed: int = 0
    kv_events: KvEventsConfig | None = None
    adapters: tuple[str, ...] = ()
    max_loras: int = 4
    metrics: MetricsDialect = MetricsDialect.VLLM
    sidecar: bool = False

    def __post_init__(self) -> None:
        if not self.names or not all(self.names):
            raise ValueError("a server needs at least one non-empty model name")
        _within("time_scale", self.time_scale, MIN_TIME_SCALE, MAX_TIME_SCALE)
        _within("reasoning_share", self.reasoning_share, 0.0, 0.95)
        _within("output_median", self.output_median, 1, 1_000_000)
        _within("output_sigma", self.output_sigma, 0.0, 3.0)
        _within("tool_call_probability", self.tool_call_probability, 0.0, 1.0)
        if not set(self.adapters) <= set(self.names[1:]):
            raise ValueError("every LoRA adapter must be one of the names, and not the first")
        _within("max_loras", self.max_loras, 1, 1000)
        _within("max_queued", self.max_queued, 1, 1_000_000)
        _within("embedding_size", self.embedding_size, 1, 4096)
        _within(
            "max_model_len",
            self.max_model_len,
            16,
            self.engine.kv_tokens // self.engine.block_size * self.engine.block_size,
        )


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low:g} and {high:g}, not {value!r}")
