"""The estimate against token counts known from today's tokenizers, and its bounds."""

import pytest
from support_routing import chat, parsed

from ralb_extproc.request import tokens

# Counts by 100k to 200k entry vocabularies; short texts may be off by two whatever the share.
KNOWN = [
    ("The quick brown fox jumps over the lazy dog.", 10),
    ("antidisestablishmentarianism", 6),
    ("2 + 2 = 4", 7),
    ("Hello, world!", 4),
    ("お誕生日おめでとう", 8),
    ("To be, or not to be, that is the question.", 13),
    ("I have a dream that one day this nation will rise up and live out the true meaning of its creed.", 22),
    (
        "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips "
        "did Natalia sell altogether in April and May?",
        38,
    ),
    ("def add(a, b):\n    return a + b\n", 12),
    ('{"name": "get_weather", "arguments": {"city": "Paris"}}', 16),
    ("today " * 100, 100),
]


@pytest.mark.parametrize(("text", "count"), KNOWN)
def test_known_counts(text: str, count: int) -> None:
    assert abs(tokens.estimate(text) - count) <= max(2, 0.25 * count)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("Das Wetter ist heute schön, aber morgen soll es regnen. " * 20, 2.8, 4.6),
        ("Сегодня хорошая погода, а завтра обещают дождь. " * 20, 1.9, 3.4),  # noqa: RUF001
        ("今天天气很好,明天可能会下雨。" * 20, 1.1, 1.6),
        ("오늘은 날씨가 좋지만 내일은 비가 올 수 있습니다. " * 20, 1.2, 2.2),
        ("आज मौसम अच्छा है लेकिन कल बारिश हो सकती है। " * 20, 1.2, 2.6),
        ("الطقس جميل اليوم ولكن قد تمطر غدا. " * 20, 1.8, 3.2),
    ],
)
def test_characters_a_token_by_script(text: str, low: float, high: float) -> None:
    assert low <= len(text) / tokens.estimate(text) <= high


def test_nothing_costs_nothing_and_anything_costs_something() -> None:
    assert tokens.estimate("") == 0
    assert tokens.estimate("a") == 1
    assert tokens.estimate("\ud800") >= 1


def test_code_and_digits_are_denser_than_prose() -> None:
    prose = "The committee will meet again on Thursday to settle the remaining questions. "
    code = "for(i=0;i<n;i++){a[i]=b[i]*c[i]+d;}\n"
    digits = "8839102 4471923 0091823 7712364 "
    rates = [len(text) / tokens.estimate(text * 10) * 10 for text in (digits, code, prose)]
    assert rates == sorted(rates)
    assert rates[0] < 3 < 4 < rates[2]


def test_indentation_is_cheap() -> None:
    lines = [f"{'    ' * (i % 6)}x = {i}" for i in range(200)]
    flat = "\n".join(line.strip() for line in lines)
    assert tokens.estimate("\n".join(lines)) < 1.3 * tokens.estimate(flat)


def test_long_texts_are_sampled_and_still_right() -> None:
    sentence = "A sentence with a number 12, some words, and an end. "
    once = tokens.estimate(sentence * 10) / 10
    assert abs(tokens.estimate(sentence * 10_000) - once * 10_000) < 0.05 * once * 10_000
    # Half of it in a script with another rate: samples must come from everywhere.
    mixed = "word " * 10_000 + "天气很好" * 12_500
    exact = tokens.estimate("word " * 1_000) * 10 + tokens.estimate("天气很好" * 1_250) * 10
    assert abs(tokens.estimate(mixed) - exact) < 0.15 * exact
    assert tokens.estimate_json(b'{"a": "some words"}, ' * 5_000) == pytest.approx(
        tokens.estimate_json(b'{"a": "some words"}, ' * 100) * 50, rel=0.05
    )


def test_every_message_has_overhead() -> None:
    one = parsed(chat("word word word word")).input_tokens
    four = parsed(chat("word", "word", "word", "word")).input_tokens
    assert four - one >= 3 * tokens.MESSAGE_OVERHEAD
