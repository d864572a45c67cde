"""Log-probabilities, deterministic from the token: high for most tokens, now and then low."""

from typing import Any

from ralb_sim import tokens
from ralb_sim.answers import Answer


def chat_logprobs(answer: Answer, begin: int, end: int, alternatives: int) -> dict[str, Any]:
    """Return the chat form for the content tokens among output tokens `begin` to `end`."""
    return {"content": [_entry(text, logprob, alternatives) for text, logprob in _content(answer, begin, end)]}


def completion_logprobs(answer: Answer, begin: int, end: int, alternatives: int) -> dict[str, Any]:
    """Return the text-completion form for output tokens `begin` to `end`."""
    rows = _content(answer, begin, end)
    offsets, position = [], begin * tokens.TOKEN_BYTES
    for text, _logprob in rows:
        offsets.append(position)
        position += len(text)
    return {
        "text_offset": offsets,
        "token_logprobs": [logprob for _text, logprob in rows],
        "tokens": [text for text, _logprob in rows],
        "top_logprobs": [
            {one["token"]: one["logprob"] for one in _alternatives(text, logprob, alternatives)}
            for text, logprob in rows
        ],
    }


def _content(answer: Answer, begin: int, end: int) -> list[tuple[str, float]]:
    found = []
    for part in answer.segments:
        if part.kind == "content":
            for index in range(max(begin, part.start), min(end, part.end)):
                at = (index - part.start) * tokens.TOKEN_BYTES
                text = part.text[at : at + tokens.TOKEN_BYTES]
                share = (tokens.fingerprint(text.encode(), index) & 0xFFFF) / 0xFFFF
                found.append((text, -0.01 - 3.0 * share**4))
    return found


def _entry(text: str, logprob: float, alternatives: int) -> dict[str, Any]:
    return {
        "token": text,
        "logprob": logprob,
        "bytes": list(text.encode()),
        "top_logprobs": _alternatives(text, logprob, alternatives),
    }


def _alternatives(text: str, logprob: float, number: int) -> list[dict[str, Any]]:
    rows = [(text, logprob)] + [(f" {chr(97 + rank)}", logprob - 1.0 - rank) for rank in range(number - 1)]
    return [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in rows[:number]]
