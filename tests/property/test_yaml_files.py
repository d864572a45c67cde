"""Whatever bytes are in a file, ``load`` answers; and plain YAML means what the reference loader says."""

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ralb_operator.files import load
from ralb_operator.parse import to_object, to_pod
from ralb_operator.yamldoc import documents

KEYS = st.text(min_size=1, max_size=12)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)
PIECES = st.sampled_from(
    ["apiVersion: ralb.dev/v1alpha1\n", "kind: ModelPool\n", "kind: List\n", "items:\n", "- ", "  ", "---\n", "...\n",
     "metadata: {name: a}\n", "spec:\n", "&a ", "*a ", "<<: ", "? ", ": ", "[", "]", "{", "}", "|\n", "!!str ", "%YAML 1.1\n",
     "'", '"', "#", "\t", "1e3 ", ".nan\n", "\r\n", "\ufeff", "\x85", "x\n"]
)  # fmt: skip


class QuotingDumper(yaml.SafeDumper):
    """Puts all text in quotes, as what is a number differs between readers of YAML 1.1."""


QuotingDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


@given(DATA, st.sampled_from([None, True, False]))
def test_what_was_written_is_read(data: Any, flow: bool | None) -> None:
    text = "---\n" + yaml.dump(data, Dumper=QuotingDumper, default_flow_style=flow)
    (document,) = documents(text)
    assert (document.flaws, document.error) == ([], "")
    assert document.data == data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=30).map(lambda parts: "".join(parts).encode())))
def test_any_bytes_give_a_view(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    view = load(tmp_path)
    for problem in view.problems:
        assert problem.file.startswith(str(tmp_path / "a.yaml"))
        assert problem.message
        assert str(problem).isprintable()


@given(st.dictionaries(st.sampled_from(["apiVersion", "kind", "metadata", "spec", "status", "x"]), DATA))
def test_any_data_gives_problems_not_exceptions(data: dict[str, Any]) -> None:
    parsed = to_object(data)
    assert parsed.value is None
    assert parsed.problems
    to_pod(data)


@given(st.sampled_from(["ModelPool", "ModelTier", "RoutingPolicy"]), DATA, DATA)
def test_any_spec_gives_problems_not_exceptions(kind: str, metadata: Any, spec: Any) -> None:
    parsed = to_object({"apiVersion": "ralb.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    assert parsed.value is None
    assert all(str(problem).isprintable() for problem in parsed.problems)
