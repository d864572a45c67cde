"""Token counts of an answer that passes by, without parsing it: both ends of it are kept and read at the end.

All APIs say ``"usage": {...}`` near the end, in JSON as in the events of a stream; Anthropic's streams say the prompt's part
of it in their first event. Within a JSON string quotes are escaped, so the needle with its quotes is never text of the
answer. Numbers come from pods: an impossible one counts as not said.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from ralb_extproc.feedback.outcome import MAX_TOKENS

HEAD: Final = 4 * 1024
TAIL: Final = 16 * 1024
_NEEDLE: Final = b'"usage"'
_LONGEST: Final = 4 * 1024
_TRIES: Final = 8
_SPACE: Final = b" \t\r\n"
# Field of Tokens -> where servers say it, first found counts.
_INPUT: Final = (("prompt_tokens",), ("input_tokens",))
_OUTPUT: Final = (("completion_tokens",), ("output_tokens",))
_CACHED: Final = (
    ("prompt_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cached_tokens"),
    ("cache_read_input_tokens",),
)
_REASONING: Final = (
    ("completion_tokens_details", "reasoning_tokens"),
    ("output_tokens_details", "reasoning_tokens"),
)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Counts as the server said them; None = it did not."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None


class UsageReader:
    """Keeps the ends of a body.

    Attributes:
        size: bytes seen.
    """

    __slots__ = ("_head", "_tail", "size")

    def __init__(self) -> None:
        self._head = b""
        self._tail = bytearray()
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Take a part of the body."""
        self.size += len(data)
        if len(self._head) < HEAD:
            self._head += data[: HEAD - len(self._head)]
        self._tail += data[-TAIL:]
        if len(self._tail) > 4 * TAIL:
            del self._tail[:-TAIL]

    def tokens(self) -> Tokens:
        """What the body said, once it is over."""
        last = _find(bytes(self._tail), from_end=True)
        if not last:
            return Tokens()
        said = (last, _find(self._head, from_end=False)) if _number(last, _INPUT) is None else (last,)
        return Tokens(*(_first(said, paths) for paths in (_INPUT, _OUTPUT, _CACHED, _REASONING)))


def _first(said: tuple[dict[str, Any], ...], paths: tuple[tuple[str, ...], ...]) -> int | None:
    return next((number for usage in said if (number := _number(usage, paths)) is not None), None)


def _number(usage: dict[str, Any], paths: tuple[tuple[str, ...], ...]) -> int | None:
    for path in paths:
        value: Any = usage
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) is int and 0 <= value <= MAX_TOKENS:
            return value
    return None


def _find(data: bytes, *, from_end: bool) -> dict[str, Any]:
    """The last (first) usage object that is whole; empty if there is none."""
    low, high = 0, len(data)
    for _ in range(_TRIES):
        at = data.rfind(_NEEDLE, low, high) if from_end else data.find(_NEEDLE, low, high)
        if at < 0:
            break
        found = _object(data, at + len(_NEEDLE))
        if found:
            return found
        low, high = (low, at) if from_end else (at + 1, high)
    return {}


def _object(data: bytes, position: int) -> dict[str, Any]:
    rest = data[position : position + _LONGEST].lstrip(_SPACE)
    if not rest.startswith(b":"):
        return {}
    rest = rest[1:].lstrip(_SPACE)
    if not rest.startswith(b"{"):
        return {}
    depth = 0
    for index, byte in enumerate(rest):
        if byte == 0x7B:
            depth += 1
        elif byte == 0x7D:
            depth -= 1
            if not depth:
                try:
                    value = orjson.loads(rest[: index + 1])
                except orjson.JSONDecodeError:
                    return {}
                return value if isinstance(value, dict) else {}
    return {}
