"""What answers are like, learned from those that were: expected length per pool, intent, effort and adapter; bytes per token.

How long an answer gets is told best by what was asked, and with reasoning models by how much they are to think. So an answer
counts for its (intent, effort, adapter), and for what is wider: (intent, effort), the intent, the pool. What is expected is the
narrowest that is known. All are means in bounded maps, exponentially weighted once there are some answers; what is new when a map
is full is left out.
"""

from dataclasses import dataclass, field
from typing import Final

_RATE: Final = 0.05
_MAX_KEYS: Final = 16_384
_Key = tuple[str, ...]
# Others are as if not said: clients write what they like.
EFFORTS: Final = frozenset({"none", "minimal", "low", "medium", "high", "xhigh"})
DEFAULT_OUTPUT: Final = 256.0
# Bytes of body per answer token before anything was learned: one SSE chunk per token, or plain text in one JSON object.
DEFAULT_BYTES: Final = {"stream": 220.0, "json": 5.0}


@dataclass(slots=True)
class _Means:
    values: dict[_Key, tuple[float, int]] = field(default_factory=dict)  # mean, answers

    def add(self, key: _Key, value: float) -> None:
        if key not in self.values and len(self.values) >= _MAX_KEYS:
            return
        mean, count = self.values.get(key, (0.0, 0))
        count += 1
        self.values[key] = mean + max(_RATE, 1.0 / count) * (value - mean), count

    def get(self, key: _Key) -> float | None:
        found = self.values.get(key)
        return found[0] if found is not None else None


class Lengths:
    """Learned means of answers."""

    def __init__(self) -> None:
        self._output = _Means()
        self._bytes = _Means()

    def learn(
        self,
        pool: str,
        intent: str,
        effort: str = "",
        adapter: str = "",
        *,
        stream: bool,
        output_tokens: int,
        response_bytes: int,
    ) -> None:
        """Take in one complete answer whose tokens the server counted."""
        if output_tokens <= 0:
            return
        for key in dict.fromkeys(reversed(_keys(pool, intent, effort, adapter))):
            self._output.add(key, float(output_tokens))
        if response_bytes > 0:
            self._bytes.add((pool, _form(stream)), response_bytes / output_tokens)

    def expected_output(
        self, pool: str, intent: str = "", effort: str = "", adapter: str = "", *, limit: int = 0
    ) -> int:
        """Expected answer tokens, at most ``limit`` unless 0.

        Args:
            pool: pool id.
            intent: what the request is about; "" = not known.
            effort: how much it is to be reasoned about; "" = not said.
            adapter: LoRA adapter asked for; "" = none.
            limit: most tokens the answer may have.
        """
        keys = _keys(pool, intent, effort, adapter)
        mean = next((mean for key in keys if (mean := self._output.get(key)) is not None), DEFAULT_OUTPUT)
        tokens = max(1, round(mean))
        return min(tokens, limit) if limit > 0 else tokens

    def estimate_output(self, pool: str, response_bytes: int, *, stream: bool) -> int:
        """Answer tokens of a body of this size, for answers that came without usage."""
        per_token = self._bytes.get((pool, _form(stream))) or DEFAULT_BYTES[_form(stream)]
        return round(response_bytes / max(per_token, 0.1))


def _keys(pool: str, intent: str, effort: str, adapter: str) -> tuple[_Key, ...]:
    """What an answer counts for, the narrowest first; of several that are the same, all."""
    effort = effort if effort in EFFORTS else ""
    return (pool, intent, effort, adapter), (pool, intent, effort, ""), (pool, intent, "", ""), (pool, "", "", "")


def _form(stream: bool) -> str:
    return "stream" if stream else "json"
