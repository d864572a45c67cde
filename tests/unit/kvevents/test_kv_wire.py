"""Frames built by hand, as vLLM, SGLang and strangers send them."""

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ralb_extproc.kvevents import wire
from ralb_extproc.kvevents.wire import Batch, Cleared, Removed, Stored, WireError, decode, message

TS = 1_700_000_000.5
SHA = bytes(range(32))
LOW = int.from_bytes(SHA[-8:], "big")


def packed(*events, rank=0):
    return msgpack.packb([TS, list(events), rank])


def test_arrays_with_int_hashes():
    batch = decode(
        packed(
            ["BlockStored", [1, 2], None, list(range(32)), 16, None, "GPU"],
            ["BlockRemoved", [1, -1], "GPU"],
            ["AllBlocksCleared"],
        )
    )
    assert batch == Batch(TS, (Stored((1, 2), None, 16), Removed((1, 2**64 - 1)), Cleared()))


def test_arrays_of_the_first_engines_have_fewer_fields():
    assert decode(msgpack.packb([TS, [["BlockStored", [3], 2, [0] * 16, 16, None], ["BlockRemoved", [3]]]])) == Batch(
        TS, (Stored((3,), 2, 16), Removed((3,)))
    )


def test_maps_with_bytes():
    events = [
        {"type": "BlockStored", "block_hashes": [SHA], "parent_block_hash": SHA[:4], "token_ids": [0] * 32,
         "block_size": 32, "lora_id": None, "medium": "GPU", "lora_name": "a", "extra_keys": [["x", 1]], "group_idx": 0},
        {"type": "BlockRemoved", "block_hashes": [SHA], "medium": None},
        {"type": "AllBlocksCleared"},
    ]  # fmt: skip
    expected = (Stored((LOW,), 0x00010203, 32), Removed((LOW,)), Cleared())
    assert decode(msgpack.packb({"ts": TS, "events": events, "data_parallel_rank": 1})) == Batch(TS, expected)
    assert decode(msgpack.packb([TS, events, None])) == Batch(TS, expected)


def test_the_int_and_the_bytes_form_of_a_hash_are_the_same():
    as_int = int.from_bytes(SHA, "big") & (2**64 - 1)
    stored = [decode(packed(["BlockRemoved", [each]])).events for each in (SHA, as_int)]
    assert stored[0] == stored[1]


def test_fields_that_follow_those_known_are_ignored():
    event = ["BlockStored", [1], None, [0] * 16, 16, None, "GPU", None, None, 0, "full", 4096, "more"]
    assert decode(packed(event)).events == (Stored((1,), None, 16),)


@pytest.mark.parametrize(
    "event",
    [
        ["BlockMoved", [1]],
        {"type": "BlockMoved"},
        {"kind": "BlockStored"},
        ["BlockStored", [1], None, [], 16, None, "CPU"],
        ["BlockRemoved", [1], "DISK"],
        ["BlockStored", [1], None, [], 16, None, "GPU", None, None, 2],
        ["BlockRemoved", [1], "GPU", 1],
        ["BlockStored", [], None, [], 16, None],
        [17, 1],
    ],
)
def test_events_that_say_nothing_of_the_accelerator_are_skipped_and_counted(event):
    assert decode(packed(event, ["AllBlocksCleared"])) == Batch(TS, (Cleared(),), skipped=1)


@pytest.mark.parametrize(
    "event",
    [
        [],
        7,
        None,
        "BlockStored",
        ["BlockStored"],
        ["BlockStored", 5, None, [], 16],
        ["BlockStored", [1.5], None, [], 16],
        ["BlockStored", [True], None, [], 16],
        ["BlockStored", [1], "x", [], 16],
        ["BlockStored", [1], None, [], 0],
        ["BlockStored", [1], None, [], True],
        ["BlockStored", [1], None, [], 2**40],
        ["BlockRemoved"],
        {"type": "BlockRemoved", "block_hashes": {"a": 1}},
    ],
)
def test_events_of_the_wrong_shape_spoil_the_batch(event):
    with pytest.raises(WireError) as raised:
        decode(packed(["AllBlocksCleared"], event))
    assert raised.value.kind == "shape"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", "msgpack"),
        (b"\xc1", "msgpack"),
        (packed()[:-1], "msgpack"),
        (packed() + b"x", "msgpack"),
        (b"\x91" * 5000 + b"\xc0", "msgpack"),
        (b"\xdd\xff\xff\xff\xff", "msgpack"),
        (b"\xdf\xff\xff\xff\xff", "msgpack"),
        (msgpack.packb([TS, ["x" * 10_000]]), "msgpack"),
        (msgpack.packb([TS, [b"x" * 1000]]), "msgpack"),
        (msgpack.packb({i: 1 for i in range(3)}), "msgpack"),
        (msgpack.packb([TS]), "shape"),
        (msgpack.packb(["now", []]), "shape"),
        (msgpack.packb([True, []]), "shape"),
        (msgpack.packb([TS, {}]), "shape"),
        (msgpack.packb({"events": []}), "shape"),
        (msgpack.packb(None), "shape"),
        (msgpack.packb([TS, [0] * (wire.MAX_EVENTS + 1)]), "size"),
        (packed(["BlockRemoved", [0] * (wire.MAX_HASHES + 1)]), "size"),
        (b"\xc0" * (wire.MAX_PAYLOAD + 1), "size"),
    ],
)
def test_hostile_payloads(payload, kind):
    with pytest.raises(WireError) as raised:
        decode(payload)
    assert raised.value.kind == kind


def test_clocks_that_cannot_be_count_as_zero():
    for ts in (float("nan"), float("inf"), -1e300, 2**63):
        assert decode(msgpack.packb([ts, []])).ts == 0.0


def test_frames_with_and_without_topic():
    seven = (7).to_bytes(8, "big")
    assert message([b"topic", seven, b"x"]) == wire.Message(7, b"x")
    assert message([b"", seven, b"x"]) == message([seven, b"x"]) == wire.Message(7, b"x")


@pytest.mark.parametrize("frames", [[], [b"x"], [b"", b"short", b"x"], [b""] * 5, [b"", b"x" * 9, b""]])
def test_frames_that_are_none(frames):
    with pytest.raises(WireError, match="frames"):
        message(frames)


def test_too_large_a_payload_is_not_kept():
    with pytest.raises(WireError, match="size"):
        message([b"", b"\0" * 8, b"x" * (wire.MAX_PAYLOAD + 1)])


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=40) | st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "GPU"]),
    lambda inner: st.lists(inner, max_size=6)
    | st.dictionaries(st.sampled_from(["type", "block_hashes", "parent_block_hash", "block_size", "events", "ts"]), inner),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | JSONISH.map(msgpack.packb) | st.lists(JSONISH, max_size=4).map(lambda e: packed(*e)))
def test_anything_is_a_batch_or_a_wire_error(payload):
    try:
        batch = decode(payload)
    except WireError:
        return
    for event in batch.events:
        for each in getattr(event, "hashes", ()):
            assert 0 <= each < 2**64
