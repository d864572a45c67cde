"""What our picker does beyond the protocol: load, learning, what reaches the pod, several pools."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from support_epp import (
    CHAT,
    DESTINATION,
    Caller,
    Target,
    calling,
    picked,
    play,
    request_body,
    request_headers,
    response_headers,
    trailers,
)
from support_net import wait_until
from support_picker import ENDPOINTS, POOL, Own, own_picker, pool

from ralb_extproc.place.columns import FAILURES

BODY = json.dumps(CHAT).encode()
USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 4},
}


# ---- load ----


@pytest.mark.parametrize("end", ["body", "trailers", "headers", "close", "cancel", "refused"])
async def test_load_is_charged_with_the_pick_and_released_once(own: Own, own_caller: Caller, end: str) -> None:
    async with own_caller.exchange() as exchange:
        pick = await play(exchange, CHAT)
        assert own.in_flight == 1
        assert own.load[pick.endpoints[0]] == 1
        if end == "close":
            await exchange.finish()
        elif end == "cancel":
            exchange.cancel()
        elif end == "refused":
            await exchange.send(request_headers())
            assert await exchange.over() is grpc.StatusCode.INVALID_ARGUMENT
        else:
            await exchange.send(response_headers(200, last=end == "headers"))
            await exchange.reply()
            if end == "body":
                await exchange.echo(b"{}", last=True)
            elif end == "trailers":
                await exchange.send(trailers("response_trailers"))
                await exchange.reply()
        await own.idle()
    await wait_until(lambda: own.settled, what="outcome")
    (settled,) = own.settled
    assert settled.outcome.aborted == (end in ("close", "cancel", "refused"))


async def test_requests_spread_by_load(own: Own, own_caller: Caller) -> None:
    picks = []
    async with asyncio.TaskGroup() as group:
        release = asyncio.Event()

        async def hold() -> None:
            async with own_caller.exchange() as exchange:
                picks.append((await play(exchange, CHAT)).endpoints)
                await release.wait()

        for _ in range(6):
            group.create_task(hold())
        await wait_until(lambda: own.in_flight == 6)
        assert own.load == dict.fromkeys(ENDPOINTS, 2.0)
        release.set()
    assert all(sorted(endpoints) == sorted(ENDPOINTS) for endpoints in picks), "the others follow for retries"
    await own.idle()


async def test_an_unfinished_body_is_charged_to_nobody_and_forgotten(own: Own, own_caller: Caller) -> None:
    assert own.processor.pickers is not None
    room = own.processor.pickers.room
    async with own_caller.exchange() as exchange:
        await exchange.send(request_headers(), request_body(b"x" * 100_000, last=False))
        await wait_until(lambda: room.taken == 100_000)
        assert not own.in_flight
    await own.idle()


# ---- what is learned ----


async def test_the_answer_is_in_the_record(own: Own, own_caller: Caller) -> None:
    async with own_caller.exchange() as exchange:
        pick = await play(exchange, CHAT, headers={"x-request-id": "r-1"})
        await exchange.send(response_headers(200, served=pick.endpoints[0]))
        reply = await exchange.reply()
        await exchange.echo(json.dumps({"choices": [], "usage": USAGE}).encode(), last=True)
        await exchange.finish()
    (settled,) = own.settled
    outcome = settled.outcome
    assert (outcome.status, outcome.attempts, outcome.upstream) == (200, 1, pick.endpoints[0])
    assert (outcome.input_tokens, outcome.output_tokens) == (40, 9)
    assert (outcome.cached_tokens, outcome.reasoning_tokens) == (16, 4)
    assert outcome.ttft is not None
    assert 0 < outcome.ttft <= outcome.duration
    assert (outcome.request_bytes, outcome.request_id, outcome.path) == (len(BODY), "r-1", "/v1/chat/completions")
    (record,) = own.records
    assert record["outcome"]["tokens"] == {"in": 40, "out": 9, "cached": 16, "reasoning": 4, "estimated": False}
    assert record["outcome"]["endpoint"] == pick.endpoints[0]
    assert record["placement"]["pool"] == POOL
    assert record["understanding"]["intent"]
    said = reply.response_headers.response.header_mutation.set_headers
    assert [(one.header.key, one.header.raw_value.decode()) for one in said] == [("x-ralb-decision-id", record["id"])]
    page = own.processor.telemetry.page().decode()
    assert f'ralb_tokens_total{{kind="output",pool="{POOL}"}} 9.0' in page
    assert 'ralb_requests_total{api="chat",code="200"} 1.0' in page


async def test_usage_of_a_stream_and_the_first_token(own: Own, own_caller: Caller) -> None:
    async with own_caller.exchange() as exchange:
        pick = await play(exchange, {**CHAT, "stream": True})
        await exchange.send(response_headers(200, served=pick.endpoints[0]))
        await exchange.reply()
        pods = own.processor.pods
        (flight,) = pods.ledger
        assert flight.prefill > 0
        await exchange.echo(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', last=False)
        assert flight.prefill == 0, "the first part of the body means that the prompt is read"
        usage = json.dumps({"choices": [], "usage": USAGE}).encode()
        await exchange.echo(b"data: " + usage[:30], last=False)
        await exchange.echo(usage[30:] + b"\n\ndata: [DONE]\n\n", last=False)
        await exchange.echo(b"", last=True)
        await exchange.finish()
    assert own.settled[0].outcome.output_tokens == 9


async def test_an_endpoint_that_failed_before_another_served_goes_last(own: Own, own_caller: Caller) -> None:
    async with own_caller.exchange() as exchange:
        first = (await play(exchange, CHAT)).endpoints
        await exchange.send(response_headers(200, served=first[1]))
        await exchange.reply()
        await exchange.echo(b"{}", last=True)
        await exchange.finish()
    assert own.settled[0].outcome.attempts == 2
    assert own.settled[0].endpoint == first[1]
    assert (await own_caller.ask(CHAT)).endpoints[-1] == first[0]


@pytest.mark.parametrize("served", ["metadata", "attribute"])
async def test_an_endpoint_that_answered_5xx_goes_last(own: Own, own_caller: Caller, served: str) -> None:
    async with own_caller.exchange() as exchange:
        first = (await play(exchange, CHAT)).endpoints
        message = response_headers(500, served=first[0] if served == "metadata" else "")
        if served == "attribute":
            message.attributes["envoy.filters.http.ext_proc"].update({"upstream.address": first[0]})
        await exchange.send(message)
        await exchange.reply()
        await exchange.echo(b"{}", last=True)
        await exchange.finish()
    assert (await own_caller.ask(CHAT)).endpoints[-1] == first[0]


async def test_where_nobody_says_who_served_nobody_is_blamed(own: Own, own_caller: Caller) -> None:
    async with own_caller.exchange() as exchange:
        await play(exchange, CHAT)
        await exchange.send(response_headers(503))
        await exchange.reply()
        await exchange.echo(b"{}", last=True)
        await exchange.finish()
    assert not own.processor.pods.data[FAILURES].any()


async def test_requests_that_are_not_understood_cost_nothing(own: Own, own_caller: Caller) -> None:
    for path, method, body in (("/metrics", "GET", None), ("/tokenize", "POST", BODY), ("/x", "POST", b"\x00\xff")):
        async with own_caller.exchange() as exchange:
            pick = await play(exchange, body, path=path, method=method)
            assert pick.status == 0
            assert pick.body == body
            await exchange.send(response_headers(200))
            await exchange.reply()
            await exchange.echo(b"y" * 1000, last=True)
            await exchange.finish()
    assert [(s.usage.input, s.usage.output) for s in own.settled if s.usage] == [(0, 0)] * 3
    assert all("request" not in record for record in own.records)
    await own.idle()


# ---- what goes to the pod ----


async def test_the_body_is_what_was_sent_byte_by_byte(own_caller: Caller) -> None:
    body = b'{ "model":"any-name",  "messages":[{"role":"user","content":"\\u0041"}], "x": 1.0 ,"x":2}'
    assert (await own_caller.ask(chunks=[body])).body == body


async def test_what_a_client_may_not_say_is_replaced_or_removed(own_caller: Caller) -> None:
    async with own_caller.exchange() as exchange:
        await exchange.send(
            request_headers(last=True, method="GET", headers={DESTINATION: "1.2.3.4:5", "x-ralb-tier": "x"})
        )
        message = await exchange.reply()
        pick = picked(message, message.request_headers.response)
        options = message.request_headers.response.header_mutation.set_headers
        assert all(option.append_action == 2 for option in options), "overwrite"
        assert pick.endpoints[0] in ENDPOINTS
        assert pick.removed == ["x-ralb-tier"]


async def test_paths_with_something_before_them_are_understood(own: Own, own_caller: Caller) -> None:
    pick = await own_caller.ask(CHAT, path="/team-a/v1/chat/completions?beta=1")
    assert pick.status == 0
    await wait_until(lambda: own.records)
    assert own.records[0]["request"]["model"] == "base"


# ---- several pools, and the pool that changes ----


async def test_one_port_per_pool(tmp_path: Path) -> None:
    other = pool(["127.0.0.13:8000"], "models/other")
    async with own_picker(tmp_path, pool(), other, more=(("127.0.0.1:0", "models/other"),)) as own:
        async with calling(Target(own.address_of("models/other"), False, ())) as caller:
            assert (await caller.ask(CHAT)).endpoints == ["127.0.0.13:8000"]
        async with calling(Target(own.address, False, ())) as caller:
            assert set((await caller.ask(CHAT)).endpoints) == set(ENDPOINTS)


async def test_readiness_waits_for_every_pool(tmp_path: Path) -> None:
    async with own_picker(tmp_path, pool(), more=(("127.0.0.1:0", "models/other"),)) as own:
        assert own.processor._not_ready() == "pools not in the snapshot: models/other"
        await own.apply(pool(), pool(name="models/other"))
        assert own.processor._not_ready() == ""


async def test_a_pod_that_goes_is_not_picked_any_more_and_its_requests_end_well(own: Own, own_caller: Caller) -> None:
    async with own_caller.exchange() as exchange:
        first = (await play(exchange, CHAT)).endpoints[0]
        await own.apply(pool([one for one in ENDPOINTS if one != first]))
        for _ in range(5):
            assert first not in (await own_caller.ask(CHAT)).endpoints
        await exchange.send(response_headers(200, served=first))
        await exchange.reply()
        await exchange.echo(b"{}", last=True)
        await exchange.finish()
    await own.idle()


# ---- its end ----


async def test_what_is_under_way_ends_in_peace(tmp_path: Path) -> None:
    async with own_picker(tmp_path, drain=(0.0, 60.0)) as own, calling(Target(own.address, False, ENDPOINTS)) as caller:
        pickers = own.processor.pickers
        assert pickers is not None
        async with caller.exchange() as exchange:
            await play(exchange, CHAT)
            stop = asyncio.create_task(pickers.stop())
            await wait_until(lambda: _refused(own.address), what="no more connections")
            assert not stop.done()
            await exchange.send(response_headers(200))
            await exchange.reply()
            assert await exchange.echo(b"{}", last=True) == b"{}"
            await exchange.finish()
        await asyncio.wait_for(stop, 30)
        assert own.holds_nothing


async def _refused(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
