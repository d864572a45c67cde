"""A request's prompt as canonical bytes: equal prefixes of conversations give equal prefixes of bytes.

All that a chat template renders takes part, in the order templates render it: tools, then the system prompt, then every turn
with its role, text, tool calls and attachments. What only steers sampling does not. Attachments and other long values stand as
digests, so a request with a 10 MB image costs no more than its text. Nothing here is kept or logged.
"""

from typing import Any, Final

import xxhash

from ralb_extproc.place.prefix import MAX_BYTES, NO_PREFIX, Prefix, hash_blocks
from ralb_extproc.types import Api, Request

_TURN: Final = "\x02"
_PART: Final = "\x1f"
_LONG: Final = 2048
_MAX_DEPTH: Final = 32
_MAX_NODES: Final = 20_000


def prefix_of(request: Request) -> Prefix:
    """The hashed prompt of a request; empty for endpoints whose engines keep no prefix cache.

    The asked model name seeds the hash: an adapter's cache entries are not those of its base model.
    """
    if request.api is Api.EMBEDDINGS:
        return NO_PREFIX
    return hash_blocks(canonical(request), xxhash.xxh3_64_intdigest(request.model.encode("utf-8", "surrogatepass")))


def canonical(request: Request) -> bytes:
    """The prompt as bytes; never raises on odd shapes, they are written out as they are."""
    body = request.body
    writer = _Writer()
    if request.api is Api.COMPLETIONS:
        writer.text(body.get("prompt"))
    else:
        writer.value(body.get("tools"))
        if request.api is Api.RESPONSES:
            writer.turn("system", body.get("instructions"))
            writer.turns(body.get("input"))
        else:
            writer.turn("system", body.get("system"))
            writer.turns(body.get("messages"))
    return writer.done()


class _Writer:
    """Pieces of text up to the size that is hashed, with a bound on the values visited."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0
        self._nodes = 0

    def done(self) -> bytes:
        return "".join(self._pieces).encode("utf-8", "surrogatepass")

    def _put(self, piece: str) -> None:
        self._pieces.append(piece)
        self._size += len(piece)

    def _full(self) -> bool:
        return self._size > MAX_BYTES or self._nodes > _MAX_NODES

    def turns(self, turns: Any) -> None:
        if not isinstance(turns, list):
            self.turn("user", turns)
            return
        for turn in turns:
            if self._full():
                return
            if not isinstance(turn, dict):
                self.turn("user", turn)
                continue
            role = turn.get("role") or turn.get("type")
            self.turn(role if isinstance(role, str) else "", turn.get("content"))
            for key, value in turn.items():
                if value is not None and key not in ("role", "content"):
                    self._put(f"{_PART}{key}")
                    self.value(value)

    def turn(self, role: str, content: Any) -> None:
        if content is not None:
            self._put(_TURN + role + _PART)
            self.text(content)

    def text(self, content: Any) -> None:
        """Message content: a string, or a list of parts; one text part is the same as a string."""
        if isinstance(content, str):
            self._put(content)
        elif isinstance(content, list):
            for part in content:
                self._nodes += 1
                if self._full():
                    return
                if isinstance(part, str):
                    self._put(part)
                elif isinstance(part, dict) and isinstance(part.get("text"), str):
                    self._put(part["text"])
                else:
                    self.value(part)
        else:
            self.value(content)

    def value(self, value: Any, depth: int = 0) -> None:
        """Anything else: keys in order of name, long strings as digests."""
        self._nodes += 1
        if value is None or depth > _MAX_DEPTH or self._full():
            return
        if isinstance(value, str):
            if len(value) > _LONG:
                value = xxhash.xxh3_64_hexdigest(value.encode("utf-8", "surrogatepass"))
            self._put(f"{_PART}{value}")
        elif isinstance(value, dict):
            for key in sorted(value):
                self._put(f"{_PART}{key}:")
                self.value(value[key], depth + 1)
        elif isinstance(value, list):
            for item in value:
                self.value(item, depth + 1)
        else:
            self._put(f"{_PART}{value}")
