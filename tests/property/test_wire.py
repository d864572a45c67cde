"""The gRPC server's protocol with arbitrary cuts, arbitrary frames and arbitrary bytes."""

import contextlib

from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from support_http2 import END_HEADERS, END_STREAM, HELLO, Client, data, grpc, head, headers

from ralb_extproc.wire import Limits
from ralb_extproc.wire import frames as wire
from ralb_extproc.wire.frames import ErrorCode, Kind, PeerError, Setting, frame

_LIMITS = Limits(message=3000, streams=4, buffered=6000, unsent=20_000)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """What a well-behaved client with a header table might say."""
    encoder = Encoder()
    if draw(st.booleans()):
        encoder.header_table_size = 0
    out, number, open_ones = [HELLO], -1, []
    for step in draw(st.lists(st.integers(0, 6), max_size=25)):
        if step <= 1 or not open_ones:
            number += 2
            open_ones.append(number)
            pairs = head(draw(st.sampled_from(["/t.E/Talk", "/other"])), x=draw(st.sampled_from("abc")))
            encoded = encoder.encode(pairs)
            cut = draw(st.integers(0, len(encoded)))
            out += [headers(number, 0, encoded[:cut]), frame(Kind.CONTINUATION, END_HEADERS, number, encoded[cut:])]
        elif step <= 3:
            payload = grpc(draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 100])))
            cut = draw(st.integers(0, len(payload)))
            of = draw(st.sampled_from(open_ones))
            out += [data(of, payload[:cut]), data(of, payload[cut:])]
        elif step == 4:
            of = open_ones.pop(draw(st.integers(0, len(open_ones) - 1)))
            out.append(data(of, b"", END_STREAM) if draw(st.booleans()) else wire.reset(of, ErrorCode.CANCEL))
        elif step == 5:
            out.append(wire.settings({Setting.INITIAL_WINDOW_SIZE: draw(st.integers(0, 5000))}))
        else:
            out.append(wire.window_update(draw(st.sampled_from([0, *open_ones])), draw(st.integers(1, 5000))))
    return b"".join(out)


def run(pieces: list[bytes]) -> tuple[list[tuple[object, ...]], bytes, int, int]:
    client = Client(_LIMITS, hello=b"")
    out = b""
    for piece in pieces:
        client.connection.receive(piece)
        out += client.connection.take()
    return client.events, out, client.connection.calls, client.connection.kept


@settings(max_examples=60, deadline=None)
@given(conversations(), st.data())
def test_how_bytes_are_cut_changes_nothing(whole: bytes, draw: st.DataObject) -> None:
    want = run([whole])
    assert want == run([whole[i : i + 1] for i in range(len(whole))])
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    assert want == run([whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)])


def test_every_single_border() -> None:
    whole = (
        HELLO
        + headers(1)
        + data(1, grpc(b"abc") + grpc(b"defg"))
        + headers(3)
        + data(1, b"", END_STREAM)
        + data(3, b"")
    )
    want = run([whole])
    assert [event[0] for event in want[0]] == ["open", "message", "message", "open", "end"]
    for i in range(len(whole) + 1):
        assert run([whole[:i], whole[i:]]) == want


def bounded(client: Client) -> None:
    """Never more than the limits and a message, a frame and a header block on top."""
    connection = client.connection
    assert connection.calls <= _LIMITS.streams
    assert connection.kept <= _LIMITS.buffered + _LIMITS.unsent + wire.DEFAULT_FRAME + 65_536 + 9


def feed(pieces: list[bytes]) -> None:
    """Any other error than the one of the peer fails the test; so does a handler that is told what it must not be."""
    client = Client(_LIMITS, hello=b"")
    with contextlib.suppress(PeerError):
        for piece in pieces:
            client.connection.receive(piece)
            bounded(client)
            client.said()
    client.connection.lost()
    assert (client.connection.calls, client.connection.kept) == (0, 0)
    over: set[object] = set()
    for event in client.events:
        assert event[1] not in over
        if event[0] in ("end", "lost") or event[2:] == (b"finish",):
            over.add(event[1])


_FRAMES = st.builds(
    frame,
    st.one_of(st.integers(0, 10), st.just(0), st.just(1)),
    st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x20]), st.integers(0, 255)),
    st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1)),
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=40).map(grpc),
        st.sampled_from([bytes(4), b"\0\0\0\1", b"\x7f\xff\xff\xff", bytes(3000), bytes(16_384), headers(1)[9:]]),
        st.sampled_from([headers(1)[9:], grpc(b"finish"), grpc(bytes(2990)), grpc(bytes(2990))[:2000]]),
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_FRAMES, max_size=30))
def test_arbitrary_frames_raise_nothing_but_peer_errors(pieces: list[bytes]) -> None:
    feed([HELLO, *pieces])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=10), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_peer_errors(pieces: list[bytes], greeted: bool) -> None:
    feed([HELLO if greeted else b"", *pieces])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=8))
def test_arbitrary_header_blocks_raise_nothing_but_peer_errors(blocks: list[bytes]) -> None:
    feed([HELLO, *(headers(2 * i + 1, data=piece) for i, piece in enumerate(blocks))])


@settings(max_examples=100, deadline=None)
@given(conversations(), st.integers(0, 2000), st.integers(0, 255))
def test_one_wrong_byte_raises_nothing_but_a_peer_error(whole: bytes, where: int, value: int) -> None:
    where %= len(whole)
    feed([whole[:where] + bytes((value,)) + whole[where + 1 :]])
