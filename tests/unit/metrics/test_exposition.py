import os
from pathlib import Path

import pytest

from ralb_extproc.metrics import SGLANG, VLLM, parse
from ralb_extproc.metrics.exposition import MAX_ADAPTERS, MAX_LABEL_SETS

PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 4.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 99.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 18381.0
vllm:prefix_cache_queries_created{engine="0",model_name="tiny"} 1.79e+09
vllm:external_prefix_cache_queries_total{engine="0",model_name="tiny"} 7.0
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 3584.0
vllm:num_preemptions_total{engine="0",model_name="tiny"} 2.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="b,a",waiting_lora_adapters="c"} 1700000001.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1700000000.0
vllm:cache_config_info{_block_size="9",block_size="16",hash_block_size="7",num_gpu_blocks="1000",num_gpu_blocks_x="5"} 1.0
"""


def test_a_page():
    got = parse(PAGE, VLLM, 12.5)
    assert (got.started, got.waiting, got.running, got.kv_usage, got.kv_capacity) == (12.5, 3, 4, 0.25, 16000)
    assert (got.prefix_queries, got.prefix_hits, got.preemptions) == (18381, 3584, 2)
    assert got.adapters == ("a", "b", "c")
    assert got.missing == ()
    assert got.tells_load


def replaced(old, new):
    assert old in PAGE
    return parse(PAGE.replace(old, new), VLLM, 0.0)


def test_old_names():
    got = replaced(b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
    assert (got.kv_usage, got.missing) == (0.25, ())
    got = replaced(b"vllm:prefix_cache_queries_total", b"vllm:gpu_prefix_cache_queries_total")
    assert got.prefix_queries == 18381


def test_a_renamed_series_is_missing_not_zero():
    got = replaced(b"vllm:num_requests_waiting{", b"vllm:num_requests_queued{")
    assert got.waiting is None
    assert got.missing == ("vllm:num_requests_waiting",)
    assert not got.tells_load


def test_empty_page_misses_everything():
    got = parse(b"", VLLM, 0.0)
    assert len(got.missing) == 3


def test_data_parallel_engines():
    page = b"".join(
        b'vllm:num_requests_waiting{engine="%d"} %d\nvllm:num_requests_running{engine="%d"} 1\n'
        b'vllm:kv_cache_usage_perc{engine="%d"} 0.%d\nvllm:cache_config_info{block_size="16",num_gpu_blocks="10"} 1\n'
        % (i, i, i, i, 2 * i)
        for i in range(4)
    )
    got = parse(page, VLLM, 0.0)
    assert (got.waiting, got.running, got.kv_capacity) == (6, 4, 640)
    assert got.kv_usage == pytest.approx((0 + 0.2 + 0.4 + 0.6) / 4)


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"-1", b"1e400", b"0x10", b"1_0", b"", b"four", b"1" * 40])
def test_impossible_values_are_missing(value):
    got = replaced(
        b'vllm:num_requests_running{engine="0",model_name="tiny"} 4.0', b"vllm:num_requests_running " + value
    )
    assert got.running is None
    assert got.missing == ("vllm:num_requests_running",)


def test_kv_usage_beyond_one_is_missing():
    assert replaced(b"} 0.25", b"} 25").missing == ("vllm:kv_cache_usage_perc",)


def test_sample_forms():
    page = (
        b"vllm:num_requests_running 1\nvllm:num_requests_waiting\t2 1700000000000\n"
        b'vllm:kv_cache_usage_perc{a="x}y{",b="\\"q\\""} 5e-1 170'
    )
    got = parse(page, VLLM, 0.0)
    assert (got.running, got.waiting, got.kv_usage) == (1, 2, 0.5)


def test_name_in_the_middle_of_a_line_is_not_a_sample():
    page = b'x{l="vllm:num_requests_running 7"} 1\n vllm:num_requests_running 8\nvllm:num_requests_running 9\n'
    assert parse(page, VLLM, 0.0).running == 9


def test_bounds_on_hostile_pages():
    many = b"".join(b'vllm:num_requests_running{e="%d"} 1\n' % i for i in range(5000))
    assert parse(many, VLLM, 0.0).running == MAX_LABEL_SETS
    names = b",".join(b"a%d" % i for i in range(1000))
    page = b'vllm:lora_requests_info{running_lora_adapters="%s"} 1\n' % names
    assert len(parse(page, VLLM, 0.0).adapters) == MAX_ADAPTERS
    assert parse(b'vllm:num_requests_running{x="' + b"y" * 100_000, VLLM, 0.0).running is None
    assert parse(b"vllm:num_requests_running{" * 100_000, VLLM, 0.0).running is None
    assert (
        parse(b'vllm:cache_config_info{block_size="99999999999999",num_gpu_blocks="5"} 1', VLLM, 0.0).kv_capacity
        is None
    )


def test_sglang():
    page = (
        b'sglang:num_running_reqs{model_name="m"} 5\nsglang:num_queue_reqs{model_name="m"} 6\n'
        b'sglang:token_usage{model_name="m"} 0.5\nsglang:max_total_num_tokens{model_name="m"} 1000\n'
        b'sglang:prompt_tokens_total{model_name="m"} 100\nsglang:cached_tokens_total{model_name="m",cache_source="device"} 40\n'
    )
    got = parse(page, SGLANG, 0.0)
    assert (got.running, got.waiting, got.kv_usage, got.kv_capacity) == (5, 6, 0.5, 1000)
    assert (got.prefix_queries, got.prefix_hits, got.missing) == (100, 40, ())
    assert len(parse(PAGE, SGLANG, 0.0).missing) == 3


def recorded():
    here = os.environ.get("RALB_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data"
    return Path(here) / "vllm"


@pytest.mark.skipif(not recorded().is_dir(), reason="recorded pages are not here")
def test_recorded_pages():
    got = parse((recorded() / "vllm-0.32.0-metrics-under-load.txt").read_bytes(), VLLM, 0.0)
    assert (got.waiting, got.running, got.kv_capacity, got.missing) == (4, 4, 16384 * 128, ())
    assert (got.prefix_queries, got.prefix_hits, got.preemptions) == (18381, 3584, 0)
    assert got.kv_usage == pytest.approx(0.005127266)
    idle = parse((recorded() / "vllm-0.32.0-metrics-idle.txt").read_bytes(), VLLM, 0.0)
    assert (idle.waiting, idle.missing) == (0, ())
