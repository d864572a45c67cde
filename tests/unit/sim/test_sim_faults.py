"""Faults: each strikes as told, is bounded, and can be taken back."""

import asyncio
from typing import Any

import aiohttp
import pytest

from ralb_sim.server import faults
from ralb_sim.server.faults import parse_rules

from .conftest import Pod, StartPod

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "min_tokens": 20}


async def test_status_with_retry_after_for_a_number_of_requests(start_pod: StartPod) -> None:
    pod = await start_pod(faults=[{"kind": "status", "status": 429, "retry_after": 7, "limit": 2}])
    answers = [await pod.post(CHAT, ASK) for _ in range(3)]
    assert [status for status, _body, _headers in answers] == [429, 429, 200]
    assert answers[0][2]["Retry-After"] == "7"
    assert answers[0][1]["error"]["code"] == 429


async def test_probability_is_a_share_and_seeded(start_pod: StartPod) -> None:
    seen = []
    for _ in range(2):
        pod = await start_pod(faults=[{"kind": "status", "status": 500, "probability": 0.4}], seed=5)
        seen.append([(await pod.post(CHAT, ASK | {"max_tokens": 1, "min_tokens": 0}))[0] for _ in range(60)])
    assert seen[0] == seen[1]
    assert 12 <= seen[0].count(500) <= 36


async def test_paths_limit_a_rule(start_pod: StartPod) -> None:
    pod = await start_pod(faults=[{"kind": "status", "paths": ["/v1/completions"]}])
    assert (await pod.post(CHAT, ASK))[0] == 200
    assert (await pod.post("/v1/completions", {"prompt": "x"}))[0] == 503
    assert (await pod.get("/health"))[0] == 200


async def test_admin_call_shows_replaces_and_clears(pod: Pod) -> None:
    status, shown, _headers = await pod.post("/admin/faults", {"kind": "status", "status": 502})
    assert (status, shown["rules"][0]["status"]) == (200, 502)
    assert (await pod.post(CHAT, ASK))[0] == 502
    _status, page = await pod.get("/admin/faults")
    assert b'"fired":1' in page
    async with pod.session.delete("/admin/faults") as response:
        assert await response.json() == {"rules": []}
    assert (await pod.post(CHAT, ASK))[0] == 200


async def test_slow_stretches_every_step(start_pod: StartPod) -> None:
    pod = await start_pod(time_scale=0.1)
    await pod.post(CHAT, ASK)
    quick = await pod.metric("vllm:e2e_request_latency_seconds_sum")
    await pod.post("/admin/faults", {"kind": "slow", "factor": 8})
    await pod.post(CHAT, ASK)
    slow = await pod.metric("vllm:e2e_request_latency_seconds_sum") - quick
    assert slow > 5 * quick
    async with pod.session.delete("/admin/faults"):
        pass
    assert pod.service.runner.slowdown == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_hang_never_answers_and_ends_with_the_client(pod: Pod, stream: bool, until: Any) -> None:
    await pod.post("/admin/faults", {"kind": "hang"})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(pod.session.post(CHAT, json=ASK | {"stream": stream}), 0.1)
    assert (await pod.get("/health"))[0] == 200
    await until(lambda: pod.service.runner.open == 0)


async def chunks_until_cut(pod: Pod) -> tuple[int, int]:
    """Return the status and how many events came before the connection was cut."""
    received: list[bytes] = []

    async def read(response: aiohttp.ClientResponse) -> None:
        async for part in response.content.iter_any():
            received.append(part)

    async with pod.session.post(CHAT, json=ASK | {"stream": True}) as response:
        with pytest.raises(aiohttp.ClientError):
            await read(response)
        return response.status, b"".join(received).count(b"\n\n")


