"""YAML as Kubernetes reads it, and YAML made to hurt."""

import time

import pytest

from ralb_operator import yamldoc
from ralb_operator.yamldoc import Document, documents


def one(text: str) -> Document:
    (document,) = documents(text)
    return document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("+5", 5),
        ("0x1F", 31),
        ("0b101", 5),
        ("010", 8),
        ("0o10", 8),
        ("1_000", 1000),
        ("08", 8.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("-1.5E-2", -0.015),
        ("true", True),
        ("Yes", True),
        ("off", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("30s", "30s"),
        ("1.2.3", "1.2.3"),
        ("_", "_"),
        (".", "."),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("|\n    5\n", "5\n"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    document = one(f"a: {text}")
    assert (document.data, document.flaws, document.error) == ({"a": value}, [], "")
    assert type(document.data["a"]) is type(value)


def test_documents_know_their_lines() -> None:
    text = "# comment\n\na: 1\n---\n# nothing here\n---\n\nb: 2\n--- {c: 3}\n...\n---\nd: 4\n"
    assert [(document.data, document.line) for document in documents(text)] == [
        ({"a": 1}, 3),
        ({"b": 2}, 8),
        ({"c": 3}, 9),
        ({"d": 4}, 12),
    ]


def test_line_ends_of_windows() -> None:
    assert [(d.data, d.line) for d in documents("a: 1\r\n---\r\nb: 2\r\n")] == [({"a": 1}, 1), ({"b": 2}, 3)]


def test_directives_belong_to_no_document() -> None:
    assert [(d.data, d.error) for d in documents("%YAML 1.1\n---\na: 1\n")] == [({"a": 1}, "")]


def test_items_of_lists_know_their_lines() -> None:
    document = one("kind: List\nitems:\n- a: 1\n-\n  b: 2\n- [c]\n")
    assert document.lines == {0: 3, 1: 5, 2: 6}


def test_a_broken_document_does_not_stop_the_others() -> None:
    first, second, third = documents("a: 1\n---\nb: [1\n---\nc: 3\n")
    assert (first.data, third.data) == ({"a": 1}, {"c": 3})
    assert second.data is None
    assert second.error.startswith("not valid YAML: ")
    assert second.line in (3, 4)
    assert second.hint


def test_three_dashes_inside_a_block_of_text() -> None:
    assert one("a: |\n  x\n  ---\n  y\n").data == {"a": "x\n---\ny\n"}


def test_anchors_aliases_and_merges() -> None:
    text = "base: &b {p: 1, q: 2}\nlist: [&x 5, *x]\nc:\n  <<: *b\n  q: 3\nd: {<<: [{p: 9}, *b]}\n"
    document = one(text)
    assert document.flaws == []
    assert document.data["list"] == [5, 5]
    assert document.data["c"] == {"p": 1, "q": 3}
    assert document.data["d"] == {"p": 9, "q": 2}


def test_a_quoted_merge_key_is_a_key() -> None:
    assert one('a: {"<<": {p: 1}}').data == {"a": {"<<": {"p": 1}}}


def test_keys_that_look_like_numbers_to_kubernetes() -> None:
    (flaw,) = one("0E0: 1").flaws
    assert flaw.message == "key 0E0 is read as a number"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("a: 1\na: 2", ("a",), "is there twice"),
        ("x:\n- y: {a: 1, b: 2, a: 3}", ("x", 0, "y", "a"), "is there twice"),
        ("x: {1: a}", ("x",), "key 1 is read as a number"),
        ("x: {on: a}", ("x",), "key on is read as true or false"),
        ("x: {~: a}", ("x",), "key ~ is read as empty"),
        ("x: &k k\ny: {*k : 1}", ("y",), 'alias "k" is used as a key'),
        ("x: {<<: 5}", ("x",), "<< must be followed by a mapping"),
        ("x: [1, .nan]", ("x", 1), "must be an ordinary number, not .nan"),
        ("x: -.inf", ("x",), "must be an ordinary number, not -.inf"),
        ("x: 1e999", ("x",), "must be an ordinary number, not 1e999"),
        ("x: " + "9" * 401, ("x",), f"must be an ordinary number, not {'9' * 120}..."),
        (f"? {'k' * 513}\n: 1", (), "a key is longer than 512 characters"),
    ],
)
def test_flaws(text: str, path: tuple[str | int, ...], message: str) -> None:
    document = one(text)
    assert [(flaw.path, flaw.message) for flaw in document.flaws] == [(path, message)]
    assert document.flaws[0].hint


def test_the_first_of_two_keys_counts() -> None:
    assert one("a: {x: 1}\na: {y: 2}\nb: 3").data == {"a": {"x": 1}, "b": 3}


def test_refused_numbers_leave_no_value() -> None:
    assert one("a: .nan\nb: 1").data == {"b": 1}


BILLION = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[" * 100_000, "nests deeper than 64 levels"),
        ("{a: " * 100_000, "nests deeper than 64 levels"),
        ("- " * 100_000 + "1", "nests deeper than 64 levels"),
        (BILLION, "has more than 500000 values, aliases counted at each use"),
        (f"a: &a {'[' * 40}1{']' * 40}\nb: {'[' * 30}*a{']' * 30}", "nests deeper than 64 levels"),
        ("a: &a {b: *a}", "alias *a has no anchor before it"),
        (
            "a: !!python/object/apply:os.system [x]",
            "tag tag:yaml.org,2002:python/object/apply:os.system is not allowed",
        ),
        ("a: !secret x", "tag !secret is not allowed"),
        ("a: !!binary aGk=", "tag tag:yaml.org,2002:binary is not allowed"),
        ("? [a, b]\n: 1", "a mapping or list is used as a key"),
        ("a: 1\n...\nb: 2", "not valid YAML: did not find expected <document start>"),
        ("\ta: 1", "not valid YAML: found character that cannot start any token"),
    ],
    ids=range(12),
)
def test_hostile_documents(text: str, error: str) -> None:
    start = time.process_time()
    (document,) = documents(text)
    assert document.error == error
    assert document.data is None
    assert document.line >= 1
    assert time.process_time() - start < 5


def test_long_scalars_take_linear_time() -> None:
    start = time.process_time()
    assert one("a: " + "9" * 1_000_000 + "x").data == {"a": "9" * 1_000_000 + "x"}
    assert time.process_time() - start < 2


def test_control_characters_are_named() -> None:
    assert one("a: \x00").error.startswith("not valid YAML: unacceptable character #x0000")


def test_the_budget_of_values_is_for_the_whole_text() -> None:
    bomb = f"a: &a [{','.join('1' * 500)}]\nb: [{','.join(['*a'] * 600)}]\n"
    results = list(documents("---\n".join([bomb] * 3)))
    assert [bool(document.error) for document in results] == [False, True, True]


def test_the_number_of_documents_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamldoc, "MAX_DOCUMENTS", 2)
    results = list(documents("a: 1\n---\n# nothing\n---\na: 2\n---\na: 3\n---\na: 4\n"))
    assert [(document.data, document.error) for document in results] == [
        ({"a": 1}, ""),
        ({"a": 2}, ""),
        (None, "has more than 2 documents; the rest is left out"),
    ]
    assert results[-1].line == 6


def test_flaws_are_bounded() -> None:
    assert len(one("\n".join(["a: 1"] * 500)).flaws) == 64
