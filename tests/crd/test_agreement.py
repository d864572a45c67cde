"""The API server and the models agree on objects near validity, whatever is wrong with them.

Each example takes a valid case, puts another value at one place of its kind's schema, and asks both. Left out is ``null``: in
files an empty value is an error, because half a condition must not become none; Kubernetes drops it.
"""

import copy
import re
import string
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from support_cluster import ControlPlane
from support_crd import DEFINITIONS, create, load_cases, refusal, spec_schema

from ralb_operator.parse import to_object

VALID = {kind: [case.data for case in load_cases() if case.valid and case.kind == kind] for kind in DEFINITIONS}
ODD_TEXT = [
    "",
    " ",
    "a",
    "A",
    "-",
    "/",
    "a b",
    "a\n",
    "\na",
    "é",
    "退款",
    "a/../b",
    "*.a",
    "http://a",
    "1s",
    "0s",
    "0",
    "01",
    "::1",
]
LONG_KEYS = ["a" * 63, "a" * 64, f"{'b' * 253}/c", f"{'b' * 254}/c"]
JUNK: list[Any] = [0, 1, -1, 0.5, True, "text", [], {}, ["a"], {"a": "b"}]
# A copy each time, for the next change may be made inside of it.
junk = st.sampled_from(JUNK).map(copy.deepcopy)
Place = tuple[str | int, ...]


def texts(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        values = [*schema["enum"], *(value.lower() for value in schema["enum"]), "", "Other"]
        return st.sampled_from(values)
    longest = schema["maxLength"]
    edges = [letter * length for letter in "aA1é" for length in (longest, longest + 1)]
    fitting = st.from_regex(re.compile(schema["pattern"], re.ASCII)) if "pattern" in schema else st.text(max_size=8)
    near = st.text(st.sampled_from(string.ascii_letters + string.digits + string.punctuation + " \t\n"), max_size=12)
    return st.one_of(fitting.map(lambda text: text[: longest + 2]), st.sampled_from([*ODD_TEXT, *edges]), near)


def near(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit the schema, and values that nearly do."""
    match schema["type"]:
        case "string":
            return texts(schema)
        case "boolean":
            return st.sampled_from([True, False, "true", 0])
        case "integer":
            low, high = schema["minimum"], schema["maximum"]
            return st.sampled_from([low - 1, low, low + 1, high - 1, high, high + 1, float(high), 0.5, str(low), True])
        case "number":
            low, high = schema["minimum"], schema["maximum"]
            edges = [low, high, low - 1e-9, high * (1 + 1e-9), 1e-300, 1, "0.5", True]
            return st.one_of(st.sampled_from(edges), st.floats(low, high))
        case "array":
            items, high = near(schema["items"]), schema["maxItems"]
            few = st.lists(items, max_size=3)
            return st.one_of(few, few.map(lambda value: value * 2), items.map(lambda item: [item] * (high + 1)))
        case _ if "additionalProperties" in schema:
            keys = st.one_of(st.sampled_from([*ODD_TEXT, *LONG_KEYS]), st.from_regex(r"\A[a-z./_-]{1,9}\Z"))
            return st.dictionaries(keys, near(schema["additionalProperties"]), max_size=3)
        case _:
            required = {
                name: near(child) for name, child in schema["properties"].items() if name in schema.get("required", ())
            }
            optional = {name: near(child) for name, child in schema["properties"].items() if name not in required}
            return st.fixed_dictionaries(required, optional=optional)


def places(schema: dict[str, Any], value: Any, place: Place = ("spec",)) -> list[tuple[Place, dict[str, Any]]]:
    """Where in a value something could be put, there or not, with the schema of what belongs there."""
    found = []
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            found.append(((*place, name), child))
            if name in value:
                found += places(child, value[name], (*place, name))
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found.append(((*place, index), schema["items"]))
            found += places(schema["items"], item, (*place, index))
    return found


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(sorted(DEFINITIONS)))
    data = copy.deepcopy(draw(st.sampled_from(VALID[kind])))
    for _ in range(draw(st.integers(1, 2))):
        candidates = places(spec_schema(kind), data["spec"])
        if not candidates:
            break
        place, schema = draw(st.sampled_from(candidates))
        holder: Any = data
        for part in place[:-1]:
            holder = holder[part]
        match draw(st.sampled_from(["near", "near", "near", "near", "junk", "unknown", "gone"])):
            case "near":
                holder[place[-1]] = copy.deepcopy(draw(near(schema)))
            case "junk":
                holder[place[-1]] = draw(junk)
            case "unknown" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["unknown", "context_window", "spec", "Name"]))] = draw(junk)
            case "gone" if isinstance(holder, dict):
                holder.pop(place[-1], None)
    return data


@pytest.mark.usefixtures("crds")
@settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink]
)
@given(data=objects())
def test_both_say_the_same(control_plane: ControlPlane, data: dict[str, Any]) -> None:
    parsed = to_object(data)
    problem = refusal(control_plane, "default", data)
    event("accepted" if problem is None else "refused")
    if problem is not None:
        assert parsed.value is None, problem
        return
    assert parsed.value is not None, [str(problem) for problem in parsed.problems]
    again = to_object(create(control_plane, "default", data, dry_run=True)).value
    assert again is not None
    assert again.model_dump(exclude={"metadata"}) == parsed.value.model_dump(exclude={"metadata"})
