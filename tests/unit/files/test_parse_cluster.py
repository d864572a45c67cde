"""Services, slices, inference pools, grants and secrets as a cluster or a file gives them."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ralb_api.problems import Severity
from ralb_operator.parse import Parsed, to_grant, to_inference_pool, to_pod, to_secret, to_service, to_slice
from ralb_operator.view import EndpointSlice, Grant, InferencePool, Secret, Service, SliceEndpoint

Reader = Callable[[dict[str, Any]], Parsed[Any]]
READERS: tuple[Reader, ...] = (to_service, to_slice, to_inference_pool, to_grant, to_secret, to_pod)


def named(**parts: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x", "namespace": "ns"}, **parts}


def a_slice(**parts: Any) -> dict[str, Any]:
    metadata = {"name": "x-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "x"}}
    return {"metadata": metadata, "addressType": "IPv4", **parts}


def texts(parsed: Parsed[Any]) -> list[str]:
    assert parsed.value is None
    assert all(problem.severity is Severity.ERROR for problem in parsed.problems)
    return [f"{problem.field}: {problem.message}" for problem in parsed.problems]


def test_service() -> None:
    ports = [
        {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"},
        {"port": 8080},
        {"port": 53, "protocol": "UDP"},
    ]
    parsed = to_service(named(spec={"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": ports}))
    assert parsed == Parsed(Service("ns", "x", (("http", 80), ("", 8080))))


def test_service_that_is_only_a_name() -> None:
    parsed = to_service(named(spec={"type": "ExternalName", "externalName": "llm.example.com."}))
    assert parsed == Parsed(Service("ns", "x", (), "llm.example.com"))


def test_an_external_name_counts_only_for_services_of_that_type() -> None:
    parsed = to_service(named(spec={"externalName": "left.over", "ports": [{"port": 1}]}))
    assert parsed.value == Service("ns", "x", (("", 1),))


def test_slice() -> None:
    endpoints = [
        {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "p-0"}},
        {"addresses": ["10.0.0.2", "10.0.0.9"], "conditions": {"ready": False, "serving": True, "terminating": True}},
        {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Node", "name": "n"}},
        {"addresses": ["10.0.0.4"], "conditions": {}},
    ]
    parsed = to_slice(a_slice(ports=[{"name": "http", "port": 8000}], endpoints=endpoints))
    assert parsed == Parsed(
        EndpointSlice(
            "ns",
            "x-1",
            "x",
            (("http", 8000),),
            (
                SliceEndpoint("10.0.0.1", True, "p-0"),
                SliceEndpoint("10.0.0.2", False, leaving=True),
                SliceEndpoint("10.0.0.3", True),
                SliceEndpoint("10.0.0.4", True),
            ),
        )
    )


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (named(addressType="IPv4", endpoints=[]), ""),
        (a_slice(addressType="FQDN", endpoints=[{"addresses": ["a.b"]}]), "addressType"),
    ],
)
def test_slices_that_are_of_no_use_are_left_out(data: dict[str, Any], field: str) -> None:
    parsed = to_slice(data)
    (problem,) = parsed.problems
    assert (parsed.value, problem.severity, problem.field) == (None, Severity.WARNING, field)


def test_an_empty_slice_is_a_slice() -> None:
    assert to_slice(a_slice(ports=None, endpoints=None)).value == EndpointSlice("ns", "x-1", "x", (), ())


def test_slices_are_bounded() -> None:
    many = [{"addresses": ["10.0.0.1"]}] * 1001
    assert texts(to_slice(a_slice(endpoints=many))) == ["endpoints: has 1001 items; at most 1000 are read"]


def test_inference_pool() -> None:
    spec = {
        "selector": {"matchLabels": {"app": "vllm"}},
        "targetPorts": [{"number": 8001}, {"number": 8000}, {"number": 8001}],
        "endpointPickerRef": {"name": "epp"},
    }
    parsed = to_inference_pool(named(spec=spec))
    assert parsed == Parsed(InferencePool("ns", "x", {"app": "vllm"}, (8000, 8001)))


SELECTOR = {"matchLabels": {"a": "b"}}
MISSING = "required field is missing"


@pytest.mark.parametrize(
    ("selector", "ports", "expected"),
    [
        (None, [{"number": 1}], f"spec.selector.matchLabels: {MISSING}"),
        ({"matchLabels": {}}, [{"number": 1}], f"spec.selector.matchLabels: {MISSING}"),
        (SELECTOR, None, f"spec.targetPorts: {MISSING}"),
        ({"matchLabels": {"a": 1}}, [{"number": 1}], "spec.selector.matchLabels.a: must be text, not 1"),
        (SELECTOR, [{"number": 0}], "spec.targetPorts[0].number: must be a port number, not 0"),
        (SELECTOR, [{"number": True}], "spec.targetPorts[0].number: must be a port number, not true"),
    ],
)
def test_an_inference_pool_never_selects_everything(selector: Any, ports: Any, expected: str) -> None:
    assert texts(to_inference_pool(named(spec={"selector": selector, "targetPorts": ports}))) == [expected]


def test_grant() -> None:
    spec = {
        "from": [{"group": "ralb.dev", "kind": "ModelPool", "namespace": "team"}],
        "to": [{"group": "", "kind": "Secret", "name": "key"}, {"kind": "Service"}],
    }
    parsed = to_grant(named(spec=spec))
    source = ("ralb.dev", "ModelPool", "team")
    assert parsed == Parsed(Grant("ns", "x", (source,), (("", "Secret", "key"), ("", "Service", ""))))


@pytest.mark.parametrize("name", [3, ["key"], {"a": 1}, "a\nb"])
def test_a_grant_whose_name_cannot_be_read_grants_nothing(name: object) -> None:
    spec = {
        "from": [{"group": "ralb.dev", "kind": "ModelPool", "namespace": "team"}],
        "to": [{"kind": "Secret", "name": name}],
    }
    parsed = to_grant(named(spec=spec))
    assert parsed.value is None
    assert parsed.problems


def test_secret() -> None:
    data = {"apiKey": base64.b64encode(b"sk-1\n").decode(), "other": base64.b64encode(bytes(range(256))).decode()}
    parsed = to_secret(named(data=data, stringData={"plain": "text", "apiKey": "wins"}))
    assert parsed == Parsed(Secret("ns", "x", {"apiKey": b"wins", "other": bytes(range(256)), "plain": b"text"}))


def test_folded_base64_is_read() -> None:
    text = base64.encodebytes(b"x" * 100).decode()
    assert "\n" in text.strip()
    assert to_secret(named(data={"a": text})).value == Secret("ns", "x", {"a": b"x" * 100})


@pytest.mark.parametrize(
    "parts",
    [
        {"data": {"apiKey": "hunter2-is-not-base64!"}},
        {"data": "hunter2"},
        {"data": ["hunter2"]},
        {"stringData": {"apiKey": ["hunter2"]}},
        {"stringData": {"apiKey": "hunter2\ud800"}},
        {"data": {"apiKey": {"hunter2": 1}}},
    ],
)
def test_what_is_wrong_with_a_secret_is_said_without_its_data(parts: dict[str, Any]) -> None:
    parsed = to_secret(named(**parts))
    assert parsed.value is None
    assert parsed.problems
    assert "hunter2" not in repr(parsed)


def test_a_secret_shows_nothing_of_its_data() -> None:
    parsed = to_secret(named(stringData={"apiKey": "hunter2"}))
    assert parsed.value is not None
    assert "hunter2" not in repr(parsed) + str(parsed)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("data", [{}, {"metadata": None}, {"metadata": 3}, {"metadata": {"name": ["x"]}}])
def test_an_object_without_a_name_is_none(reader: Reader, data: dict[str, Any]) -> None:
    parsed = reader(data)
    assert parsed.value is None
    assert "metadata" in " ".join(problem.field for problem in parsed.problems)


KEYS = st.sampled_from(
    ["metadata", "name", "namespace", "labels", "spec", "type", "externalName", "ports", "port", "protocol", "endpoints",
     "addresses", "conditions", "ready", "targetRef", "kind", "selector", "matchLabels", "targetPorts", "number", "from", "to",
     "group", "data", "stringData", "addressType", "kubernetes.io/service-name"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["10.0.0.1", "TCP", "Pod"]),
)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=25,
)


@given(st.dictionaries(KEYS, DATA, max_size=6))
def test_any_data_gives_a_value_or_problems(data: dict[str, Any]) -> None:
    for reader in READERS:
        parsed = reader(data)
        assert (parsed.value is None) == bool(parsed.problems)
        assert all(str(problem).isprintable() for problem in parsed.problems)
        hash(parsed.problems)
