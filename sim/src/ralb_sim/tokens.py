"""Text to tokens, cheaply and deterministically.

A token is four UTF-8 bytes of text: near the four characters a token of real tokenizers for English, and a common text
prefix gives a common token prefix (apart from a last, partial token). A token sequence is a `bytes` object, four bytes a
token, so a 100,000-token prompt costs one buffer and hashing a KV block is hashing a slice.

Control tokens (turn starts and ends, thinking marks) are four bytes that no UTF-8 text contains, so text cannot forge them.
Trap: every text segment is padded to whole tokens; concatenating texts first and encoding later gives other tokens.
"""

import struct
from collections.abc import Sequence
from itertools import pairwise

import xxhash

TOKEN_BYTES = 4
"""Bytes a token takes in a sequence."""

VOCABULARY = 128_256
"""Size of the pretended vocabulary; ids shown to clients are below it."""

BOS = b"\xff\xfe\x00\x00"
TURN_END = b"\xff\xfe\x00\x01"
THINK_START = b"\xff\xfe\x00\x02"
THINK_END = b"\xff\xfe\x00\x03"
TOOL_MARK = b"\xff\xfe\x00\x04"
_ROLE = b"\xff\xfe\x01"
_ROLES = {"system": 0, "developer": 0, "user": 1, "assistant": 2, "tool": 3, "function": 3}


def encode(text: str) -> bytes:
    """Encode text as whole tokens (the last one padded with zero bytes); empty text gives no token."""
    # Lone surrogates are legal in JSON; they must not break a simulator.
    raw = text.encode("utf-8", "surrogatepass")
    return raw + b"\0" * (-len(raw) % TOKEN_BYTES)


def count(tokens: bytes) -> int:
    """Return the number of tokens in a sequence."""
    return len(tokens) // TOKEN_BYTES


def role_token(role: str) -> bytes:
    """Return the control token that opens a turn of `role` (unknown roles share one)."""
    return _ROLE + bytes((_ROLES.get(role, 4),))


def ids(tokens: bytes) -> list[int]:
    """Return vocabulary-like ids (0 <= id < `VOCABULARY`) of a sequence; equal tokens give equal ids."""
    return [(word * 0x9E3779B1 >> 7) % VOCABULARY for (word,) in struct.iter_unpack("<I", tokens)]


def strings(tokens: bytes) -> list[str]:
    """Return each token's text as a tokenizer would show it (undecodable bytes replaced)."""
    step = range(0, len(tokens) + 1, TOKEN_BYTES)
    return [tokens[start:end].rstrip(b"\0").decode("utf-8", "replace") for start, end in pairwise(step)]


def chain_hashes(tokens: bytes, block_size: int) -> list[int]:
    """Hash every full block of a sequence, each chained on the one before it.

    Args:
        tokens: A token sequence.
        block_size: Tokens per KV block.

    Returns:
        One 64-bit hash per full block: equal hashes mean equal content from the very start (up to collisions).
    """
    width = block_size * TOKEN_BYTES
    digest = xxhash.xxh3_64_intdigest
    hashes: list[int] = []
    parent = 0
    for start in range(0, len(tokens) - width + 1, width):
        parent = digest(tokens[start : start + width], seed=parent)
        hashes.append(parent)
    return hashes


def fingerprint(tokens: bytes, salt: int = 0) -> int:
    """Return a 64-bit hash of a whole sequence: the seed of everything drawn for it."""
    return xxhash.xxh3_64_intdigest(tokens, seed=salt)


def turn(role: str, body: Sequence[bytes]) -> bytes:
    """Return one turn of a conversation as a chat template would render it: opening mark, content, closing mark."""
    return b"".join((role_token(role), *body, TURN_END))
