"""Message sequences no gateway should send: the stream ends, within bounds, and nothing stays behind."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ep
from hypothesis import given, settings
from hypothesis import strategies as st
from support_epp import (
    LIMIT,
    Target,
    calling,
    request_body,
    request_headers,
    response_body,
    response_headers,
    trailers,
)
from support_picker import Own, own_picker

GOOD = b'{"model":"base","messages":[{"role":"user","content":"hi"}]}'
bodies = st.sampled_from([GOOD, GOOD[:20], GOOD[20:], b"", b"{", b"\xff", b"x" * 70_000])
paths = st.sampled_from(["/v1/chat/completions", "/v1/models", "/v1/embeddings", "", "?", "/v1/messages/x", "\x00"])
methods = st.sampled_from(["POST", "GET", "", "HEAD"])
subsets = st.sampled_from([None, [], "127.0.0.11:8000", ["127.0.0.12:8000"], 3, {"a": [1]}, [[["x"]]]])
modes = st.none() | st.tuples(st.integers(0, 6), st.integers(0, 6))
messages = st.one_of(
    st.builds(
        lambda path, method, last, subset, mode: request_headers(
            path, method=method, last=last, subset=subset, modes=mode
        ),
        paths,
        methods,
        st.booleans(),
        subsets,
        modes,
    ),
    st.builds(lambda body, last: request_body(body, last=last), bodies, st.booleans()),
    st.builds(lambda body, last: response_body(body, last=last), bodies, st.booleans()),
    st.builds(
        lambda status, served, last: response_headers(status, served=served, last=last),
        st.sampled_from([200, 503, 0, 99999, -1]),
        st.sampled_from(["", "127.0.0.11:8000", "x" * 3000]),
        st.booleans(),
    ),
    st.sampled_from([trailers("request_trailers"), trailers("response_trailers"), ep.ProcessingRequest()]),
).map(lambda message: message.SerializeToString())
raw = messages | st.binary(max_size=40)
ends = st.sampled_from(["half-close", "cancel"])


def test_whatever_is_sent_the_stream_ends_and_nothing_is_kept(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        context = own_picker(tmp_path)
        own = runner.run(context.__aenter__())

        @settings(deadline=None, max_examples=200)
        @given(streams=st.lists(st.tuples(st.lists(raw, max_size=8), ends), min_size=1, max_size=4))
        def check(streams: list[tuple[list[bytes], str]]) -> None:
            runner.run(_play(own, streams))

        try:
            check()
        finally:
            runner.run(context.__aexit__(None, None, None))


async def _play(own: Own, streams: list[tuple[list[bytes], str]]) -> None:
    own.records.clear()
    async with calling(Target(own.address, False, ())) as caller:
        method = caller.channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")
        async with asyncio.TaskGroup() as group:
            for sent, end in streams:
                group.create_task(_stream(method(), sent, end))
        await own.idle()
        placed = [record for record in own.records if "error" not in record]
        assert len({record["id"] for record in placed}) == len(placed), "one record per request"
        assert all("outcome" in record for record in placed)


async def _stream(call: Any, sent: list[bytes], end: str) -> None:
    try:
        for message in sent:
            await asyncio.wait_for(call.write(message), LIMIT)
        if end == "cancel":
            call.cancel()
            return
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # ended by the picker already
    replies = []
    try:
        async with asyncio.timeout(LIMIT):
            async for reply in call:
                replies.append(ep.ProcessingResponse.FromString(reply))
    except grpc.aio.AioRpcError:
        pass
    # A write to a call that has ended is an internal error of the client's own.
    code, details = await call.code(), await call.details()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT) or details == "Internal error from Core", (
        details
    )
    kinds = [reply.WhichOneof("response") for reply in replies]
    assert None not in kinds
    assert "immediate_response" not in kinds[:-1], "nothing follows an immediate response"
    assert kinds.count("request_headers") <= 1
    bodies_at = [position for position, kind in enumerate(kinds) if kind == "request_body"]
    assert not bodies_at or kinds.index("request_headers") < bodies_at[0], "headers are answered before bodies"
