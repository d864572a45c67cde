"""Deterministic answers: how long, what text, which tool call.

The answer to a request is known when the request arrives: it is drawn from a hash of the prompt. So the same prompt always
gets the same answer, the next turn of a conversation finds it in the prefix cache, and a test can rely on it. All text is
ASCII, so any cut at a token boundary is valid text.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Literal

from ralb_sim import tokens
from ralb_sim.schema_values import value_for

FinishReason = Literal["stop", "length", "tool_calls"]
Kind = Literal["reasoning", "content", "tool"]

_PROSE = (
    "the load of a pod is what it still has to compute and a balancer that sees only how many requests are open cannot tell "
    "a short question from a long document so it sends both to the same place and then waits while the cache that holds the "
    "shared beginning of a conversation makes the next turn cheap on one pod and dear on any other therefore route by work "
    "left by memory held and by what is already known measure both often forget old values soon and keep every answer plain"
)
_FILLER_CHARS = 1 << 15
_EFFORT = {"none": 1.0, "minimal": 0.25, "low": 0.5, "medium": 1.0, "high": 2.0, "xhigh": 3.0, "max": 3.0}


def _build_filler() -> bytes:
    rng = random.Random(7)
    vocabulary = _PROSE.split()
    words: list[str] = []
    size = 0
    while size < _FILLER_CHARS:
        sentence = " ".join(rng.choice(vocabulary) for _ in range(rng.randint(6, 16)))
        sentence = sentence[0].upper() + sentence[1:] + ". "
        words.append(sentence)
        size += len(sentence)
    return "".join(words).encode("ascii")


_FILLER = _build_filler()


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool offered by the client: its name and the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What shapes an answer.

    Attributes:
        model: Name the answer mentions.
        output_median: Median length in tokens.
        output_sigma: Spread of the log-normal length.
        reasoning_share: Share of the output spent on reasoning, 0..0.95.
        effort: `reasoning_effort` of the request; scales the length.
        limit: Most tokens to generate; at least 1.
        min_tokens: Least tokens to generate before the natural end.
        ignore_eos: Generate exactly `limit` tokens.
        stop: Strings that end the content (not included in it).
        json_schema: Schema the content must satisfy; `{}` means any JSON object; None means free text.
        tool: Tool to call instead of answering in text.
        named_tool: The client named the tool: the finish reason is then "stop", as vLLM gives it.
        salt: Distinguishes choices and seeds.
    """

    model: str
    output_median: int
    limit: int
    output_sigma: float = 0.7
    reasoning_share: float = 0.0
    effort: str = "medium"
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: Sequence[str] = ()
    json_schema: Mapping[str, Any] | None = None
    tool: Tool | None = None
    named_tool: bool = False
    salt: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of visible output: tokens `start` to `end` spell `text` (ASCII, four characters a token)."""

    kind: Kind
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer.

    Attributes:
        tokens: The output token sequence, control tokens included.
        segments: Visible stretches in order; empty ones are left out.
        tool: The tool called, if any; the tool segment holds the arguments.
        finish_reason: Why it ends.
        stop_reason: The stop string that ended it, if one did.
    """

    tokens: bytes
    segments: tuple[Segment, ...]
    tool: Tool | None
    finish_reason: FinishReason
    stop_reason: str | None = None

    @property
    def length(self) -> int:
        """Output tokens."""
        return tokens.count(self.tokens)

    @property
    def reasoning_tokens(self) -> int:
        """Output tokens spent on reasoning."""
        return sum(part.end - part.start for part in self.segments if part.kind == "reasoning")

    def text(self, kind: Kind, begin: int = 0, end: int | None = None) -> str:
        """Return the visible text of a kind within output tokens `begin` to `end`."""
        stop = self.length if end is None else end
        pieces = []
        for part in self.segments:
            if part.kind == kind and part.start < stop and part.end > begin:
                first = max(begin - part.start, 0) * tokens.TOKEN_BYTES
                pieces.append(part.text[first : (min(stop, part.end) - part.start) * tokens.TOKEN_BYTES])
        return "".join(pieces)


