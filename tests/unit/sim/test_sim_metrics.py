"""The metrics page: every name a router or a dashboard reads, true values, quick to render."""

import time
from typing import Any

import pytest

from ralb_sim.server.exposition import Counter, Histogram, labels, number
from ralb_sim.server.metric_names import token_bounds

from .conftest import Pod, StartPod

CHAT = "/v1/chat/completions"
NEEDED = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:num_requests_waiting_by_reason": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:engine_sleep_state": "gauge",
    "vllm:cache_config_info": "gauge",
    "vllm:prefix_cache_queries_total": "counter",
    "vllm:prefix_cache_hits_total": "counter",
    "vllm:external_prefix_cache_queries_total": "counter",
    "vllm:external_prefix_cache_hits_total": "counter",
    "vllm:mm_cache_queries_total": "counter",
    "vllm:mm_cache_hits_total": "counter",
    "vllm:num_preemptions_total": "counter",
    "vllm:prompt_tokens_total": "counter",
    "vllm:prompt_tokens_by_source_total": "counter",
    "vllm:prompt_tokens_cached_total": "counter",
    "vllm:generation_tokens_total": "counter",
    "vllm:request_success_total": "counter",
    "vllm:admission_rejections_total": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:request_time_per_output_token_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_inference_time_seconds": "histogram",
    "vllm:request_prefill_time_seconds": "histogram",
    "vllm:request_decode_time_seconds": "histogram",
    "vllm:request_prompt_tokens": "histogram",
    "vllm:request_generation_tokens": "histogram",
    "vllm:request_max_num_generation_tokens": "histogram",
    "vllm:request_params_n": "histogram",
    "vllm:request_params_max_tokens": "histogram",
    "vllm:request_prefill_kv_computed_tokens": "histogram",
    "vllm:iteration_tokens_total": "histogram",
    "process_start_time_seconds": "gauge",
    "http_requests_total": "counter",
}


def families(page: str) -> dict[str, str]:
    """Return the type of every family, checking that each is announced once, with help, before its samples."""
    types: dict[str, str] = {}
    helped: set[str] = set()
    for line in page.splitlines():
        word = line.split(" ")
        if line.startswith("# HELP "):
            assert word[2] not in helped, word[2]
            helped.add(word[2])
        elif line.startswith("# TYPE "):
            assert word[2] in helped
            types[word[2]] = word[3]
        else:
            name = line.split("{")[0].split(" ")[0]
            base = [name, *(name.removesuffix(end) for end in ("_bucket", "_count", "_sum"))]
            assert any(one in types for one in base), name
            float(word[-1])
    return types


async def test_page_has_every_needed_family(pod: Pod) -> None:
    await pod.post(CHAT, {"messages": [], "max_tokens": 3})
    _status, page = await pod.get("/metrics")
    types = families(page.decode())
    assert {name: types.get(name) for name in NEEDED} == NEEDED
    assert all(f"{name.removesuffix('_total')}_created" in types for name, kind in NEEDED.items() if kind == "counter")
    assert 35_000 < len(page) < 70_000


