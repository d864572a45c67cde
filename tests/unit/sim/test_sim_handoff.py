"""Prompts computed on one simulated pod and answered on another."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ralb_sim.engine import Engine, EngineConfig, EngineRequest
from ralb_sim.profiles import get_profile

LONG = {"model": "tiny", "messages": [{"role": "user", "content": "a long story " * 200}]}
ASK = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None}
CHAT = "/v1/chat/completions"


async def _leg(pod: Any, body: dict[str, Any] = LONG, path: str = CHAT) -> Any:
    status, answer, _ = await pod.post(path, {**body, "max_tokens": 1, "kv_transfer_params": ASK})
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 1
    return answer["kv_transfer_params"]


async def test_a_prompt_is_computed_once(start_pod: Any) -> None:
    prefill, decode = await start_pod(), await start_pod()
    params = await _leg(prefill)
    assert params["do_remote_prefill"] is True
    assert params["remote_port"] == prefill.port
    status, answer, _ = await decode.post(CHAT, {**LONG, "max_tokens": 8, "kv_transfer_params": params})
    assert status == 200
    usage = answer["usage"]
    # The last token is always computed, to have something to sample from.
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1
    assert usage["completion_tokens"] == 8
    assert answer["kv_transfer_params"] is None
    assert decode.service.runner._engine.stats().prefix_hits == 0, "nothing was in its own cache"


async def test_the_answer_is_that_of_one_pod(start_pod: Any) -> None:
    prefill, decode = await start_pod(), await start_pod()
    _, whole, _ = await (await start_pod()).post(CHAT, {**LONG, "max_tokens": 8})
    _, split, _ = await decode.post(CHAT, {**LONG, "max_tokens": 8, "kv_transfer_params": await _leg(prefill)})
    assert split["choices"][0]["message"] == whole["choices"][0]["message"]


async def test_completions_too(start_pod: Any) -> None:
    prefill, decode = await start_pod(), await start_pod()
    body = {"model": "tiny", "prompt": "once upon a time " * 100}
    params = await _leg(prefill, body, "/v1/completions")
    _, answer, _ = await decode.post("/v1/completions", {**body, "kv_transfer_params": params})
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == answer["usage"]["prompt_tokens"] - 1


@pytest.mark.parametrize("how", ["twice", "another prompt", "another engine", "gone", "nonsense"])
async def test_what_cannot_be_fetched_is_computed(start_pod: Any, how: str) -> None:
    prefill, decode = await start_pod(), await start_pod()
    params = await _leg(prefill)
    body = LONG
    match how:
        case "twice":
            await (await start_pod()).post(CHAT, {**LONG, "max_tokens": 1, "kv_transfer_params": params})
        case "another prompt":
            body = {"model": "tiny", "messages": [{"role": "user", "content": "something else " * 200}]}
        case "another engine":
            params |= {"remote_engine_id": "restarted"}
        case "gone":
            params |= {"remote_port": 1}
        case "nonsense":
            params |= {"remote_block_ids": "all"}
    status, answer, _ = await decode.post(CHAT, {**body, "max_tokens": 2, "kv_transfer_params": params})
    assert status == 200
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_blocks_are_not_kept_for_ever(start_pod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ralb_sim.server.handoff.KEEP_S", 0.0)
    prefill, decode = await start_pod(), await start_pod()
    params = await _leg(prefill)
    _, answer, _ = await decode.post(CHAT, {**LONG, "max_tokens": 2, "kv_transfer_params": params})
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_a_sidecar_asks_the_pod_it_is_told(start_pod: Any) -> None:
    prefill, decode = await start_pod(), await start_pod(sidecar=True)
    header = {"x-prefiller-host-port": f"127.0.0.1:{prefill.port}"}
    _, answer, _ = await decode.post(CHAT, {**LONG, "max_tokens": 8}, header)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == answer["usage"]["prompt_tokens"] - 1
    assert await prefill.metric("vllm:request_success_total", finished_reason="length") == 1


async def test_a_sidecar_whose_pod_fails_fails(start_pod: Any) -> None:
    decode = await start_pod(sidecar=True)
    status, answer, _ = await decode.post(CHAT, {**LONG, "max_tokens": 8}, {"x-prefiller-host-port": "127.0.0.1:1"})
    assert status == 502
    assert "127.0.0.1:1" in answer["error"]["message"]


async def test_without_a_sidecar_the_header_means_nothing(start_pod: Any) -> None:
    decode = await start_pod()
    status, _, _ = await decode.post(CHAT, {**LONG, "max_tokens": 8}, {"x-prefiller-host-port": "127.0.0.1:1"})
    assert status == 200


async def test_many_at_once(start_pod: Any) -> None:
    prefill, decode = await start_pod(), await start_pod()

    async def one(number: int) -> bool:
        body = {"model": "tiny", "messages": [{"role": "user", "content": f"{number} " * 300}]}
        params = await _leg(prefill, body)
        _, answer, _ = await decode.post(CHAT, {**body, "max_tokens": 4, "kv_transfer_params": params})
        return bool(answer["usage"]["prompt_tokens_details"]["cached_tokens"] == answer["usage"]["prompt_tokens"] - 1)

    assert all(await asyncio.gather(*map(one, range(20))))


def test_received_tokens_are_recomputed_after_a_preemption() -> None:
    profile = get_profile("llama-3-8b-h100")
    engine = Engine(replace(EngineConfig.of(profile), kv_tokens=16 * 12, block_size=16, max_num_batched_tokens=512))
    engine.add(EngineRequest("a", prompt_tokens=64, output_tokens=100))
    engine.add(EngineRequest("b", prompt_tokens=64, output_tokens=100, received=64))
    first = engine.step()
    assert dict(first.admitted) == {"a": 0, "b": 63}
    assert first.prefill_tokens == 65
    prefilled = first.prefill_tokens
    while engine.has_work:
        prefilled += engine.step().prefill_tokens
    assert engine.stats().preemptions > 0
    assert prefilled > 65 + 64, "its prompt had to be computed in the end"
