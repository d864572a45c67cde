"""What answers are like, learned from those that were: expected length per pool and intent, bytes per token per pool.

Both are exponentially weighted means in bounded maps; a key beyond the bound shares one entry.
"""

from dataclasses import dataclass, field
from typing import Final

_RATE: Final = 0.05
_MAX_KEYS: Final = 8192
_OTHER: Final = ("", "")
DEFAULT_OUTPUT: Final = 256.0
# Bytes of body per answer token before anything was learned: one SSE chunk per token, or plain text in one JSON object.
DEFAULT_BYTES: Final = {"stream": 220.0, "json": 5.0}


@dataclass(slots=True)
class _Means:
    default: float
    values: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, key: tuple[str, str], value: float) -> None:
        if key not in self.values and len(self.values) >= _MAX_KEYS:
            key = _OTHER
        old = self.values.get(key)
        self.values[key] = value if old is None else old + _RATE * (value - old)

    def get(self, key: tuple[str, str]) -> float | None:
        return self.values.get(key)


class Lengths:
    """Learned means of answers."""

    def __init__(self) -> None:
        self._output = _Means(DEFAULT_OUTPUT)
        self._bytes = _Means(0.0)

    def learn(self, pool: str, intent: str, *, stream: bool, output_tokens: int, response_bytes: int) -> None:
        """Take in one complete answer whose tokens the server counted."""
        if output_tokens <= 0:
            return
        self._output.add((pool, intent), float(output_tokens))
        self._output.add((pool, ""), float(output_tokens))
        if response_bytes > 0:
            self._bytes.add((pool, _form(stream)), response_bytes / output_tokens)

    def expected_output(self, pool: str, intent: str, limit: int = 0) -> int:
        """Expected answer tokens; the pool's mean where the intent is new, at most ``limit`` unless 0."""
        mean = self._output.get((pool, intent)) or self._output.get((pool, "")) or DEFAULT_OUTPUT
        tokens = max(1, round(mean))
        return min(tokens, limit) if limit > 0 else tokens

    def estimate_output(self, pool: str, response_bytes: int, *, stream: bool) -> int:
        """Answer tokens of a body of this size, for answers that came without usage."""
        per_token = self._bytes.get((pool, _form(stream))) or DEFAULT_BYTES[_form(stream)]
        return round(response_bytes / max(per_token, 0.1))


def _form(stream: bool) -> str:
    return "stream" if stream else "json"
