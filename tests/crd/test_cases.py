"""Each case of ``cases/`` on the real API server, and the same through the models: what one refuses the other refuses too,
at the same place and with the same advice."""

import re
from collections import defaultdict

import pytest
from support_cluster import ControlPlane
from support_crd import DEFINITIONS, Case, load_cases, refusal, spec_schema, values_at, walk

from ralb_operator.parse import to_object

ALL = load_cases()
RULES = {
    (kind, rule["message"]) for kind in DEFINITIONS for _, schema in walk(spec_schema(kind))
    for rule in schema.get("x-kubernetes-validations", ())
}  # fmt: skip
each = pytest.mark.parametrize("case", ALL, ids=[case.id for case in ALL])


@pytest.mark.usefixtures("crds")
@each
def test_the_api_server(control_plane: ControlPlane, case: Case) -> None:
    problem = refusal(control_plane, "default", case.data)
    if case.valid:
        assert problem is None, problem
        return
    assert problem is not None
    assert case.expect in problem.body["message"]
    if case.field:
        causes = {cause["field"]: cause["message"] for cause in problem.body["details"]["causes"]}
        assert case.expect in causes[case.field]


@each
def test_the_model(case: Case) -> None:
    parsed = to_object(case.data)
    assert (parsed.value is not None) == case.valid, parsed.problems
    if case.valid:
        assert not parsed.problems
        return
    blamed = re.sub(r"\[\d+\]$", "", case.field)  # of something that is there twice, either is right
    assert all(problem.field.startswith(blamed) for problem in parsed.problems), parsed.problems
    if (case.kind, case.expect) in RULES:
        assert any(problem.hint and problem.hint in case.expect for problem in parsed.problems) or "key" in case.expect


def test_every_rule_is_broken_by_a_case() -> None:
    broken = {(case.kind, case.expect) for case in ALL if not case.valid}
    assert sorted(RULES - broken) == []


def test_every_rule_is_kept_by_a_case() -> None:
    """With the field in place that the rule is about, not because it is absent."""
    for kind in DEFINITIONS:
        specs = [case.data["spec"] for case in ALL if case.valid and case.kind == kind]
        for path, schema in walk(spec_schema(kind)):
            for rule in schema.get("x-kubernetes-validations", ()):
                # Rules over the same schema in several places need one.
                places = [p for p, s in walk(spec_schema(kind)) if rule in s.get("x-kubernetes-validations", ())]
                paths = [place + rule.get("fieldPath", "") for place in places]
                assert any(values_at(spec, place) for spec in specs for place in paths), (kind, path, rule["message"])


def test_every_pattern_is_broken_by_a_case() -> None:
    patterns = {
        schema["pattern"] for kind in DEFINITIONS for _, schema in walk(spec_schema(kind)) if "pattern" in schema
    }
    told = {case.expect.partition("should match '")[2][:-1] for case in ALL}
    assert patterns
    assert not patterns - told


@pytest.mark.parametrize(
    "words",
    [
        "Required value",
        "Unsupported value",
        "Duplicate value",
        "Too many",
        "Too long",
        "should match",
        "should have at least 1 items",
        "at least 1 properties",
        "at least 1 chars",
        "less than or equal",
        "greater than or equal",
        "greater than 0",
        "of type integer",
        "of type boolean",
        "unknown field",
    ],
)
def test_every_family_of_bounds_is_sampled(words: str) -> None:
    assert any(words in case.expect for case in ALL)


def test_every_field_is_in_a_valid_case() -> None:
    for kind in DEFINITIONS:
        specs = [case.data["spec"] for case in ALL if case.valid and case.kind == kind]
        places = defaultdict(list)  # what is the same in several places needs one
        for path, schema in walk(spec_schema(kind)):
            places[path.rpartition(".")[2], schema.get("description")].append(path)
        absent = [paths for paths in places.values() if not any(values_at(spec, p) for spec in specs for p in paths)]
        assert absent == []
