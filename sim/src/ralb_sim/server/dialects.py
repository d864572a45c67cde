"""The metrics pages of other engines, and of older vLLM, from the same counters: for trying readers against them.

Small pages with the series that routers read, under the names, labels and kinds of the real ones. What an engine does not export
is left out here too. The trap is the inter-token latency: vLLM's has one entry for each output of a sequence, SGLang's one per
token, and TensorRT-LLM's one per finished request.
"""

from dataclasses import dataclass

from ralb_sim.server.exposition import head, labels, number

_OLD_NAMES = (
    (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc"),
    (b"vllm:prefix_cache_", b"vllm:gpu_prefix_cache_"),
    (b"vllm:inter_token_latency_seconds", b"vllm:time_per_output_token_seconds"),
)


@dataclass(frozen=True, slots=True)
class Totals:
    """A server's state and counts since it started; times in seconds.

    Attributes:
        model: Served name.
        running / waiting: Requests in the batch and queued.
        kv_usage: Referenced share of the KV cache, 0..1.
        blocks / block_size: The KV cache, and tokens per block.
        prompt / cached / generated: Tokens of prompts, those found in the prefix cache, and of answers.
        first_tokens: Answers begun.
        gaps: Sum of the times between outputs of a sequence.
        preemptions: Requests pre-empted.
        finished: Requests that ended, and sums over them.
        per_token: Sum of their mean times per output token.
        prefill: Sum of their times from being scheduled to the first token.
        drafts / draft_tokens / accepted: Of speculation.
        speculative: Tokens drafted per step, 0 = none.
    """

    model: str
    running: int
    waiting: int
    kv_usage: float
    blocks: int
    block_size: int
    prompt: float
    cached: float
    generated: float
    first_tokens: int
    gaps: float
    preemptions: float
    finished: int
    per_token: float
    prefill: float
    drafts: float
    draft_tokens: float
    accepted: float
    speculative: int


def old_vllm(page: bytes) -> bytes:
    """A page under the names of early V1."""
    for new, old in _OLD_NAMES:
        page = page.replace(new, old)
    return page


class _Page:
    def __init__(self, **common: str) -> None:
        self._common = common
        self._out: list[str] = []

    def add(self, name: str, kind: str, value: float, **more: str) -> None:
        if not any(text.startswith(f"# HELP {name} ") for text in self._out):
            self._out.append(head(name, name, kind))
        self._out.append(f"{name}{labels(**self._common, **more)} {number(value)}\n")

    def histogram(self, name: str, total: float, count: float) -> None:
        self._out.append(head(name, name, "histogram"))
        for end, value in (("_bucket", count), ("_count", count), ("_sum", total)):
            more = {"le": "+Inf"} if end == "_bucket" else {}
            self._out.append(f"{name}{end}{labels(**self._common, **more)} {number(value)}\n")

    def bytes(self) -> bytes:
        return "".join(self._out).encode()


def sglang(now: Totals) -> bytes:
    """SGLang's page, of one tensor-parallel rank."""
    page = _Page(model_name=now.model, engine_type="unified")
    rank = {"tp_rank": "0", "pp_rank": "0", "dp_rank": "0"}
    accepted = 1 + now.accepted / now.drafts if now.drafts else 0.0
    for name, value in (
        ("num_running_reqs", now.running),
        ("num_queue_reqs", now.waiting),
        ("token_usage", now.kv_usage),
        ("max_total_num_tokens", now.blocks * now.block_size),
        ("spec_accept_length", accepted if now.speculative else 0.0),
    ):
        page.add(f"sglang:{name}", "gauge", value, **rank)
    page.add("sglang:num_retracted_requests_total", "counter", now.preemptions, **rank)
    for mode, value in (
        ("prefill_compute", now.prompt - now.cached),
        ("prefill_cache", now.cached),
        ("decode", now.generated),
    ):
        page.add("sglang:realtime_tokens_total", "counter", value, mode=mode, **rank)
    page.add("sglang:prompt_tokens_total", "counter", now.prompt)
    page.add("sglang:generation_tokens_total", "counter", now.generated)
    page.add("sglang:cached_tokens_total", "counter", now.cached, cache_source="device")
    page.histogram("sglang:inter_token_latency_seconds", now.gaps, now.generated - now.first_tokens)
    return page.bytes()


def tensorrt_llm(now: Totals) -> bytes:
    """The page of trtllm-serve with statistics of iterations and requests switched on."""
    page = _Page(model_name=now.model, engine_type="trtllm")
    for name, value in (
        ("num_requests_running", now.running),
        ("num_requests_waiting", now.waiting),
        ("kv_cache_utilization", now.kv_usage),
        ("kv_cache_max_blocks", now.blocks),
        ("kv_cache_tokens_per_block", now.block_size),
    ):
        page.add(f"trtllm_{name}", "gauge", value)
    if now.speculative:
        if now.drafts:
            page.add("trtllm_spec_decode_acceptance_length", "gauge", 1 + now.accepted / now.drafts)
        page.add("trtllm_spec_decode_num_draft_tokens_total", "counter", now.draft_tokens)
        page.add("trtllm_spec_decode_num_accepted_tokens_total", "counter", now.accepted)
    page.add("trtllm_prompt_tokens_total", "counter", now.prompt)
    page.add("trtllm_generation_tokens_total", "counter", now.generated)
    page.add("trtllm_prompt_cached_tokens_total", "counter", now.cached)
    page.histogram("trtllm_time_per_output_token_seconds", now.per_token, now.finished)
    page.histogram("trtllm_request_prefill_time_seconds", now.prefill, now.finished)
    return page.bytes()
