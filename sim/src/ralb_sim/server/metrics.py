"""The metrics page of vLLM 0.32: same names, labels, types, help and buckets, about 50 KB.

All times are real wall seconds as a scraper sees them, whatever the time scale: a router measures in the same seconds. The
page is rendered from counters kept here plus the engine's state as of the last step boundary, as the real one moves too.
"""

from ralb_sim.config import MetricsDialect, ServerConfig
from ralb_sim.engine import EngineStats, FinishedRequest, StepResult
from ralb_sim.server import dialects, process_metrics
from ralb_sim.server.exposition import Counter, Histogram, head, labels, number
from ralb_sim.server.http_metrics import HttpMetrics
from ralb_sim.server.lora import LoraUse
from ralb_sim.server.metric_names import (
    CACHE_CONFIG,
    E2E_BOUNDS,
    HISTOGRAMS,
    ITERATION_BOUNDS,
    ITL_BOUNDS,
    N_BOUNDS,
    PREEMPTION_BOUNDS,
    TTFT_BOUNDS,
    token_bounds,
)
from ralb_sim.server.ticket import Ticket

_FLOPS = "Estimated number of {} per GPU (for Model Flops Utilization calculations)."
_BY_REASON = (
    "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; "
    "'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all "
    "reasons equals vllm:num_requests_waiting."
)
FINISH_LABELS = ("stop", "length", "abort", "error", "repetition")


