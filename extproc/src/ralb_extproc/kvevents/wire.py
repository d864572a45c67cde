"""One message of an engine's event stream -> plain events.

The format is vLLM's (SGLang speaks it too): a ZeroMQ multipart message of topic, sequence number (8 bytes, big-endian) and a
msgpack batch. A batch and its events are arrays with a leading tag (``[ts, [["BlockStored", ...], ...], rank]``) or, from newer
engines, maps (``{"ts": ..., "events": [{"type": "BlockStored", ...}]}``); either may be inside the other. Fields that follow
those known here are ignored, so is every event of another kind.

A block's hash is an int or bytes, of any length; here it is 64 bits either way. Token ids are not kept.

May not enter: sockets, state. Everything is hostile: sizes, counts and depth are bounded before objects are made of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

MAX_PAYLOAD: Final = 1 << 20
MAX_EVENTS: Final = 16_384
MAX_HASHES: Final = 65_536
_MAX_ITEMS: Final = 262_144
_MAX_FIELDS: Final = 64
_MAX_TEXT: Final = 4096
_MAX_BYTES: Final = 256
_MAX_BLOCK: Final = 65_536
_MASK: Final = (1 << 64) - 1
_WIDTH: Final = 8
END_OF_REPLAY: Final = b"\xff" * _WIDTH
# What is cached on the accelerator itself; blocks moved to other media are no prefix hits there.
_MEDIA: Final = (None, "GPU")


class WireError(ValueError):
    """A message that is not what engines send; ``kind`` says in a word why."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks that follow one another entered the cache.

    Attributes:
        hashes: of the blocks, never empty.
        parent: hash of the block before them; None at the beginning of a prompt.
        block_size: tokens per block.
    """

    hashes: tuple[int, ...]
    parent: int | None
    block_size: int


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks left the cache."""

    hashes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cleared:
    """The whole cache was emptied."""


Event = Stored | Removed | Cleared


@dataclass(frozen=True, slots=True)
class Batch:
    """What one message says.

    Attributes:
        ts: the engine's clock, Unix seconds.
        events: in order.
        skipped: events of unknown kinds, of other media than the accelerator's memory, or of further cache groups.
    """

    ts: float
    events: tuple[Event, ...]
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """A numbered batch, not yet read."""

    sequence: int
    payload: bytes


def message(frames: Sequence[bytes]) -> Message:
    """A multipart message: topic, sequence number and payload, or the last two (replays come without a topic).

    Raises:
        WireError: kind ``frames`` or ``size``.
    """
    if not 2 <= len(frames) <= 4 or len(frames[-2]) != _WIDTH:
        raise WireError("frames")
    if len(frames[-1]) > MAX_PAYLOAD:
        raise WireError("size")
    return Message(int.from_bytes(frames[-2], "big"), frames[-1])


def request_from(sequence: int) -> list[bytes]:
    """The frames that ask for a replay of all kept messages from a number on."""
    return [b"", sequence.to_bytes(_WIDTH, "big")]


def decode(payload: bytes) -> Batch:
    """Read a batch.

    Raises:
        WireError: kind ``size``, ``msgpack`` or ``shape``.
    """
    if len(payload) > MAX_PAYLOAD:
        raise WireError("size")
    try:
        value = msgpack.unpackb(
            payload,
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_FIELDS,
            max_str_len=_MAX_TEXT,
            max_bin_len=_MAX_BYTES,
            max_ext_len=_MAX_BYTES,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise WireError("msgpack") from error
    ts, items = _batch(value)
    if len(items) > MAX_EVENTS:
        raise WireError("size")
    events: list[Event] = []
    skipped = 0
    for item in items:
        event = _event(item)
        if event is None:
            skipped += 1
        else:
            events.append(event)
    return Batch(ts, tuple(events), skipped)


def _batch(value: Any) -> tuple[float, list[Any]]:
    if isinstance(value, list) and len(value) >= 2:
        ts, items = value[0], value[1]
    elif isinstance(value, dict):
        ts, items = value.get("ts"), value.get("events")
    else:
        raise WireError("shape")
    if isinstance(ts, bool) or not isinstance(ts, int | float) or not isinstance(items, list):
        raise WireError("shape")
    return float(ts) if -1e15 < ts < 1e15 else 0.0, items


def _event(item: Any) -> Event | None:
    if isinstance(item, dict):
        return _from_map(item.get("type"), item)
    if isinstance(item, list) and item:
        return _from_map(item[0], _named(item))
    raise WireError("shape")


_FIELDS: Final = {
    "BlockStored": (
        "block_hashes",
        "parent_block_hash",
        "token_ids",
        "block_size",
        "lora_id",
        "medium",
        "lora_name",
        "extra_keys",
        "group_idx",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}


def _named(item: list[Any]) -> dict[str, Any]:
    """An event in array form by the names of its fields."""
    known = _FIELDS.get(item[0], ()) if isinstance(item[0], str) else ()
    return dict(zip(known, item[1:], strict=False))


def _from_map(kind: Any, fields: Mapping[str, Any]) -> Event | None:
    if not isinstance(kind, str) or kind not in _FIELDS:
        return None
    if kind == "AllBlocksCleared":
        return Cleared()
    if fields.get("medium") not in _MEDIA or fields.get("group_idx") not in (None, 0):
        return None
    hashes = _hashes(fields.get("block_hashes"))
    if kind == "BlockRemoved":
        return Removed(hashes)
    size, parent = fields.get("block_size"), fields.get("parent_block_hash")
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MAX_BLOCK:
        raise WireError("shape")
    return Stored(hashes, None if parent is None else _hash(parent), size) if hashes else None


def _hashes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise WireError("shape")
    if len(value) > MAX_HASHES:
        raise WireError("size")
    return tuple([_hash(item) for item in value])


def _hash(value: Any) -> int:
    if isinstance(value, bytes):
        return int.from_bytes(value[-_WIDTH:], "big")
    if isinstance(value, int) and not isinstance(value, bool):
        return value & _MASK
    raise WireError("shape")
