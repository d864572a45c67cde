"""Pods that are being deleted: known as such, and never ready."""

from ralb_api.problems import ObjectKey
from ralb_operator.compile.pools import Selection, of_service, select
from ralb_operator.view import EndpointSlice, Pod, SliceEndpoint

KEY = ObjectKey("ModelPool", "ns", "p")


def found(*pods: Pod) -> tuple[object, object]:
    endpoints = select({KEY: Selection("ns", {"app": "x"}, (80,))}, pods)[KEY]
    return endpoints.ready, endpoints.leaving


def pod(name: str, ip: str, *, ready: bool = False, leaving: bool = False) -> Pod:
    return Pod("ns", name, {"app": "x"}, ip, ready, leaving=leaving)


def test_of_pods() -> None:
    assert found(pod("a", "10.0.0.1", ready=True), pod("b", "10.0.0.2", leaving=True), pod("c", "10.0.0.3")) == (
        (("10.0.0.1:80", "a"),),
        (("10.0.0.2:80", "b"),),
    )


def test_an_address_taken_over_by_a_ready_pod_is_ready_only() -> None:
    assert found(pod("a", "10.0.0.1", ready=True), pod("b", "10.0.0.1", leaving=True)) == (
        (("10.0.0.1:80", "a"),),
        (),
    )


def test_of_a_service() -> None:
    endpoints = (
        SliceEndpoint("10.0.0.1", True, "a"),
        SliceEndpoint("10.0.0.2", False, "b", leaving=True),
        SliceEndpoint("10.0.0.3", False, "c"),
        SliceEndpoint("10.0.0.1", False, "a", leaving=True),
    )
    got = of_service([EndpointSlice("ns", "s-1", "s", (("http", 80),), endpoints)], "http")
    assert got.ready == (("10.0.0.1:80", "a"),)
    assert got.leaving == (("10.0.0.2:80", "b"),)