class ServerMetrics:
    """Everything the page shows.

    Args:
        config: The server's configuration, for labels and the cache information.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._own = {"engine": "0", "model_name": config.names[0]}
        self._plain = labels(**self._own)
        self.stats = EngineStats()
        self.http = HttpMetrics()
        self.lora = LoraUse(config.adapters, config.max_loras)
        one = (self._plain,)
        by = self._by
        self._flops = [
            Counter(f"vllm:estimated_{what}_per_gpu", _FLOPS.format(text), *one)
            for what, text in (
                ("flops", "floating point operations"),
                ("read_bytes", "bytes read from memory"),
                ("write_bytes", "bytes written to memory"),
            )
        ]  # fmt: skip
        self._prefix_queries = Counter(
            "vllm:prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.", *one
        )
        self._prefix_hits = Counter(
            "vllm:prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", *one
        )
        across = "from KV connector cross-instance cache sharing, in terms of number of"
        self._unused = [
            Counter(
                "vllm:external_prefix_cache_queries", f"External prefix cache queries {across} queried tokens.", *one
            ),
            Counter("vllm:external_prefix_cache_hits", f"External prefix cache hits {across} cached tokens.", *one),
            Counter("vllm:mm_cache_queries", "Multi-modal cache queries, in terms of number of queried items.", *one),
            Counter("vllm:mm_cache_hits", "Multi-modal cache hits, in terms of number of cached items.", *one),
        ]
        self._preemptions = Counter("vllm:num_preemptions", "Cumulative number of preemption from the engine.", *one)
        self._prompt = Counter("vllm:prompt_tokens", "Number of prefill tokens processed.", *one)
        self._by_source = Counter(
            "vllm:prompt_tokens_by_source",
            "Number of prompt tokens by source.",
            *(by(source=source) for source in ("local_compute", "local_cache_hit", "external_kv_transfer")),
        )
        self._cached = Counter("vllm:prompt_tokens_cached", "Number of cached prompt tokens (local + external).", *one)
        self._cached_by = Counter(
            "vllm:prompt_tokens_cached_by_source",
            "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), disk, "
            "p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to "
            "vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.",
            *(by(source=source) for source in ("device", "host", "p2p", "disk", "external_unspecified")),
        )
        self._generated = Counter("vllm:generation_tokens", "Number of generation tokens processed.", *one)
        self._success = Counter(
            "vllm:request_success",
            "Count of successfully processed requests.",
            *(by(finished_reason=reason) for reason in FINISH_LABELS),
        )
        self._rejections = Counter(
            "vllm:admission_rejections",
            "Number of admission attempts rejected by a queue limit, by reason.",
            *(
                labels(model_name=config.names[0], reason=reason)
                for reason in ("max_num_queued_reqs", "max_num_queued_tokens")
            ),
        )
        self._speculative = tuple(
            Counter(f"vllm:spec_decode_num_{what}", f"Number of {text}.", *one)
            for what, text in (
                ("drafts", "spec decoding drafts"),
                ("draft_tokens", "draft tokens"),
                ("accepted_tokens", "accepted tokens"),
            )
        )
        shared = {
            "tokens": token_bounds(config.max_model_len),
            "iteration": ITERATION_BOUNDS,
            "n": N_BOUNDS,
            "ttft": TTFT_BOUNDS,
            "itl": ITL_BOUNDS,
            "e2e": E2E_BOUNDS,
            "preemptions": PREEMPTION_BOUNDS,
        }
        self._histograms = {
            name: Histogram(f"vllm:{name}", text, shared[bounds], **self._own) for name, text, bounds in HISTOGRAMS
        }
        self._cache_info = self._cache_line()

    def _by(self, **more: str) -> str:
        return labels(**self._own, **more)

    def admitted(self, ticket: Ticket, cached: int) -> None:
        """Count a request's first admission to the batch (prefix lookup)."""
        prompt_tokens = ticket.request.prompt_tokens
        self.lora.admitted(ticket.model)
        self._prefix_queries.add(self._plain, prompt_tokens)
        self._prefix_hits.add(self._plain, cached)
        self._cached.add(self._plain, cached)
        self._cached_by.add(self._by(source="device"), cached)

    def step(self, result: StepResult) -> None:
        """Count one engine step."""
        self._histograms["iteration_tokens_total"].observe(result.scheduled_tokens)
        if result.preempted:
            self._preemptions.add(self._plain, len(result.preempted))
        if result.drafts:
            for counter, number_of in zip(
                self._speculative, (result.drafts, result.draft_tokens, sum(result.extra.values())), strict=True
            ):
                counter.add(self._plain, number_of)

    def first_token(self, ticket: Ticket, now: float) -> None:
        """Count a first token: the prompt is now processed."""
        self._prompt_done(ticket)
        self._generated.add(self._plain, 1)
        self._histograms["time_to_first_token_seconds"].observe(max(now - ticket.arrived, 0.0))

    def next_tokens(self, outputs: int, gained: int, gap: float) -> None:
        """Count further tokens of several requests, one output of each, `gap` seconds after their last."""
        self._generated.add(self._plain, gained)
        # As the real one: once for each output, however many tokens a speculating engine put into it.
        self._histograms["inter_token_latency_seconds"].observe(max(gap, 0.0), outputs)

    def finished(self, ticket: Ticket, done: FinishedRequest, now: float) -> None:
        """Count a request that ended by itself."""
        if not ticket.request.output_tokens:
            self._prompt_done(ticket)
        self.lora.left(ticket.model, running=ticket.scheduled is not None)
        self._success.add(self._by(finished_reason="length" if ticket.truncated else "stop"))
        scheduled = ticket.scheduled or now
        first = ticket.first_token or now
        output = ticket.request.output_tokens
        observe = self._observe
        observe("request_prompt_tokens", ticket.request.prompt_tokens)
        observe("request_generation_tokens", output)
        observe("request_max_num_generation_tokens", output)
        observe("request_params_n", ticket.n)
        if ticket.max_tokens is not None:
            observe("request_params_max_tokens", ticket.max_tokens)
        observe("request_time_per_output_token_seconds", (now - first) / (output - 1) if output > 1 else 0.0)
        observe("e2e_request_latency_seconds", now - ticket.arrived)
        observe("request_queue_time_seconds", scheduled - ticket.arrived)
        observe("request_inference_time_seconds", now - scheduled)
        observe("request_prefill_time_seconds", first - scheduled)
        observe("request_decode_time_seconds", now - first)
        observe("request_num_preemptions", done.preemptions)
        observe("request_prefill_kv_computed_tokens", ticket.request.prompt_tokens - done.cached_tokens)

    def aborted(self, ticket: Ticket) -> None:
        """Count a request whose client went away."""
        self.lora.left(ticket.model, running=ticket.scheduled is not None)
        self._success.add(self._by(finished_reason="abort"))

    def rejected(self) -> None:
        """Count a request refused because the queue is full."""
        self._rejections.add(labels(model_name=self._config.names[0], reason="max_num_queued_reqs"))

    def _observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(max(value, 0.0))

    def _prompt_done(self, ticket: Ticket) -> None:
        cached = max(ticket.cached, 0)
        self._prompt.add(self._plain, ticket.request.prompt_tokens)
        self._by_source.add(self._by(source="local_compute"), ticket.request.prompt_tokens - cached)
        self._by_source.add(self._by(source="local_cache_hit"), cached)

    def page(self) -> bytes:
        """Render the page in the configured dialect."""
        match self._config.metrics:
            case MetricsDialect.VLLM:
                return self._page()
            case MetricsDialect.VLLM_OLD:
                return dialects.old_vllm(self._page())
            case MetricsDialect.SGLANG:
                return dialects.sglang(self.totals())
            case MetricsDialect.TENSORRT_LLM:
                return dialects.tensorrt_llm(self.totals())

    def totals(self) -> dialects.Totals:
        """State and counts so far."""
        engine, histograms, stats = self._config.engine, self._histograms, self.stats

        def count(counter: Counter) -> float:
            return sum(counter.values.values())

        drafts, draft_tokens, accepted = map(count, self._speculative)
        return dialects.Totals(
            model=self._config.names[0],
            running=stats.running,
            waiting=stats.waiting,
            kv_usage=stats.kv_usage,
            blocks=engine.kv_tokens // engine.block_size,
            block_size=engine.block_size,
            prompt=count(self._prompt),
            cached=count(self._cached),
            generated=count(self._generated),
            first_tokens=histograms["time_to_first_token_seconds"].count,
            gaps=histograms["inter_token_latency_seconds"].total,
            preemptions=count(self._preemptions),
            finished=histograms["request_time_per_output_token_seconds"].count,
            per_token=histograms["request_time_per_output_token_seconds"].total,
            prefill=histograms["request_prefill_time_seconds"].total,
            drafts=drafts,
            draft_tokens=draft_tokens,
            accepted=accepted,
            speculative=engine.speculative,
        )

    def _page(self) -> bytes:
        out: list[str] = []
        process_metrics.render(out)
        for counter in self._flops:
            counter.render(out)
        self._gauges(out)
        for counter in (
            self._prefix_queries,
            self._prefix_hits,
            *self._unused,
            self._preemptions,
            self._prompt,
            self._by_source,
        ):
            counter.render(out)
        for counter in (self._cached, self._cached_by, self._generated, self._success, self._rejections):
            counter.render(out)
        for histogram in self._histograms.values():
            histogram.render(out)
        out.append(self._cache_info)
        if self._config.engine.speculative:
            for counter in self._speculative:
                counter.render(out)
        self.lora.render(out)
        self.http.render(out)
        return "".join(out).encode()

    def _gauges(self, out: list[str]) -> None:
        stats, plain, by = self.stats, self._plain, self._by
        out.append(head("vllm:num_requests_running", "Number of requests in model execution batches.", "gauge"))
        out.append(f"vllm:num_requests_running{plain} {number(stats.running)}\n")
        out.append(head("vllm:num_requests_waiting", "Number of requests waiting to be processed.", "gauge"))
        out.append(f"vllm:num_requests_waiting{plain} {number(stats.waiting)}\n")
        name = "vllm:num_requests_waiting_by_reason"
        out.append(head(name, _BY_REASON, "gauge"))
        out.append(f"{name}{by(reason='capacity')} {number(stats.waiting)}\n{name}{by(reason='deferred')} 0.0\n")
        name = "vllm:engine_sleep_state"
        out.append(head(name, "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; "
                        "weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.", "gauge"))  # fmt: skip
        for state, value in (("awake", 1), ("weights_offloaded", 0), ("discard_all", 0)):
            out.append(f"{name}{by(sleep_state=state)} {number(value)}\n")
        out.append(head("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", "gauge"))
        out.append(f"vllm:kv_cache_usage_perc{plain} {number(stats.kv_usage)}\n")

    def _cache_line(self) -> str:
        engine = self._config.engine
        blocks = engine.kv_tokens // engine.block_size
        values = dict(
            CACHE_CONFIG,
            engine="0",
            block_size=str(engine.block_size),
            effective_attention_block_size=str(engine.block_size),
            enable_prefix_caching=str(engine.prefix_caching),
            kv_cache_max_concurrency=number(blocks * engine.block_size / self._config.max_model_len),
            kv_cache_size_tokens=str(blocks * engine.block_size),
            num_gpu_blocks=str(blocks),
        )
        name = "vllm:cache_config_info"
        return head(name, "Information of the LLMEngine CacheConfig", "gauge") + f"{name}{labels(**values)} 1.0\n"


def orca_header(stats: EngineStats, wanted: str) -> str | None:
    """Return the `endpoint-load-metrics` value in the form a client asked for, or None for an unknown form."""
    waiting, usage = repr(float(stats.waiting)), repr(float(stats.kv_usage))
    match wanted.strip().upper():
        case "JSON":
            return f'JSON {{"named_metrics": {{"num_requests_waiting": {waiting}, "kv_cache_usage_perc": {usage}}}}}'
        case "TEXT":
            return f"TEXT named_metrics.num_requests_waiting={waiting}, named_metrics.kv_cache_usage_perc={usage}"
        case _:
            return None