async def test_counts_follow_requests(pod: Pod) -> None:
    body = {"messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 7, "min_tokens": 7}
    _status, first, _headers = await pod.post(CHAT, body)
    await pod.post(CHAT, body)
    prompt = first["usage"]["prompt_tokens"]
    cached = (prompt - 1) // 16 * 16
    metric = pod.metric
    assert await metric("vllm:prompt_tokens_total") == 2 * prompt
    assert await metric("vllm:generation_tokens_total") == 14
    assert await metric("vllm:prefix_cache_queries_total") == 2 * prompt
    assert await metric("vllm:prefix_cache_hits_total") == cached
    assert await metric("vllm:prompt_tokens_cached_total") == cached
    assert await metric("vllm:prompt_tokens_by_source_total", source="local_cache_hit") == cached
    assert await metric("vllm:prompt_tokens_by_source_total", source="local_compute") == 2 * prompt - cached
    assert await metric("vllm:request_success_total", finished_reason="length") == 2
    assert await metric("vllm:time_to_first_token_seconds_count") == 2
    assert await metric("vllm:inter_token_latency_seconds_count") == 12
    assert await metric("vllm:e2e_request_latency_seconds_count") == 2
    assert await metric("vllm:request_prompt_tokens_sum") == 2 * prompt
    assert await metric("vllm:request_params_max_tokens_sum") == 14
    assert await metric("vllm:request_prefill_kv_computed_tokens_sum") == 2 * prompt - cached
    assert await metric("http_requests_total", handler=CHAT, status="2xx") == 2
    assert await metric("vllm:num_requests_running") == 0
    # One step for each prefill and each further token: the sum of a histogram of tokens per step.
    assert await metric("vllm:iteration_tokens_total_sum") == 2 * prompt - cached + 12


async def test_gauges_show_running_waiting_and_usage(
    start_pod: StartPod, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pod = await start_pod(max_num_seqs=2, kv_tokens=8192, time_scale=1.0)
    held = [
        await pod.session.post(
            CHAT, json={"messages": [], "max_tokens": 4000, "ignore_eos": True, "stream": True, "seed": seed}
        )
        for seed in range(5)
    ]
    # The first step ends with one running and what came meanwhile waiting; the second one takes the batch to its limit.
    await until(lambda: (pod.service.metrics.stats.running, pod.service.metrics.stats.waiting) == (2, 3))
    assert await pod.metric("vllm:num_requests_running") == 2
    assert await pod.metric("vllm:num_requests_waiting") == 3
    assert await pod.metric("vllm:num_requests_waiting_by_reason", reason="capacity") == 3
    assert 0 < await pod.metric("vllm:kv_cache_usage_perc") < 1
    assert await pod.metric("vllm:cache_config_info", num_gpu_blocks="512", block_size="16") == 1
    for response in held:
        response.close()
    await until(lambda: pod.service.metrics.stats.running == 0)
    assert caplog.records == []


async def test_preemptions_are_counted(start_pod: StartPod) -> None:
    pod = await start_pod(kv_tokens=512, max_model_len=512, time_scale=0.001)
    body = {"messages": [], "max_tokens": 300, "ignore_eos": True, "n": 3}
    status, answer, _headers = await pod.post(CHAT, body)
    assert (status, answer["usage"]["completion_tokens"]) == (200, 900)
    assert await pod.metric("vllm:num_preemptions_total") > 0
    assert await pod.metric("vllm:request_num_preemptions_sum") > 0


async def test_times_are_real_seconds_under_a_time_scale(start_pod: StartPod) -> None:
    pod = await start_pod(time_scale=0.1)
    begin = time.monotonic()
    await pod.post(CHAT, {"messages": [], "max_tokens": 50, "ignore_eos": True})
    took = time.monotonic() - begin
    reported = await pod.metric("vllm:e2e_request_latency_seconds_sum")
    # 50 decode steps of 9.1 ms, ten times faster; a busy machine only makes the wall time longer.
    assert 0.04 < reported <= took + 0.005


async def test_unknown_paths_make_no_series(pod: Pod) -> None:
    for number_of in range(5):
        await pod.get(f"/random-{number_of}")
    _status, page = await pod.get("/metrics")
    assert b"random" not in page


async def test_rendering_is_quick(pod: Pod) -> None:
    await pod.post(CHAT, {"messages": [], "max_tokens": 3})
    best = min(_timed(pod) for _ in range(20))
    assert best < 0.01


def _timed(pod: Pod) -> float:
    begin = time.perf_counter()
    pod.service.metrics.page()
    return time.perf_counter() - begin


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0"),
        (0.005, "0.005"),
        (123456.0, "123456.0"),
        (1_000_000.0, "1e+06"),
        (2215026688.0, "2.215026688e+09"),
        (1795188966.4679947, "1.7951889664679947e+09"),
        (1e22, "1e+22"),
        (1e-7, "1e-07"),
        (float("inf"), "+Inf"),
        (-5, "-5.0"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
    assert float(text) == value


def test_labels_are_sorted_and_escaped() -> None:
    assert labels(b='a"\\\n', a="x") == '{a="x",b="a\\"\\\\\\n"}'
    assert labels() == ""


def test_histogram_buckets_are_cumulative_and_inclusive() -> None:
    histogram = Histogram("h", "Help.", (1, 2), x="y")
    for value in (0.5, 1, 1.5, 9):
        histogram.observe(value)
    out: list[str] = []
    histogram.render(out)
    lines = "".join(out).splitlines()
    assert lines[2:7] == [
        'h_bucket{le="1.0",x="y"} 2.0',
        'h_bucket{le="2.0",x="y"} 3.0',
        'h_bucket{le="+Inf",x="y"} 4.0',
        'h_count{x="y"} 4.0',
        'h_sum{x="y"} 12.0',
    ]


def test_counter_renders_total_and_created() -> None:
    counter = Counter("c", "Help.", "")
    counter.add("", 3)
    out: list[str] = []
    counter.render(out)
    lines = "".join(out).splitlines()
    assert lines[:4] == ["# HELP c_total Help.", "# TYPE c_total counter", "c_total 3.0", "# HELP c_created Help."]


def test_token_bounds_end_at_the_context_window() -> None:
    assert token_bounds(4096) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    assert token_bounds(5000)[-1] == 5000
