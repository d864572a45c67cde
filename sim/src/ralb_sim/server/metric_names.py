"""Names, help and buckets of vLLM 0.32's histograms, and what its cache information carries."""

TTFT_BOUNDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
ITL_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
E2E_BOUNDS = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
ITERATION_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
N_BOUNDS = (1, 2, 5, 10, 20)
PREEMPTION_BOUNDS = (1, 2, 3, 4, 5, 10, 20)

_PREFILL = "Number of prefill tokens processed."
_GENERATED = "Number of generation tokens processed."
_MAX_GENERATED = "Histogram of maximum number of requested generation tokens."
_COMPUTED = "Histogram of new KV tokens computed during prefill (excluding cached tokens)."

HISTOGRAMS = (
    ("request_prompt_tokens", _PREFILL, "tokens"),
    ("request_generation_tokens", _GENERATED, "tokens"),
    ("iteration_tokens_total", "Histogram of number of tokens per engine_step.", "iteration"),
    ("request_max_num_generation_tokens", _MAX_GENERATED, "tokens"),
    ("request_params_n", "Histogram of the n request parameter.", "n"),
    ("request_params_max_tokens", "Histogram of the max_tokens request parameter.", "tokens"),
    ("time_to_first_token_seconds", "Histogram of time to first token in seconds.", "ttft"),
    ("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", "itl"),
    ("request_time_per_output_token_seconds", "Histogram of time_per_output_token_seconds per request.", "itl"),
    ("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", "e2e"),
    ("request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", "e2e"),
    ("request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", "e2e"),
    ("request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", "e2e"),
    ("request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", "e2e"),
    ("request_num_preemptions", "Histogram of the number of times a request was preempted.", "preemptions"),
    ("request_prefill_kv_computed_tokens", _COMPUTED, "tokens"),
)
"""(name without `vllm:`, help, which bounds) in the order of the page."""

CACHE_CONFIG = {
    "_block_size_resolved": "True",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "enable_mamba_shared_prefix_checkpoint": "False",
    "gpu_memory_utilization": "0.92",
    "hash_block_size": "None",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_cache_memory_bytes": "None",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "float32",
    "num_cpu_blocks": "None",
    "num_gpu_blocks_override": "None",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "swa_bounded_replay": "True",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "False",
}
"""Labels of `vllm:cache_config_info` that do not depend on the simulated engine."""


def token_bounds(max_model_len: int) -> list[int]:
    """Return bucket bounds of token counts: 1, 2, 5, 10, 20, 50 ... up to the context window."""
    bounds: list[int] = []
    decade = 1
    while True:
        for digit in (1, 2, 5):
            if digit * decade > max_model_len:
                return bounds
            bounds.append(digit * decade)
        decade *= 10
