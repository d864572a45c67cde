"""The words that errors are put into: paths, values, lists, and what was probably meant."""

import pytest

from ralb_operator.explain_errors import close_to, dotted, listed, shown


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("spec", "rules", 2, "when", "complexity", "min"), "spec.rules[2].when.complexity.min"),
        (("a", "app.kubernetes.io/name"), "a[app.kubernetes.io/name]"),
        (("a", "x\ny"), "a[x\\ny]"),
        ((0, "a"), "[0].a"),
    ],
)
def test_dotted(path: tuple[str | int, ...], text: str) -> None:
    assert dotted(path) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\x1b[31m\n", '"a\\u001b[31m\\n"'),
        ("x" * 5000, '"' + "x" * 59 + "..."),
        (None, "empty"),
        (True, "true"),
        (2.5, "2.5"),
        ({"a": 1}, "a mapping"),
        ([1], "a list"),
        (10**50, "a huge number"),
    ],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


def test_close_to() -> None:
    names = ["contextWindow", "name"]
    assert close_to("context-window", names) == "contextWindow"
    assert close_to("nmae", names) == "name"
    assert close_to("q" * 10_000, names) == ""


def test_listed_is_cut() -> None:
    assert listed([str(i) for i in range(30)]).endswith("22, 23 and 6 more")
