"""Conversations to prompt token sequences, as a chat template renders them.

Every API is first brought to plain turns; a growing conversation then renders to a growing sequence that shares its beginning,
which is what prefix caches and prefix-aware routers live on. Reasoning of earlier turns is left out, as templates do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import xxhash

from ralb_sim import tokens

MEDIA_TOKENS = 256
"""Prompt tokens an image or another attachment takes."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of an earlier turn; `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Media:
    """An attachment, known by the hash of its content."""

    digest: int

    def tokens(self) -> bytes:
        """Return its tokens: a fixed number, the same for the same content."""
        # A byte 0xFE occurs in no UTF-8 text: media never looks like text to the cache.
        marks = ((self.digest + index) & 0x7FFFFF | 0xFE000000 for index in range(MEDIA_TOKENS))
        return b"".join(mark.to_bytes(4, "little") for mark in marks)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: a role, text and attachment pieces in order, and the tool calls made."""

    role: str
    pieces: tuple[bytes | Media, ...] = ()
    calls: tuple[Call, ...] = ()


def text_piece(text: str) -> bytes:
    """Return the tokens of a text."""
    return tokens.encode(text)


def media_piece(content: Any) -> Media:
    """Return the mark of an attachment: the same for the same content."""
    return Media(xxhash.xxh3_64_intdigest(orjson.dumps(content, default=str)))


def media_count(turns: Sequence[Turn]) -> int:
    """Return how many attachments a conversation has; check it before `render`, which gives each its tokens."""
    return sum(isinstance(piece, Media) for turn in turns for piece in turn.pieces)


def render(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = (), *, thinking: bool = False) -> bytes:
    """Render a conversation up to where the assistant's answer begins.

    Args:
        turns: The turns in order.
        tools: Tool definitions as the client gave them; they stand before the first turn.
        thinking: Whether the answer opens with reasoning.
    """
    parts = [tokens.BOS]
    if tools:
        parts.append(tokens.turn("system", [tokens.encode(orjson.dumps(list(tools)).decode())]))
    for turn in turns:
        body = [piece.tokens() if isinstance(piece, Media) else piece for piece in turn.pieces]
        for call in turn.calls:
            body += [tokens.TOOL_MARK, tokens.encode(call.name), tokens.encode(call.arguments)]
        parts.append(tokens.turn(turn.role, body))
    parts.append(tokens.role_token("assistant"))
    if thinking:
        parts.append(tokens.THINK_START)
    return b"".join(parts)
