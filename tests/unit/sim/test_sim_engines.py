"""Speculation, LoRA adapters, and the pages of other engines."""

import asyncio
from typing import Any

import pytest

from ralb_sim.config import MetricsDialect
from ralb_sim.engine import Engine, EngineConfig, EngineRequest
from ralb_sim.profiles import PROFILES

from .conftest import Pod, StartPod

CHAT = "/v1/chat/completions"


def run(requests: int = 8, output: int = 200, **more: Any) -> tuple[float, int, Engine, list[Any]]:
    """(seconds, decoding steps, the engine, all steps) of some requests."""
    engine = Engine(EngineConfig(PROFILES["llama-3-8b-h100"], kv_tokens=100_000, **more))
    for number in range(requests):
        engine.add(EngineRequest(f"r{number}", 64, output))
    steps = []
    while engine.has_work:
        steps.append(engine.step())
        engine.pool.check()
    return sum(step.duration_s for step in steps), len(steps), engine, steps


def test_every_token_comes_out_once_and_no_more_than_asked_for() -> None:
    _, _, _, steps = run(speculative=4, acceptance=0.8)
    for name in (f"r{number}" for number in range(8)):
        assert sum((name in step.tokens) + step.extra.get(name, 0) for step in steps) == 200
    assert sum(step.drafts for step in steps) > 0
    assert all(set(step.extra) <= set(step.tokens) for step in steps)


@pytest.mark.parametrize(("tokens", "acceptance"), [(1, 0.7), (3, 0.7), (3, 0.3), (5, 1.0), (4, 0.0)])
def test_steps_give_as_many_tokens_as_a_chain_of_chances_does(tokens: int, acceptance: float) -> None:
    _, _, _, steps = run(requests=16, output=600, speculative=tokens, acceptance=acceptance)
    drafts = sum(step.drafts for step in steps)
    accepted = sum(sum(step.extra.values()) for step in steps)
    expected = sum(acceptance**n for n in range(1, tokens + 1))
    assert accepted / drafts == pytest.approx(expected, rel=0.06, abs=0.01)


def test_speculation_is_faster_where_it_is_right_and_slower_where_it_is_wrong() -> None:
    plain = run()[0]
    assert run(speculative=3, acceptance=0.7)[0] < 0.6 * plain
    assert run(speculative=3, acceptance=0.0)[0] > plain


def test_without_speculation_nothing_is_drafted() -> None:
    assert not any(step.drafts or step.extra for step in run()[3])


def test_speculation_under_pressure_keeps_to_the_budget_and_the_cache() -> None:
    engine = Engine(
        EngineConfig(PROFILES["llama-3-8b-h100"], kv_tokens=320, block_size=4, max_num_batched_tokens=16, speculative=5)
    )
    for number in range(12):
        engine.add(EngineRequest(f"r{number}", 20, 60))
    made = {f"r{number}": 0 for number in range(12)}
    while engine.has_work:
        step = engine.step()
        engine.pool.check()
        assert step.scheduled_tokens <= 16
        for name in step.tokens:
            made[name] += 1 + step.extra.get(name, 0)
    assert set(made.values()) == {60}


async def test_a_speculating_pod_answers_the_same_and_counts_it(start_pod: StartPod) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 120, "ignore_eos": True}
    _, plain, _ = await (await start_pod()).post(CHAT, body)
    pod = await start_pod(speculative=3, acceptance=0.8)
    _, answer, _ = await pod.post(CHAT, body)
    assert answer["choices"][0]["message"] == plain["choices"][0]["message"]
    assert answer["usage"]["completion_tokens"] == 120
    metric = pod.metric
    steps = await metric("vllm:inter_token_latency_seconds_count")
    accepted = await metric("vllm:spec_decode_num_accepted_tokens_total")
    assert accepted > 0
    assert steps + accepted == 119, "an entry for each output, not for each token"
    assert await metric("vllm:generation_tokens_total") == 120
    assert await metric("vllm:spec_decode_num_drafts_total") <= steps
    assert await metric("vllm:spec_decode_num_draft_tokens_total") <= 3 * steps


async def test_a_pod_that_does_not_speculate_has_no_such_series(pod: Pod) -> None:
    assert b"spec_decode" not in (await pod.get("/metrics"))[1]
    assert b"lora" not in (await pod.get("/metrics"))[1]


async def test_adapters_with_requests(start_pod: StartPod, until: Any) -> None:
    pod = await start_pod(
        names=("base", "legal", "math"), adapters=("legal", "math"), max_loras=2, max_num_seqs=1, time_scale=1.0
    )

    async def newest() -> dict[str, str]:
        page = (await pod.get("/metrics"))[1].decode()
        lines = [line for line in page.splitlines() if line.startswith("vllm:lora_requests_info{")]
        labels = max(lines, key=lambda line: float(line.rsplit(" ", 1)[1])).partition("{")[2].rpartition("}")[0]
        return dict(pair.split("=", 1) for pair in labels.replace('"', "").split(",", 2))

    assert (await newest())["running_lora_adapters"] == ""
    held = [
        await pod.session.post(
            CHAT, json={"model": name, "messages": [], "max_tokens": 3000, "ignore_eos": True, "stream": True}
        )
        for name in ("legal", "math", "base")
    ]
    await until(lambda: pod.service.metrics.stats.running == 1 and pod.service.metrics.stats.waiting == 2)
    found = await newest()
    assert (found["running_lora_adapters"], found["waiting_lora_adapters"]) == ("legal", "math")
    assert found["max_lora"] == "2"
    for response in held:
        response.close()
    await until(lambda: pod.service.runner.open == 0)
    assert (await newest())["running_lora_adapters"] == ""


@pytest.mark.parametrize(
    ("dialect", "path", "has", "lacks"),
    [
        (
            MetricsDialect.VLLM_OLD,
            "/metrics",
            (b"\nvllm:gpu_cache_usage_perc{", b"\nvllm:gpu_prefix_cache_hits_total{", b"\nvllm:time_per_output_token_seconds_"),
            (b"vllm:kv_cache_usage_perc", b"vllm:inter_token_latency", b"vllm:prefix_cache_hits"),
        ),
        (MetricsDialect.SGLANG, "/metrics", (b"\nsglang:num_queue_reqs{", b'\nsglang:realtime_tokens_total{'), (b"vllm:",)),
        (MetricsDialect.TENSORRT_LLM, "/prometheus/metrics", (b"\ntrtllm_num_requests_waiting{",), (b"vllm:",)),
    ],
)  # fmt: skip
async def test_pages_of_others(
    start_pod: StartPod, dialect: MetricsDialect, path: str, has: tuple[bytes, ...], lacks: tuple[bytes, ...]
) -> None:
    pod = await start_pod(metrics=dialect, speculative=2)
    await asyncio.gather(*(pod.post(CHAT, {"messages": [], "max_tokens": 9}) for _ in range(3)))
    status, page = await pod.get(path)
    assert status == 200
    for part in has:
        assert part in page
    for part in lacks:
        assert part not in page
    if dialect is MetricsDialect.TENSORRT_LLM:
        assert (await pod.get("/metrics"))[1] == b"[]"