@pytest.mark.parametrize("after", [0, 1, 4])
async def test_reset_cuts_a_stream_after_so_many_chunks(pod: Pod, after: int, until: Any) -> None:
    await pod.post("/admin/faults", {"kind": "reset", "after_chunks": after, "limit": 1})
    status, seen = await chunks_until_cut(pod)
    assert status == 200
    # The kernel may drop what was sent just before a reset, never add to it.
    assert seen <= after
    await until(lambda: pod.service.runner.open == 0)
    assert (await pod.stream(CHAT, ASK))[-1] == {"done": True}


async def test_reset_before_the_headers_and_of_plain_answers(pod: Pod) -> None:
    for rule, stream in (({"kind": "reset", "after_chunks": None}, True), ({"kind": "reset"}, False)):
        await pod.post("/admin/faults", rule)
        with pytest.raises(aiohttp.ClientError):
            await pod.session.post(CHAT, json=ASK | {"stream": stream})


async def test_hang_in_the_middle_of_a_stream(pod: Pod, until: Any) -> None:
    await pod.post("/admin/faults", {"kind": "hang", "after_chunks": 3})
    async with pod.session.post(CHAT, json=ASK | {"stream": True}) as response:
        received = b""
        while received.count(b"\n\n") < 3:
            received += await response.content.readany()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(response.content.readany(), 0.1)
        response.close()
    await until(lambda: pod.service.runner.open == 0)


async def test_metrics_stuck_failing_and_hanging(pod: Pod) -> None:
    await pod.post("/admin/faults", {"kind": "metrics", "mode": "stuck"})
    _status, before = await pod.get("/metrics")
    await pod.post(CHAT, ASK)
    assert (await pod.get("/metrics"))[1] == before
    await pod.post("/admin/faults", {"kind": "metrics", "mode": "error"})
    assert (await pod.get("/metrics"))[0] == 500
    await pod.post("/admin/faults", {"kind": "metrics", "mode": "hang"})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(pod.get("/metrics"), 0.1)
    await pod.post("/admin/faults", [])
    assert (await pod.get("/metrics"))[1] != before


async def test_crash_on_request_after_chunks(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    ended = []

    def crash() -> None:
        ended.append(1)
        raise Ended

    monkeypatch.setattr(faults, "crash", crash)
    await pod.post("/admin/faults", {"kind": "crash", "on": "request", "after_chunks": 2})
    assert not ended
    await chunks_until_cut(pod)
    assert ended == [1]


BAD: list[tuple[Any, str]] = [
    (3, "must be a rule"),
    ([3], r"rules\[0\]: must be an object"),
    ({"rules": [], "x": 1}, "no other field"),
    ({"kind": "explode"}, r"rules\[0\].kind: must be one of status"),
    ({"kind": "slow", "status": 500}, "unknown field 'status' for kind slow; known: factor, kind"),
    ({"kind": "metrics", "probability": 0.5}, "unknown field 'probability' for kind metrics; known: kind, mode"),
    ({"kind": "slow", "factor": 0.1}, r"factor: must be a number between 1 and 1000"),
    ({"kind": "slow", "factor": True}, r"factor: must be a number"),
    ({"kind": "status", "status": 200}, r"status: must be a whole number between 400 and 599"),
    ({"kind": "status", "probability": 2}, "probability: must be a number between 0 and 1"),
    ({"kind": "status", "limit": 0}, "limit: must be"),
    ({"kind": "status", "paths": "x"}, "paths: must be a list"),
    ({"kind": "metrics", "mode": "odd"}, "mode: must be one of error, stuck, hang"),
    ({"kind": "crash", "after_chunks": 1}, 'needs "on": "request"'),
    ([{"kind": "hang"}] * 40, "at most 32 rules"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_wrong_rules_are_refused_with_the_place(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_rules(value)


async def test_wrong_rules_leave_the_old_ones(pod: Pod) -> None:
    await pod.post("/admin/faults", {"kind": "status", "status": 502})
    for body in (b"{", {"kind": "explode"}):
        status, answer, _headers = await pod.post("/admin/faults", body)
        assert (status, answer["error"]["param"]) == (400, "faults")
    assert (await pod.post(CHAT, ASK))[0] == 502
