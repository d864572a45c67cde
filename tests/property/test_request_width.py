"""How many objects a body may hold: counted exactly, whatever its strings look like."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ralb_api.errors import ClientError
from ralb_extproc.request import parse
from ralb_extproc.request.reader import MAX_CONTAINERS, _containers

TEXT = st.text(alphabet='\\"[]{},:aé\n', max_size=8)
VALUE = st.recursive(
    TEXT | st.integers(-(2**63), 2**63), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20
)


def _count(value: object) -> int:
    if isinstance(value, list):
        return 1 + sum(map(_count, value))
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    return 0


@given(VALUE)
def test_count_is_exact(value: object) -> None:
    assert _containers(orjson.dumps(value)) == _count(value)


def _body(**more: object) -> bytes:
    return orjson.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hi"}], **more})


def test_too_many_are_refused() -> None:
    with pytest.raises(ClientError) as caught:
        parse("/v1/chat/completions", {}, _body(x=[[]] * MAX_CONTAINERS))
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert str(MAX_CONTAINERS) in caught.value.message


def test_brackets_in_text_do_not_count() -> None:
    request = parse("/v1/chat/completions", {}, _body(x='{"[' * MAX_CONTAINERS))
    assert request.model == "auto"
