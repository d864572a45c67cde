"""The protocol without I/O, as RFC 9113 has it."""

import struct

import pytest
from hpack import Decoder, Encoder
from support_http2 import END_HEADERS, END_STREAM, HELLO, Client, block, data, grpc, head, headers

from ralb_extproc.wire import Limits
from ralb_extproc.wire.frames import (
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    MAX_WINDOW,
    PREFACE,
    ErrorCode,
    Kind,
    Setting,
    frame,
    reset,
    settings,
    window_update,
)

PADDED, PRIORITY = 8, 0x20


def sizes(said: list[tuple[int, int, int, bytes]], number: int) -> list[int]:
    return [len(payload) for kind, _, stream, payload in said if kind == Kind.DATA and stream == number]


def trailers(said: list[tuple[int, int, int, bytes]], number: int) -> dict[str, str]:
    """The last header block of a stream that ends it."""
    (found,) = [p for k, flags, n, p in said if k == Kind.HEADERS and n == number and flags & END_STREAM]
    return {str(name): str(value) for name, value in Decoder().decode(found)}


def test_a_call_from_begin_to_end() -> None:
    client = Client()
    said = client.send(headers(1), data(1, grpc(b"hello")), data(1, b"", END_STREAM))
    assert client.told() == [("open", 1), ("message", 1, b"hello"), ("end", 1)]
    assert [(kind, flags) for kind, flags, _, _ in said] == [
        (Kind.HEADERS, END_HEADERS),
        (Kind.DATA, 0),
        (Kind.HEADERS, END_HEADERS | END_STREAM),
    ]
    assert said[1][3] == grpc(b"hello")
    assert trailers(said, 1) == {"grpc-status": "0"}
    assert (client.connection.calls, client.connection.kept, client.woken) == (0, 0, 0)


def test_the_first_thing_said_is_settings() -> None:
    client = Client(Limits(message=2**31), hello=b"")
    said = client.said()
    assert said[0][0] == Kind.SETTINGS
    values = dict(struct.iter_unpack(">HI", said[0][3]))
    assert values[Setting.HEADER_TABLE_SIZE] == 0
    assert values[Setting.INITIAL_WINDOW_SIZE] == MAX_WINDOW
    assert client.send(HELLO) == [(Kind.SETTINGS, 1, 0, b"")]


def test_an_answer_that_comes_later_wakes_the_writer() -> None:
    client = Client()
    client.send(headers(1))
    client.handlers[1].call.send(b"late")
    assert client.woken == 1
    client.handlers[1].call.finish()
    assert client.woken == 2
    said = client.said()
    # The client had not ended its side.
    assert said[-1] == (Kind.RST_STREAM, 0, 1, struct.pack(">I", ErrorCode.NO_ERROR))
    client.handlers[1].call.send(b"too late")
    client.handlers[1].call.finish()
    assert client.said() == []


def test_padding_priority_continuation_and_unknown_frames() -> None:
    client = Client()
    whole = block()
    first = bytes((3,)) + bytes(5) + whole[:7] + bytes(3)
    said = client.send(
        frame(99, 0xFF, 77, b"?"),
        frame(Kind.PRIORITY, 0, 1, bytes(5)),
        frame(Kind.HEADERS, PADDED | PRIORITY, 1, first),
        frame(Kind.CONTINUATION, 0, 1, whole[7:9]),
        frame(Kind.CONTINUATION, END_HEADERS, 1, whole[9:]),
        data(1, bytes((4,)) + grpc(b"ab")[:6] + bytes(4), PADDED),
        data(1, bytes((0,)) + grpc(b"ab")[6:], PADDED),
        data(1, bytes((2,)) + bytes(2), PADDED | END_STREAM),
    )
    assert client.events[0] == ("open", 1, "/t.E/Talk", tuple(head()))
    assert client.told()[1:] == [("message", 1, b"ab"), ("end", 1)]
    assert trailers(said, 1) == {"grpc-status": "0"}


