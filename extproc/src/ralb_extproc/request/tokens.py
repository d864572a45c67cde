"""How many tokens a text is, roughly, without a tokenizer: every byte has a weight by the script it begins a character of.

Models differ by more than this estimate errs: the same text can be 30 % longer in one vocabulary than in another. The
weights aim at the middle of today's 100k-260k vocabularies: English prose comes out near 4 to 4.5 characters a token, code
near 3, JSON near 3.5, Cyrillic near 2.5, Chinese near 1.35. UTF-8 makes it cheap: the first byte of a character tells its
script, continuation bytes weigh nothing, so an estimate is one table look-up over the bytes. Long texts are sampled, so the
cost is bounded.
"""

from typing import Final

import numpy as np

SAMPLE_ABOVE: Final = 4_096
"""Units (characters, or bytes of JSON) up to which every one is looked at."""
_WINDOWS: Final = 16
_WINDOW: Final = 256

MESSAGE_OVERHEAD: Final = 4
"""Tokens a chat template adds around one message."""
REPLY_OVERHEAD: Final = 3
"""Tokens with which a template opens the answer."""
IMAGE_TOKENS: Final = {"low": 85, "auto": 765, "high": 1105}
"""Per image by OpenAI's ``detail``; servers of open models use 250 to 3,000."""
AUDIO_TOKENS: Final = 500
FILE_TOKENS: Final = 2_000
"""Audio and files are not decoded, so these are mere placeholders."""


def _weights() -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    table = np.zeros(256, dtype=np.float32)
    table[:0x80] = 0.65  # punctuation: often, not always, a token of its own
    table[:0x20] = 0.2
    for byte in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        table[byte] = 0.15
    table[ord(" ")] = 0.45  # a word costs about one token however short
    table[ord("\n")] = 0.60
    for byte in b",.":
        table[byte] = 0.80  # in prose nearly always
    for byte in b"\"'`":
        table[byte] = 0.35
    for byte in b"0123456789":
        table[byte] = 0.55  # one to three digits a token
    table[0xC2:0xCE] = 0.55  # accented Latin: splits words
    table[0xCE:0xD0] = 0.45  # Greek
    table[0xD0:0xD4] = 0.36  # Cyrillic
    table[0xD4:0xD8] = 0.50  # Armenian, Hebrew
    table[0xD8:0xE0] = 0.42  # Arabic
    table[0xE0] = 0.60  # Indic scripts, Thai
    table[0xE1] = 0.70
    table[0xE2] = 0.80  # typographic punctuation, symbols
    table[0xE3] = 0.80  # kana
    table[0xE4:0xEA] = 0.74  # Han
    table[0xEA:0xEE] = 0.65  # Hangul
    table[0xEE:0xF0] = 0.80  # full-width forms
    table[0xF0:0xF8] = 2.0  # emoji and rare characters
    return table


_WEIGHTS: Final = _weights()
# Two spaces side by side are indentation, which merges into few tokens.
_PAIR_OF_SPACES: Final = 0.80
_PAIR_OF_NEWLINES: Final = 0.6


def _weigh(raw: bytes) -> float:
    if not raw:
        return 0.0
    total = float(_WEIGHTS.take(np.frombuffer(raw, dtype=np.uint8)).sum())
    return total - _PAIR_OF_SPACES * raw.count(b"  ") - _PAIR_OF_NEWLINES * raw.count(b"\n\n")


def estimate(text: str) -> int:
    """Tokens of a text: 0 for "", at least 1 otherwise. Looks at up to 4,096 characters, in even samples of longer ones."""
    length = len(text)
    if length <= SAMPLE_ABOVE:
        return _rounded(_weigh(text.encode("utf-8", "surrogatepass")), length)
    step = (length - _WINDOW) / (_WINDOWS - 1)
    sample = "".join([text[int(i * step) : int(i * step) + _WINDOW] for i in range(_WINDOWS)])
    return _rounded(_weigh(sample.encode("utf-8", "surrogatepass")) * length / len(sample), length)


def estimate_json(raw: bytes) -> int:
    """The same for encoded JSON, such as the tools offered."""
    length = len(raw)
    if length <= SAMPLE_ABOVE:
        return _rounded(_weigh(raw), length)
    step = (length - _WINDOW) / (_WINDOWS - 1)
    sample = b"".join([raw[int(i * step) : int(i * step) + _WINDOW] for i in range(_WINDOWS)])
    return _rounded(_weigh(sample) * length / len(sample), length)


def _rounded(tokens: float, length: int) -> int:
    return max(1, round(tokens)) if length else 0
