"""Pages in the style of each engine's real ones, with the neighbours that are easily taken for what is wanted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ralb.v1.snapshot_pb2 import Engine
from ralb_extproc.metrics import SGLANG, TENSORRT_LLM, VLLM, dialect, parse
from ralb_extproc.metrics.exposition import MAX_SAMPLES
from ralb_extproc.place import PodSample

DIALECTS = (VLLM, SGLANG, TENSORRT_LLM)
NUMBERS = [
    name
    for name in PodSample.__dataclass_fields__
    if name not in ("started", "adapters", "adapter_room", "missing", "unusable")
]

NEW = b"""\
vllm:num_requests_running{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 70.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="deferred"} 71.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
vllm:external_prefix_cache_queries_total{engine="0",model_name="m"} 72.0
vllm:mm_cache_queries_total{engine="0",model_name="m"} 73.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 400.0
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e+09
vllm:prompt_tokens_total{engine="0",model_name="m"} 1000.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_compute"} 74.0
vllm:prompt_tokens_cached_total{engine="0",model_name="m"} 75.0
vllm:generation_tokens_total{engine="0",model_name="m"} 500.0
vllm:request_generation_tokens_sum{engine="0",model_name="m"} 76.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 77.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 78.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 20.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 79.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf",model_name="m"} 240.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 240.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 4.8
vllm:request_time_per_output_token_seconds_count{engine="0",model_name="m"} 80.0
vllm:request_time_per_output_token_seconds_sum{engine="0",model_name="m"} 81.0
vllm:request_prefill_time_seconds_count{engine="0",model_name="m"} 16.0
vllm:request_prefill_time_seconds_sum{engine="0",model_name="m"} 2.5
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 240.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 720.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 240.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 82.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="b,a",waiting_lora_adapters="c"} 1700000001.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1700000000.0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000"} 1.0
"""
VLLM_SAMPLE = PodSample(
    0.0,
    waiting=3,
    running=4,
    kv_usage=0.25,
    kv_capacity=16000,
    prefix_queries=1000,
    prefix_hits=400,
    preemptions=2,
    prompt_tokens=1000,
    generation_tokens=500,
    first_tokens=20,
    itl_seconds=4.8,
    itl_steps=240,
    prefill_seconds=2.5,
    prefill_count=16,
    spec_drafts=240,
    spec_draft_tokens=720,
    spec_accepted=240,
    adapters=("a", "b", "c"),
    adapter_room=4,
)


def test_vllm():
    assert parse(NEW, VLLM, 0.0) == VLLM_SAMPLE


def test_vllm_of_old():
    page = (
        NEW.replace(b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
        .replace(b"vllm:prefix_cache_", b"vllm:gpu_prefix_cache_")
        .replace(b"vllm:inter_token_latency_seconds", b"vllm:time_per_output_token_seconds")
        .replace(b"vllm:request_time_per_output_token_seconds", b"vllm:request_x")
    )
    page += b"vllm:num_requests_swapped 5.0\nvllm:cpu_cache_usage_perc 0.9\nvllm:gpu_prefix_cache_hit_rate 0.1\n"
    assert parse(page, VLLM, 0.0) == VLLM_SAMPLE


def test_the_present_name_counts_where_a_page_has_both():
    page = b"vllm:gpu_cache_usage_perc 0.9\n" + NEW
    assert parse(page, VLLM, 0.0).kv_usage == 0.25


@pytest.mark.parametrize("series", [series.name for series in VLLM.series if not series.name.startswith(b"vllm:gpu")])
def test_a_longer_or_shorter_name_is_another_series(series):
    for other in (series + b"_by_reason", series + b"x", b"x" + series, series[:-1], series.upper()):
        sample = parse(other + b'{engine="0"} 5.0\n' + other + b" 6.0\n", VLLM, 0.0)
        assert all(getattr(sample, name) is None for name in NUMBERS), other
        assert sample.adapters == ()


def engines(*usages, sizes=None):
    lines = []
    for number, usage in enumerate(usages):
        label = b'engine="%d",model_name="m"' % number
        lines += [b"vllm:num_requests_running{%s} %d" % (label, number), b"vllm:num_requests_waiting{%s} 1" % label]
        lines += [b"vllm:kv_cache_usage_perc{%s} %f" % (label, usage), b"vllm:generation_tokens_total{%s} 100" % label]
        lines += [b"vllm:inter_token_latency_seconds_sum{%s} 0.5" % label]
        if sizes:
            lines.append(
                b'vllm:cache_config_info{block_size="16",engine="%d",num_gpu_blocks="%d"} 1' % (number, sizes[number])
            )
    return b"\n".join(lines) + b"\n"


def test_data_parallel_engines_are_one_pod():
    got = parse(engines(0.1, 0.3, 0.8), VLLM, 0.0)
    assert (got.running, got.waiting, got.generation_tokens, got.itl_seconds) == (3, 3, 300, 1.5)
    assert got.kv_usage == pytest.approx(0.4)


def test_use_of_engines_of_different_size_is_weighted():
    got = parse(engines(0.1, 0.9, sizes=(100, 300)), VLLM, 0.0)
    assert got.kv_capacity == 6400
    assert got.kv_usage == pytest.approx(0.25 * 0.1 + 0.75 * 0.9)


def test_where_one_engine_does_not_tell_its_size_all_count_alike():
    page = engines(0.1, 0.9, sizes=(100, 300)).replace(b'engine="1",num_gpu_blocks', b'engine="7",num_gpu_blocks')
    assert parse(page, VLLM, 0.0).kv_usage == pytest.approx(0.5)


SGLANG_PAGE = b"""\
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 5.0
sglang:num_running_reqs{dp_rank="1",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="1"} 7.0
sglang:num_queue_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 6.0
sglang:num_queue_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="1",tp_rank="0"} 4.0
sglang:num_queue_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="2",tp_rank="0"} 2.0
sglang:num_queue_reqs{dp_rank="1",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="1"} 1.0
sglang:num_grammar_queue_reqs{dp_rank="0",model_name="m"} 90.0
sglang:num_prefill_inflight_queue_reqs{dp_rank="0",model_name="m"} 91.0
sglang:token_usage{dp_rank="0",model_name="m",tp_rank="0"} 0.2
sglang:token_usage{dp_rank="1",model_name="m",tp_rank="1"} 0.4
sglang:swa_token_usage{dp_rank="0",model_name="m"} 0.92
sglang:max_total_num_tokens{dp_rank="0",model_name="m",tp_rank="0"} 1000.0
sglang:max_total_num_tokens{dp_rank="1",model_name="m",tp_rank="1"} 3000.0
sglang:gen_throughput{dp_rank="0",model_name="m",tp_rank="0"} 100.0
sglang:gen_throughput{dp_rank="1",model_name="m",tp_rank="1"} 200.0
sglang:spec_accept_length{dp_rank="0",model_name="m",tp_rank="0"} 3.0
sglang:spec_accept_length{dp_rank="1",model_name="m",tp_rank="1"} 2.0
sglang:spec_accept_rate{dp_rank="0",model_name="m"} 0.9
sglang:num_retracted_reqs{dp_rank="0",model_name="m"} 93.0
sglang:num_retracted_requests_total{dp_rank="0",model_name="m",tp_rank="0"} 2.0
sglang:realtime_tokens_total{dp_rank="0",mode="prefill_compute",model_name="m",tp_rank="0"} 94.0
sglang:realtime_tokens_total{dp_rank="0",mode="decode",model_name="m",tp_rank="0"} 300.0
sglang:realtime_tokens_total{dp_rank="1",mode="decode",model_name="m",tp_rank="1"} 400.0
sglang:prompt_tokens_total{model_name="m"} 100.0
sglang:generation_tokens_total{model_name="m"} 650.0
sglang:cached_tokens_total{cache_source="device",model_name="m"} 30.0
sglang:cached_tokens_total{cache_source="host",model_name="m"} 10.0
sglang:inter_token_latency_seconds_bucket{le="+Inf",model_name="m"} 600.0
sglang:inter_token_latency_seconds_count{model_name="m"} 600.0
sglang:inter_token_latency_seconds_sum{model_name="m"} 9.0
sglang:e2e_request_latency_seconds_sum{model_name="m"} 95.0
"""
SGLANG_SAMPLE = PodSample(
    0.0,
    running=12,
    waiting=7,
    kv_usage=pytest.approx(0.25 * 0.2 + 0.75 * 0.4),
    kv_capacity=4000,
    prefix_queries=100,
    prefix_hits=40,
    preemptions=2,
    prompt_tokens=100,
    generation_tokens=700,
    generation_rate=300,
    itl_seconds=9.0,
    itl_tokens=600,
    acceptance=2.25,
)


def test_sglang():
    assert parse(SGLANG_PAGE, SGLANG, 0.0) == SGLANG_SAMPLE


def test_sglang_with_every_tensor_parallel_rank_on_the_page():
    # --enable-metrics-for-all-schedulers: the same gauges from each rank of a data-parallel engine.
    lines = SGLANG_PAGE.splitlines(keepends=True)
    more = [line.replace(b'tp_rank="0"', b'tp_rank="2"') for line in lines if b'tp_rank="0"' in line]
    assert parse(b"".join([*lines, *more]), SGLANG, 0.0) == SGLANG_SAMPLE


def test_sglang_of_old_and_without_speculation():
    page = (
        b"\n".join(
            line
            for line in SGLANG_PAGE.replace(b"inter_token_latency", b"time_per_output_token").splitlines()
            if b"realtime" not in line and b"gen_throughput" not in line
        )
        .replace(b"} 3.0", b"} 0.0")
        .replace(b"} 2.0", b"} 0.0")
    )
    got = parse(page, SGLANG, 0.0)
    assert (got.itl_seconds, got.itl_tokens, got.generation_tokens, got.generation_rate) == (9, 600, 650, None)
    assert got.acceptance is None
    assert got.missing == ()


TRTLLM_PAGE = b"""\
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 5.0
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 6.0
trtllm_num_requests_completed_total{engine_type="trtllm",model_name="m"} 90.0
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.5
trtllm_kv_cache_host_utilization{engine_type="trtllm",model_name="m"} 0.9
trtllm_kv_cache_max_blocks{engine_type="trtllm",model_name="m"} 100.0
trtllm_kv_cache_tokens_per_block{engine_type="trtllm",model_name="m"} 32.0
trtllm_prompt_tokens_total{engine_type="trtllm",model_name="m"} 1000.0
trtllm_prompt_cached_tokens_total{engine_type="trtllm",model_name="m"} 250.0
trtllm_prompt_cached_tokens_per_request_sum{engine_type="trtllm",model_name="m"} 91.0
trtllm_generation_tokens_total{engine_type="trtllm",model_name="m"} 400.0
trtllm_time_per_output_token_seconds_count{engine_type="trtllm",model_name="m"} 10.0
trtllm_time_per_output_token_seconds_sum{engine_type="trtllm",model_name="m"} 0.2
trtllm_request_prefill_time_seconds_count{engine_type="trtllm",model_name="m"} 10.0
trtllm_request_prefill_time_seconds_sum{engine_type="trtllm",model_name="m"} 3.0
trtllm_spec_decode_acceptance_length{engine_type="trtllm",model_name="m"} 2.5
trtllm_spec_decode_num_draft_tokens_total{engine_type="trtllm",model_name="m"} 30.0
trtllm_spec_decode_num_accepted_tokens_total{engine_type="trtllm",model_name="m"} 15.0
trtllm_spec_decode_accepted_tokens_total{engine_type="trtllm",model_name="m",token_position="0"} 92.0
"""
TRITON_PAGE = b"""\
# HELP nv_trt_llm_request_metrics TRT LLM request metrics
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 90
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 4
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 91
nv_trt_llm_runtime_memory_metrics{memory_type="gpu",model="tensorrt_llm",version="1"} 1610236
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.4875
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 1
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free",model="tensorrt_llm",version="1"} 6239
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 6239
nv_inference_pending_request_count{model="tensorrt_llm",version="1"} 92
"""


def test_trtllm_serve():
    assert parse(TRTLLM_PAGE, TENSORRT_LLM, 0.0) == PodSample(
        0.0,
        running=5,
        waiting=6,
        kv_usage=0.5,
        kv_capacity=3200,
        prefix_queries=1000,
        prefix_hits=250,
        prompt_tokens=1000,
        generation_tokens=400,
        itl_seconds=0.2,
        itl_tokens=10,
        prefill_seconds=3.0,
        prefill_count=10,
        spec_draft_tokens=30,
        spec_accepted=15,
        acceptance=2.5,
    )


def test_triton_with_tensorrt_llm():
    assert parse(TRITON_PAGE, TENSORRT_LLM, 0.0) == PodSample(
        0.0, waiting=3, running=4, kv_usage=0.4875, kv_capacity=64 * 6239
    )


def test_a_label_is_chosen_by_name_and_value_not_by_text():
    page = TRITON_PAGE.replace(
        b'model="tensorrt_llm",request_type="waiting"',
        b'model="a",note="request_type=\\"waiting\\"",my_request_type="waiting"',
    )
    assert parse(page, TENSORRT_LLM, 0.0).waiting is None


def test_each_engine_misses_what_another_has():
    for known, page in ((VLLM, SGLANG_PAGE), (SGLANG, TRTLLM_PAGE), (TENSORRT_LLM, NEW)):
        assert parse(page, known, 0.0).missing == tuple(known.needed.values())


def test_engines():
    assert dialect(Engine.ENGINE_VLLM) is VLLM
    assert dialect(Engine.ENGINE_SGLANG) is SGLANG
    assert dialect(Engine.ENGINE_TENSORRT_LLM) is TENSORRT_LLM
    assert dialect(Engine.ENGINE_GENERIC) is None
    assert dialect(Engine.ENGINE_UNSPECIFIED) is None


def test_engines_said_to_speculate_must_tell_how_well():
    speculating = dialect(Engine.ENGINE_VLLM, speculating=True)
    assert parse(NEW, speculating, 0.0).missing == ()
    page = NEW.replace(b"vllm:spec_decode_num_accepted_tokens_total", b"vllm:spec_decode_x")
    assert parse(page, speculating, 0.0).missing == ("vllm:spec_decode_num_accepted_tokens_total",)
    assert parse(page, VLLM, 0.0).missing == ()


def test_values_that_cannot_be_are_counted():
    page = NEW.replace(b'num_preemptions_total{engine="0",model_name="m"} 2.0', b"num_preemptions_total NaN")
    page = page.replace(b"} 0.25", b"} 25").replace(b"} 4.8", b"} -4.8")
    got = parse(page, VLLM, 0.0)
    assert (got.preemptions, got.kv_usage, got.itl_seconds, got.unusable) == (None, None, None, 3)


def test_one_bad_engine_spoils_the_sum():
    page = engines(0.1, 0.3).replace(
        b'generation_tokens_total{engine="1",model_name="m"} 100', b"generation_tokens_total NaN"
    )
    got = parse(page, VLLM, 0.0)
    assert (got.generation_tokens, got.running) == (None, 1)


def test_a_page_of_nothing_but_samples_is_cut():
    page = b"vllm:num_requests_running{} 1\n" * (MAX_SAMPLES + 100) + b"vllm:num_requests_waiting 1\n"
    got = parse(page, VLLM, 0.0)
    assert got.waiting is None


NAMES = sorted(set().union(*(known.names for known in DIALECTS)))
VALUES = st.sampled_from(
    [b"1", b"0", b"NaN", b"-1", b"1e308", b"+Inf", b"", b"x", b"1 1700000000", b"\t2", b"0.5", b"\xff", b"9" * 50, b"{"]
)
LABELS = st.sampled_from(
    [
        *(b"", b"{}", b"{", b"}{", b'{a="\\"}', b'{engine="0"}', b'{engine="1",dp_rank="2"}', b'{mode="decode"}'),
        *(b'{request_type="waiting"}', b'{kv_cache_block_type="max"}', b'{block_size="16",num_gpu_blocks="10"}'),
        b'{max_lora="9",running_lora_adapters="a,b"}',
    ]
)
LINES = st.builds(
    lambda *parts: b"".join(parts), st.sampled_from([*NAMES, b"# HELP x", b"y", b" "]), LABELS, st.just(b" "), VALUES
)
PAGES = st.lists(LINES | st.binary(max_size=60), max_size=25).map(b"\n".join)


@given(PAGES, st.sampled_from(DIALECTS))
def test_any_page_gives_finite_numbers_or_none(page, known):
    got = parse(page, known, 1.0)
    for name in NUMBERS:
        value = getattr(got, name)
        assert value is None or (math.isfinite(value) and value >= 0.0), name
    assert got.kv_usage is None or got.kv_usage <= 1.0
    assert got.acceptance is None or got.acceptance >= 1.0
    assert set(got.missing) == {series for field, series in known.needed.items() if getattr(got, field) is None}


@given(PAGES, st.sampled_from(DIALECTS))
def test_other_lines_change_nothing(page, known):
    noise = b"\n".join(b'%s_other{engine="0"} 7\n# %s 8\nx%s 9' % (name, name, name) for name in known.names)
    assert parse(noise + b"\n" + page, known, 1.0) == parse(page, known, 1.0)


@given(st.sampled_from(DIALECTS), st.data())
def test_names_are_found_whole(known, data):
    name = data.draw(st.sampled_from(sorted(known.names)))
    assert known.pattern.search(b"\n" + name + b" 1")[1] == name
    assert known.pattern.search(b"\n" + name + b"{} 1")[1] == name
    tail = data.draw(st.sampled_from([b"_", b"x", b":", b"1", b"\n", b"."]))
    found = known.pattern.search(b"\n" + name + tail + b" 1")
    assert found is None or found[1] != name