def test_end_stream_on_a_header_block_in_pieces_counts() -> None:
    client = Client()
    client.send(frame(Kind.HEADERS, END_STREAM, 1, block()[:5]), frame(Kind.CONTINUATION, 4, 1, block()[5:]))
    assert client.told() == [("open", 1), ("end", 1)]


def test_several_messages_in_a_frame_and_one_in_several() -> None:
    client = Client()
    client.send(headers(1), data(1, grpc(b"a") + grpc(b"") + grpc(b"ccc")[:4]), data(1, grpc(b"ccc")[4:]))
    assert client.told()[1:] == [("message", 1, b"a"), ("message", 1, b""), ("message", 1, b"ccc")]
    assert client.connection.kept == 0


def test_an_answer_larger_than_the_windows_goes_on_as_they_open() -> None:
    client = Client()
    client.send(headers(1))
    call = client.handlers[1].call
    payload = bytes(i % 251 for i in range(100_000))
    call.send(payload)
    call.finish()
    got = client.said()
    assert sizes(got, 1) == [DEFAULT_FRAME] * 3 + [DEFAULT_WINDOW - 3 * DEFAULT_FRAME]
    assert client.connection.kept == 5 + len(payload) - DEFAULT_WINDOW
    # Both windows are used up; either alone is not enough.
    assert client.send(window_update(1, 20_000)) == []
    got += client.send(window_update(0, 10_000))
    got += client.send(window_update(0, 10_010))
    assert client.send(window_update(0, 100_000)) == []
    got += client.send(window_update(1, 100_000))
    assert b"".join(p for k, _, _, p in got if k == Kind.DATA) == grpc(payload)
    assert trailers(got, 1) == {"grpc-status": "0"}
    assert (client.connection.calls, client.connection.kept) == (0, 0)


def test_a_larger_frame_size_is_used() -> None:
    client = Client(hello=PREFACE + settings({Setting.MAX_FRAME_SIZE: 40_000}))
    client.send(headers(1))
    client.handlers[1].call.send(bytes(60_000))
    assert sizes(client.said(), 1) == [40_000, 20_005]


def test_the_connections_window_is_for_all_and_the_oldest_goes_first() -> None:
    client = Client()
    client.send(headers(1), headers(3), headers(5))
    for number in (1, 3, 5):
        client.handlers[number].call.send(bytes(40_000 - 5))
    assert [sum(sizes(client_said, n)) for client_said in [client.said()] for n in (1, 3, 5)] == [40_000, 25_535, 0]
    # A reset stream's rest is forgotten, the next one has its turn.
    assert client.send(reset(3, ErrorCode.CANCEL)) == []
    assert ("lost", 3) in client.told()
    said = client.send(window_update(0, 50_000))
    assert [sum(sizes(said, n)) for n in (1, 3, 5)] == [0, 0, 40_000]


def test_lowered_settings_make_windows_negative_and_later_ones_make_up_for_it() -> None:
    client = Client()
    client.send(headers(1), data(1, grpc(bytes(30_000))[:16_000]), data(1, grpc(bytes(30_000))[16_000:]))
    said = client.send(settings({Setting.INITIAL_WINDOW_SIZE: 10_000}))  # 10,000 - 30,005
    assert said == [(Kind.SETTINGS, 1, 0, b"")]
    client.handlers[1].call.send(b"12345")
    assert client.said() == []
    assert client.send(window_update(1, 20_005)) == []
    assert sizes(client.send(window_update(1, 4)), 1) == [4]
    assert sizes(client.send(settings({Setting.INITIAL_WINDOW_SIZE: 10_006})), 1) == [6]
    client.send(headers(3))
    client.handlers[3].call.send(bytes(20_000))
    assert sum(sizes(client.said(), 3)) == 10_006


def test_the_stream_of_an_ended_call_gets_its_status_after_its_data() -> None:
    client = Client(hello=PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 3}))
    said = client.send(headers(1), data(1, grpc(b"ab"), END_STREAM))
    assert sizes(said, 1) == [3]
    assert client.connection.calls == 1
    said = client.send(window_update(1, 4))
    assert (sizes(said, 1), trailers(said, 1)) == ([4], {"grpc-status": "0"})
    assert client.told() == [("open", 1), ("message", 1, b"ab"), ("end", 1)]