def filler(seed: int, number: int) -> str:
    """Return `number` tokens of plain sentences picked by `seed`."""
    size = number * tokens.TOKEN_BYTES
    start = _FILLER.index(b". ", seed % (_FILLER_CHARS // 2)) + 2
    text = _FILLER[start : start + size]
    while len(text) < size:
        text += _FILLER[: size - len(text)]
    return text.decode("ascii")


def drawn_length(seed: int, options: AnswerOptions) -> int:
    """Return the natural length in tokens: log-normal around the median, within [4, 12 x median]."""
    rng = random.Random(seed)
    scale = _EFFORT.get(options.effort, 1.0)
    drawn = options.output_median * scale * exp(rng.gauss(0.0, options.output_sigma))
    return max(4, min(round(drawn), 12 * options.output_median))


def compose(prompt: bytes, options: AnswerOptions) -> Answer:
    """Compose the answer to a prompt (a token sequence).

    Raises:
        ValueError: `limit` is below 1.
    """
    if options.limit < 1:
        raise ValueError(f"an answer needs a limit of at least one token, not {options.limit}")
    seed = tokens.fingerprint(prompt, options.salt)
    length = options.limit if options.ignore_eos else max(drawn_length(seed, options), options.min_tokens)
    thinking = round(length * options.reasoning_share)
    parts: list[bytes] = []
    segments: list[Segment] = []
    if thinking:
        # No more than is needed is ever built: a huge length with a small limit must stay cheap.
        _visible("reasoning", filler(seed >> 8, min(thinking, options.limit)), parts, segments)
        parts.append(tokens.THINK_END)
    reason: FinishReason = "stop"
    stop_reason: str | None = None
    if options.tool is not None:
        reason = "stop" if options.named_tool else "tool_calls"
        arguments = _json(value_for(options.tool.parameters, random.Random(seed)))
        parts += [tokens.TOOL_MARK, tokens.encode(options.tool.name)]
        _visible("tool", arguments, parts, segments)
    else:
        room = min(max(length - thinking - 1, 2), options.limit)
        content, stop_reason = _until_stop(_content(seed, room, options), options.stop)
        _visible("content", content, parts, segments)
    if not options.ignore_eos:
        parts.append(tokens.TURN_END)
    return _cut(b"".join(parts), segments, reason, stop_reason, options)


def _content(seed: int, room: int, options: AnswerOptions) -> str:
    if options.json_schema is not None:
        if options.json_schema:
            value = value_for(options.json_schema, random.Random(seed))
        else:
            value = {"answer": filler(seed, max(room - 5, 1)).strip()}
        return _json(value)
    name = options.model[:64].encode("ascii", "replace").decode("ascii")
    opening = f"This is a simulated answer from {name}. "
    size = room * tokens.TOKEN_BYTES
    return (opening + filler(seed, room))[:size]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _until_stop(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    hits = [(at, word) for word in stop if word and (at := text.find(word)) >= 0]
    if not hits:
        return text, None
    at, word = min(hits)
    return text[:at], word


def _visible(kind: Kind, text: str, parts: list[bytes], segments: list[Segment]) -> None:
    if not text:
        return
    start = sum(map(tokens.count, parts))
    body = tokens.encode(text)
    parts.append(body)
    segments.append(Segment(kind, start, start + tokens.count(body), text))


def _cut(
    output: bytes, segments: list[Segment], reason: FinishReason, stop_reason: str | None, options: AnswerOptions
) -> Answer:
    limit = options.limit
    if options.ignore_eos:
        # Structured or stopped answers end before the asked length; pad with blanks nobody sees, as a model would babble on.
        output += tokens.TURN_END * (limit - tokens.count(output))
        reason, stop_reason = "length", None
    if not output:
        output = tokens.TURN_END
    if tokens.count(output) <= limit:
        return Answer(output, tuple(segments), options.tool, reason, stop_reason)
    kept = []
    for part in segments:
        if part.start < limit:
            end = min(part.end, limit)
            kept.append(Segment(part.kind, part.start, end, part.text[: (end - part.start) * tokens.TOKEN_BYTES]))
    tool = options.tool if any(part.kind == "tool" for part in kept) else None
    return Answer(output[: limit * tokens.TOKEN_BYTES], tuple(kept), tool, "length")
