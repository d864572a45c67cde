"""Which series of which engine mean what: exact names as exported, with those of older versions.

A name that changes upstream must show up as missing, never as zero, so names are matched whole and the needed ones are listed.
Sources: the metrics pages of vLLM V1 (0.6 to 0.32) and of SGLang run with ``--enable-metrics``.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ralb.v1.snapshot_pb2 import Engine


class Fold(Enum):
    """How the values of several label sets (data-parallel engines, or models) of one series become one."""

    SUM = "sum"
    MEAN = "mean"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What of a ``PodSample`` a series feeds.

    Attributes:
        field: the value it is; ``config`` and ``adapters`` are read from labels.
        fold: how label sets combine.
    """

    field: str
    fold: Fold


@dataclass(frozen=True, slots=True)
class Dialect:
    """The series of one engine.

    Attributes:
        series: name -> meaning. Of several names of one field the first one found on the page counts, in this order.
        needed: fields a page must have, with the current name to report when it lacks one.
    """

    series: dict[bytes, Meaning]
    needed: dict[str, str]


_SUM: Final = Fold.SUM
VLLM: Final = Dialect(
    series={
        b"vllm:num_requests_waiting": Meaning("waiting", _SUM),
        b"vllm:num_requests_running": Meaning("running", _SUM),
        b"vllm:kv_cache_usage_perc": Meaning("kv_usage", Fold.MEAN),
        b"vllm:gpu_cache_usage_perc": Meaning("kv_usage", Fold.MEAN),
        b"vllm:cache_config_info": Meaning("config", Fold.LAST),
        b"vllm:prefix_cache_queries_total": Meaning("prefix_queries", _SUM),
        b"vllm:gpu_prefix_cache_queries_total": Meaning("prefix_queries", _SUM),
        b"vllm:prefix_cache_hits_total": Meaning("prefix_hits", _SUM),
        b"vllm:gpu_prefix_cache_hits_total": Meaning("prefix_hits", _SUM),
        b"vllm:num_preemptions_total": Meaning("preemptions", _SUM),
        b"vllm:lora_requests_info": Meaning("adapters", Fold.LAST),
    },
    needed={
        "waiting": "vllm:num_requests_waiting",
        "running": "vllm:num_requests_running",
        "kv_usage": "vllm:kv_cache_usage_perc",
    },
)
SGLANG: Final = Dialect(
    series={
        b"sglang:num_queue_reqs": Meaning("waiting", _SUM),
        b"sglang:num_running_reqs": Meaning("running", _SUM),
        b"sglang:token_usage": Meaning("kv_usage", Fold.MEAN),
        b"sglang:max_total_num_tokens": Meaning("kv_capacity", _SUM),
        b"sglang:prompt_tokens_total": Meaning("prefix_queries", _SUM),
        b"sglang:cached_tokens_total": Meaning("prefix_hits", _SUM),
        b"sglang:num_retracted_requests_total": Meaning("preemptions", _SUM),
    },
    needed={
        "waiting": "sglang:num_queue_reqs",
        "running": "sglang:num_running_reqs",
        "kv_usage": "sglang:token_usage",
    },
)


def dialect(engine: Engine) -> Dialect | None:
    """The series of an engine; None for one whose metrics are not known."""
    return {Engine.ENGINE_VLLM: VLLM, Engine.ENGINE_SGLANG: SGLANG}.get(engine)