def test_after_finish_a_handler_hears_nothing() -> None:
    client = Client(hello=PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    client.send(headers(1))
    client.handlers[1].call.send(b"waits")
    client.handlers[1].call.finish()
    client.send(data(1, grpc(b"more")), data(1, bytes(10_000)), data(1, b"", END_STREAM))
    assert client.connection.kept == len(grpc(b"waits"))
    client.send(reset(1, ErrorCode.CANCEL))
    client.connection.lost()
    assert client.told() == [("open", 1)]


def test_what_arrives_after_a_call_is_over_is_skipped() -> None:
    client = Client()
    said = client.send(headers(1), data(1, grpc(b"finish") + grpc(b"not heard")))
    want = {":status": "200", "content-type": "application/grpc", "grpc-status": "0", "grpc-message": "enough"}
    assert trailers(said, 1) == want
    late = (data(1, grpc(b"x")), window_update(1, 5), headers(1, END_HEADERS | END_STREAM), reset(1, ErrorCode.CANCEL))
    assert client.send(*late) == []
    assert client.told() == [("open", 1), ("message", 1, b"finish")]


def test_windows_are_given_back_also_for_what_is_skipped() -> None:
    client = Client(Limits(message=20_000))
    client.send(headers(1), headers(3), reset(3, ErrorCode.CANCEL))
    back = {0: 0, 1: 0}
    for number in (1, 3):
        for _ in range(400):
            for kind, _, stream, payload in client.send(data(number, grpc(bytes(10_000)))):
                if kind == Kind.WINDOW_UPDATE:
                    back[stream] += int.from_bytes(payload, "big")
    assert 400 * 10_005 - back[1] < DEFAULT_WINDOW
    assert 800 * 10_005 - back[0] < 4 * 1024 * 1024 + 20_000


def test_too_many_calls_are_refused() -> None:
    client = Client(Limits(streams=2))
    said = client.send(headers(1), headers(3), headers(5))
    assert said == [(Kind.RST_STREAM, 0, 5, struct.pack(">I", ErrorCode.REFUSED_STREAM))]
    client.send(data(5, b"on its way"), reset(1, ErrorCode.CANCEL), headers(7))
    assert client.told() == [("open", 1), ("open", 3), ("lost", 1), ("open", 7)]


def test_leaving_refuses_new_calls_and_never_raises_its_last_stream() -> None:
    client = Client()
    client.send(headers(1))
    client.connection.leave()
    client.connection.leave()
    assert client.said() == [(Kind.GOAWAY, 0, 0, struct.pack(">II", 1, 0))]
    said = client.send(headers(3))
    assert said == [(Kind.RST_STREAM, 0, 3, struct.pack(">I", ErrorCode.REFUSED_STREAM))]
    client.send(data(1, grpc(b"goes on")))
    assert client.told() == [("open", 1), ("message", 1, b"goes on")]
    with pytest.raises(Exception, match="may not push"):
        client.send(frame(Kind.PUSH_PROMISE, 0, 1, bytes(4)))
    assert client.said()[-1][3][:4] == struct.pack(">I", 1)


def test_bounds_on_what_is_kept() -> None:
    client = Client(Limits(message=30_000, buffered=40_000, unsent=50_000))
    half = grpc(bytes(25_000))[:16_000]
    said = client.send(*(headers(n) + data(n, half) for n in (1, 3, 5)))
    assert trailers(said, 5)["grpc-status"] == "8"
    assert ("lost", 5) in client.told()
    assert client.connection.kept == 32_000
    # Answers that the peer does not take.
    client.send(settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    client.handlers[1].call.send(bytes(40_000))
    client.handlers[3].call.send(bytes(20_000))
    assert client.said()[-1] == (Kind.RST_STREAM, 0, 3, struct.pack(">I", ErrorCode.ENHANCE_YOUR_CALM))
    assert client.told() == [("lost", 3)]
    assert client.connection.kept == 16_000 + 40_005
    client.connection.lost()
    assert (client.told(), client.connection.kept, client.connection.calls) == ([("lost", 1)], 0, 0)


@pytest.mark.parametrize(
    ("payload", "flags", "status"),
    [(grpc(b"z", compressed=1), 0, "12"), (grpc(bytes(101)), 0, "8"), (grpc(b"abc")[:6], END_STREAM, "13")],
    ids=["compressed", "too large", "incomplete"],
)
def test_messages_that_cannot_be_taken_fail_their_call(payload: bytes, flags: int, status: str) -> None:
    client = Client(Limits(message=100))
    said = client.send(headers(1), headers(3), data(1, payload, flags), data(3, grpc(b"ok")))
    assert trailers(said, 1)["grpc-status"] == status
    assert client.told() == [("open", 1), ("open", 3), ("lost", 1), ("message", 3, b"ok")]
    assert client.connection.kept == 0


def test_an_unknown_method_and_no_path_at_all() -> None:
    client = Client()
    said = client.send(headers(1, data=block(*head("/no"))), headers(3, data=b""))
    assert trailers(said, 1)["grpc-status"] == trailers(said, 3)["grpc-status"] == "12"
    assert trailers(said, 1)[":status"] == "200"


def test_a_ping_is_answered_and_an_answer_is_not() -> None:
    client = Client()
    said = client.send(frame(Kind.PING, 0, 0, b"12345678"), frame(Kind.PING, 1, 0, b"abcdefgh"))
    assert said == [(Kind.PING, 1, 0, b"12345678")]


def test_header_tables_are_followed_as_the_client_uses_and_drops_them() -> None:
    encoder = Encoder()  # with the default table until it hears of our settings
    client = Client()
    want = []

    def opened(number: int, *extra: tuple[str, str]) -> None:
        pairs = [*head(), *extra]
        client.send(headers(number, data=encoder.encode(pairs)))
        want.append(("open", number, "/t.E/Talk", tuple(pairs)))

    for i in range(10):
        opened(2 * i + 1, ("x-id", str(i % 3)), ("x-same", "same"))
    encoder.header_table_size = 0
    for i in range(10, 20):
        opened(2 * i + 1, ("x-id", str(i % 3)), ("x-same", "same"))
    encoder.header_table_size = 200  # small: entries are evicted
    for i in range(20, 50):
        opened(2 * i + 1, ("x-id", str(i % 4)), ("x-same", "same"))
    assert client.events == want


def test_a_block_remembered_without_a_table_is_decoded_again_with_one() -> None:
    # All but the first are literals to be indexed: without a table they add nothing, with one three entries each time.
    adds = block(*head()[:1], *head()[2:]).removeprefix(b"\x20") + b"\x40\x01k\x01v"
    client = Client()
    client.send(headers(1, data=b"\x20" + adds), headers(3, data=adds), headers(5, data=adds))
    client.send(headers(7, data=b"\x3f\xe1\x1f" + adds), headers(9, data=adds))
    client.send(headers(11, data=b"\x83\xc0\xbf\xbe\xc1"))  # path, te and k of the last block, k of the one before
    assert [[*event[3]][-1] for event in client.events] == [("k", "v")] * 6


def test_equal_blocks_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    client.send(headers(1, data=b"\x20" + block()), headers(3))
    monkeypatch.setattr(Decoder, "decode", lambda *_, **__: pytest.fail("decoded again"))
    client.send(headers(5))
    assert [event[2] for event in client.events] == ["/t.E/Talk"] * 3


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (settings({Setting.INITIAL_WINDOW_SIZE: MAX_WINDOW}), ErrorCode.FLOW_CONTROL_ERROR),
        (window_update(0, MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
        (settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
        (settings({Setting.MAX_FRAME_SIZE: 16_383}), ErrorCode.PROTOCOL_ERROR),
        (settings({Setting.MAX_FRAME_SIZE: 2**24}), ErrorCode.PROTOCOL_ERROR),
        (settings({Setting.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(Kind.SETTINGS, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(Kind.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(Kind.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.PUSH_PROMISE, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (reset(0, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
        (reset(99, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
        (window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (window_update(99, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(Kind.WINDOW_UPDATE, 0, 1, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (data(0, b""), ErrorCode.PROTOCOL_ERROR),
        (data(2, b""), ErrorCode.PROTOCOL_ERROR),
        (data(99, b""), ErrorCode.PROTOCOL_ERROR),
        (data(1, b"", PADDED), ErrorCode.PROTOCOL_ERROR),
        (data(1, b"\x05abcd", PADDED), ErrorCode.PROTOCOL_ERROR),
        (headers(0), ErrorCode.PROTOCOL_ERROR),
        (headers(102), ErrorCode.PROTOCOL_ERROR),
        (headers(3), ErrorCode.PROTOCOL_ERROR),  # backwards
        (headers(99, END_HEADERS | PRIORITY, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (headers(99, END_HEADERS | PADDED, b"\x09a"), ErrorCode.PROTOCOL_ERROR),
        (headers(99, data=b"\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (headers(99, data=b"\xbe"), ErrorCode.COMPRESSION_ERROR),
        (frame(Kind.CONTINUATION, 4, 1), ErrorCode.PROTOCOL_ERROR),
        (headers(99, 0) + headers(99), ErrorCode.PROTOCOL_ERROR),
        (headers(99, 0) + frame(Kind.CONTINUATION, 4, 101), ErrorCode.PROTOCOL_ERROR),
        (headers(99, 0) + frame(99, 0, 0), ErrorCode.PROTOCOL_ERROR),
        (headers(99, 0) + frame(9, 0, 99, bytes(16_000)) * 5, ErrorCode.ENHANCE_YOUR_CALM),
        (frame(99, 0, 0, bytes(DEFAULT_FRAME + 1))[:9], ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_errors_of_the_connection(payload: bytes, code: ErrorCode) -> None:
    client = Client()
    client.send(headers(1), headers(5))
    client.send(window_update(1, 1))
    assert client.error(payload)[0] == code
    client.connection.lost()
    assert client.told() == [("open", 1), ("open", 5), ("lost", 1), ("lost", 5)]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (window_update(1, MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
        (headers(1), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_errors_of_a_stream_leave_the_others_alone(payload: bytes, code: ErrorCode) -> None:
    client = Client()
    said = client.send(headers(1), headers(3), payload, data(3, grpc(b"ok")))
    assert said[0] == (Kind.RST_STREAM, 0, 1, struct.pack(">I", code))
    assert client.told() == [("open", 1), ("open", 3), ("lost", 1), ("message", 3, b"ok")]


@pytest.mark.parametrize("late", [data(1, b"x"), headers(1, END_HEADERS | END_STREAM)])
def test_more_after_the_end_of_a_stream_that_still_answers(late: bytes) -> None:
    client = Client(hello=PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    client.send(headers(1), data(1, grpc(b"a"), END_STREAM))
    assert client.send(late) == [(Kind.RST_STREAM, 0, 1, struct.pack(">I", ErrorCode.STREAM_CLOSED))]
    assert client.connection.kept == 0


@pytest.mark.parametrize(
    "hello", [b"GET / HTTP/1.1\r\n", PREFACE[:-1] + b"x", PREFACE + headers(1), PREFACE + frame(Kind.SETTINGS, 1, 0)]
)
def test_a_peer_must_greet(hello: bytes) -> None:
    client = Client(hello=b"")
    client.said()
    assert client.error(hello) == (ErrorCode.PROTOCOL_ERROR, [])


def test_a_large_answer_in_many_small_windows_takes_linear_time() -> None:
    client = Client()
    client.send(headers(1), window_update(0, 2**30))
    client.handlers[1].call.send(bytes(16 * 1024 * 1024))
    got = sum(sizes(client.said(), 1))
    while got < 16 * 1024 * 1024 + 5:  # copying the rest for each piece would copy 34 GB
        got += sum(sizes(client.send(window_update(1, 4096)), 1))
    assert client.connection.kept == 0
