"""Which series of which engine mean what: exact names as exported, with those of older versions.

A name that changes upstream must show up as missing, never as zero, so names are matched whole and the needed ones are listed.
Sources: the metrics pages of vLLM V1 (0.6 to 0.32), of SGLang run with ``--enable-metrics``, of ``trtllm-serve`` and of Triton
with the TensorRT-LLM backend.

The trap is what a histogram of "inter-token latency" counts. vLLM's has one entry for every output of a sequence, however many
tokens a speculating engine put into it: its mean is the time of a step. SGLang divides by the tokens of the output and counts
each: its mean is the time of a token. TensorRT-LLM has one entry per finished request, its mean time per token. Hence two fields
for the count, ``itl_steps`` and ``itl_tokens``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from ralb.v1.snapshot_pb2 import Engine


class Fold(Enum):
    """How the values of several label sets of one series become one.

    ``RANKS`` and ``MEAN`` first take the largest value of each data-parallel engine: SGLang repeats a gauge for every
    tensor-parallel rank, and for every priority beside the total.
    """

    SUM = "sum"
    RANKS = "ranks"  # summed over data-parallel engines
    MEAN = "mean"  # over data-parallel engines, weighted by the size of their KV caches where all are known


@dataclass(frozen=True, slots=True)
class Series:
    """What of a ``PodSample`` a series feeds.

    Attributes:
        name: as exported, matched whole.
        field: the value it is. ``config``, ``adapters``, ``blocks`` and ``block_size`` are of the parser's own.
        fold: how label sets combine.
        only: the label a set must have, as ``name="value"``; empty = all sets count.
    """

    name: bytes
    field: str
    fold: Fold = Fold.SUM
    only: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """The series of one engine.

    Attributes:
        series: of several of one field the first one found on the page counts, in this order.
        needed: fields a page must have, with the current name to report when it lacks one.
        speculative: fields that a page of a speculating engine must have besides.
        rank: label by which data-parallel engines differ.
        filters: whether its servers give only the series named by ``name[]``, as prometheus_client does.
        names: of all series.
        pattern: finds their samples, the name as group 1, wherever a line begins after a newline.
    """

    series: tuple[Series, ...]
    needed: dict[str, str]
    speculative: dict[str, str]
    rank: bytes = b""
    filters: bool = False
    names: frozenset[bytes] = field(init=False)
    pattern: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        names = frozenset(series.name for series in self.series)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "pattern", re.compile(rb"\n(" + _any_of(names) + rb")(?=[{ \t])"))

    def speculating(self) -> "Dialect":
        """The same for engines that are said to speculate."""
        return replace(self, needed=self.needed | self.speculative)


def _any_of(names: Iterable[bytes]) -> bytes:
    """A pattern for these names that shares their beginnings: on a long page twice as fast as the plain alternatives."""
    rest: dict[bytes, set[bytes]] = {}
    for name in names:
        rest.setdefault(name[:1], set()).add(name[1:])
    end = rest.pop(b"", None)
    ways = [re.escape(head) + (_any_of(tails) if tails != {b""} else b"") for head, tails in sorted(rest.items())]
    if len(ways) <= 1 and end is None:
        return b"".join(ways)
    return b"(?:" + b"|".join(ways) + (b")?" if end is not None else b")")


_RANKS: Final = Fold.RANKS
VLLM: Final = Dialect(
    series=(
        Series(b"vllm:num_requests_running", "running", _RANKS),
        Series(b"vllm:num_requests_waiting", "waiting", _RANKS),
        Series(b"vllm:cache_config_info", "config"),
        Series(b"vllm:kv_cache_usage_perc", "kv_usage", Fold.MEAN),
        Series(b"vllm:gpu_cache_usage_perc", "kv_usage", Fold.MEAN),
        Series(b"vllm:prefix_cache_queries_total", "prefix_queries"),
        Series(b"vllm:gpu_prefix_cache_queries_total", "prefix_queries"),
        Series(b"vllm:prefix_cache_hits_total", "prefix_hits"),
        Series(b"vllm:gpu_prefix_cache_hits_total", "prefix_hits"),
        Series(b"vllm:num_preemptions_total", "preemptions"),
        Series(b"vllm:prompt_tokens_total", "prompt_tokens"),
        Series(b"vllm:generation_tokens_total", "generation_tokens"),
        Series(b"vllm:time_to_first_token_seconds_count", "first_tokens"),
        Series(b"vllm:inter_token_latency_seconds_count", "itl_steps"),
        Series(b"vllm:inter_token_latency_seconds_sum", "itl_seconds"),
        Series(b"vllm:time_per_output_token_seconds_count", "itl_steps"),
        Series(b"vllm:time_per_output_token_seconds_sum", "itl_seconds"),
        Series(b"vllm:request_prefill_time_seconds_count", "prefill_count"),
        Series(b"vllm:request_prefill_time_seconds_sum", "prefill_seconds"),
        Series(b"vllm:spec_decode_num_drafts_total", "spec_drafts"),
        Series(b"vllm:spec_decode_num_draft_tokens_total", "spec_draft_tokens"),
        Series(b"vllm:spec_decode_num_accepted_tokens_total", "spec_accepted"),
        Series(b"vllm:lora_requests_info", "adapters"),
    ),
    needed={
        "waiting": "vllm:num_requests_waiting",
        "running": "vllm:num_requests_running",
        "kv_usage": "vllm:kv_cache_usage_perc",
    },
    speculative={
        "spec_drafts": "vllm:spec_decode_num_drafts_total",
        "spec_accepted": "vllm:spec_decode_num_accepted_tokens_total",
    },
    rank=b"engine",
    filters=True,
)
SGLANG: Final = Dialect(
    series=(
        Series(b"sglang:num_running_reqs", "running", _RANKS),
        Series(b"sglang:num_queue_reqs", "waiting", _RANKS),
        Series(b"sglang:max_total_num_tokens", "kv_capacity", _RANKS),
        Series(b"sglang:token_usage", "kv_usage", Fold.MEAN),
        Series(b"sglang:gen_throughput", "generation_rate", _RANKS),
        Series(b"sglang:spec_accept_length", "acceptance", Fold.MEAN),
        Series(b"sglang:num_retracted_requests_total", "preemptions", _RANKS),
        # The second counts a request's tokens only when it ends.
        Series(b"sglang:realtime_tokens_total", "generation_tokens", _RANKS, b'mode="decode"'),
        Series(b"sglang:generation_tokens_total", "generation_tokens"),
        Series(b"sglang:prompt_tokens_total", "prompt_tokens"),
        Series(b"sglang:prompt_tokens_total", "prefix_queries"),
        Series(b"sglang:cached_tokens_total", "prefix_hits"),
        Series(b"sglang:inter_token_latency_seconds_count", "itl_tokens"),
        Series(b"sglang:inter_token_latency_seconds_sum", "itl_seconds"),
        Series(b"sglang:time_per_output_token_seconds_count", "itl_tokens"),
        Series(b"sglang:time_per_output_token_seconds_sum", "itl_seconds"),
    ),
    needed={
        "waiting": "sglang:num_queue_reqs",
        "running": "sglang:num_running_reqs",
        "kv_usage": "sglang:token_usage",
    },
    speculative={"acceptance": "sglang:spec_accept_length"},
    rank=b"dp_rank",
)
_TRITON_REQUESTS: Final = b"nv_trt_llm_request_metrics"
_TRITON_BLOCKS: Final = b"nv_trt_llm_kv_cache_block_metrics"
TENSORRT_LLM: Final = Dialect(
    series=(
        Series(b"trtllm_num_requests_waiting", "waiting"),
        Series(_TRITON_REQUESTS, "waiting", only=b'request_type="waiting"'),
        Series(b"trtllm_num_requests_running", "running"),
        Series(_TRITON_REQUESTS, "running", only=b'request_type="scheduled"'),
        Series(b"trtllm_kv_cache_utilization", "kv_usage", Fold.MEAN),
        Series(_TRITON_BLOCKS, "kv_usage", Fold.MEAN, b'kv_cache_block_type="fraction"'),
        Series(b"trtllm_kv_cache_max_blocks", "blocks"),
        Series(_TRITON_BLOCKS, "blocks", only=b'kv_cache_block_type="max"'),
        Series(b"trtllm_kv_cache_tokens_per_block", "block_size", Fold.MEAN),
        Series(_TRITON_BLOCKS, "block_size", Fold.MEAN, b'kv_cache_block_type="tokens_per"'),
        Series(b"trtllm_prompt_tokens_total", "prefix_queries"),
        Series(b"trtllm_prompt_cached_tokens_total", "prefix_hits"),
        Series(b"trtllm_prompt_tokens_total", "prompt_tokens"),
        Series(b"trtllm_generation_tokens_total", "generation_tokens"),
        Series(b"trtllm_time_per_output_token_seconds_count", "itl_tokens"),
        Series(b"trtllm_time_per_output_token_seconds_sum", "itl_seconds"),
        Series(b"trtllm_request_prefill_time_seconds_count", "prefill_count"),
        Series(b"trtllm_request_prefill_time_seconds_sum", "prefill_seconds"),
        Series(b"trtllm_spec_decode_acceptance_length", "acceptance", Fold.MEAN),
        Series(b"trtllm_spec_decode_num_draft_tokens_total", "spec_draft_tokens"),
        Series(b"trtllm_spec_decode_num_accepted_tokens_total", "spec_accepted"),
    ),
    needed={
        "waiting": "trtllm_num_requests_waiting or nv_trt_llm_request_metrics",
        "running": "trtllm_num_requests_running or nv_trt_llm_request_metrics",
        "kv_usage": "trtllm_kv_cache_utilization or nv_trt_llm_kv_cache_block_metrics",
    },
    speculative={"acceptance": "trtllm_spec_decode_acceptance_length"},
)
_DIALECTS: Final = {
    Engine.ENGINE_VLLM: VLLM,
    Engine.ENGINE_SGLANG: SGLANG,
    Engine.ENGINE_TENSORRT_LLM: TENSORRT_LLM,
}
_SPECULATING: Final = {engine: known.speculating() for engine, known in _DIALECTS.items()}


def dialect(engine: Engine, *, speculating: bool = False) -> Dialect | None:
    """The series of an engine; None for one whose metrics are not known."""
    return (_SPECULATING if speculating else _DIALECTS).get(engine)
