"""Subset hints, for any picker."""

import itertools

import pytest
from support_epp import CHAT, Caller, Target, request_headers

from ralb_extproc.epp.subset import subset_of

NOBODY: list[object] = [[], "", ["192.0.2.1:9"], "192.0.2.1:9", [" "], 7, True, {"a": "b"}, None, [7, None, ["x"]]]


async def test_a_list_is_kept_to(caller: Caller, target: Target) -> None:
    for allowed in itertools.combinations(target.endpoints, 2):
        for _ in range(5):
            pick = await caller.ask(CHAT, subset=list(allowed))
            assert set(pick.endpoints) <= set(allowed)


async def test_a_list_of_one(caller: Caller, target: Target) -> None:
    for only in target.endpoints:
        assert (await caller.ask(CHAT, subset=[only])).endpoints == [only]


async def test_a_string_is_kept_to(caller: Caller, target: Target) -> None:
    for only in target.endpoints:
        assert (await caller.ask(CHAT, subset=only)).endpoints == [only]
    two = target.endpoints[:2]
    assert set((await caller.ask(CHAT, subset=", ".join(two))).endpoints) <= set(two)


async def test_it_holds_for_headers_alone(caller: Caller, target: Target) -> None:
    for only in target.endpoints:
        pick = await caller.ask(path="/v1/models", method="GET", subset=[only])
        assert pick.endpoints == [only]


async def test_unknown_entries_are_passed_over(caller: Caller, target: Target) -> None:
    pick = await caller.ask(CHAT, subset=["192.0.2.1:9", target.endpoints[0], "nonsense", "[::1]:1"])
    assert pick.endpoints == [target.endpoints[0]]


async def test_ports_are_honoured(caller: Caller, target: Target) -> None:
    for endpoint in target.endpoints:
        host, _, port = endpoint.rpartition(":")
        others = [one for one in target.endpoints if one != endpoint and one.startswith(f"{host}:")]
        if others:
            assert endpoint not in (await caller.ask(CHAT, subset=others)).endpoints
        wrong = f"{host}:{int(port) ^ 1 or 2}"
        if wrong not in target.endpoints:
            assert (await caller.ask(CHAT, subset=[wrong])).status == 503


@pytest.mark.parametrize("subset", NOBODY[:5])
async def test_nobody_eligible_is_503(caller: Caller, subset: object) -> None:
    pick = await caller.ask(CHAT, subset=subset)
    assert pick.status == 503
    assert pick.body
    assert (await caller.ask(path="/v1/models", method="GET", subset=subset)).status == 503


@pytest.mark.parametrize("subset", NOBODY)
async def test_whatever_is_said_ours_takes_a_hint_for_a_hint(own_caller: Caller, subset: object) -> None:
    pick = await own_caller.ask(CHAT, subset=subset if subset is not None else {"": None})
    assert (pick.status, pick.code) == (503, "no_endpoint")


async def test_ours_takes_an_address_without_port_for_all_its_ports(own_caller: Caller) -> None:
    pick = await own_caller.ask(CHAT, subset=["127.0.0.11"])
    assert sorted(pick.endpoints) == ["127.0.0.11:8000", "127.0.0.11:8001"]


@pytest.mark.parametrize(
    ("said", "address", "allowed"),
    [
        ("[fd00::7]:8000", "[fd00::7]:8000", True),
        ("[FD00:0::7]:8000", "[fd00::7]:8000", True),
        ("[fd00::7]:8000", "[fd00::7]:8001", False),
        ("fd00::7", "[fd00::7]:8000", True),
        ("[fd00::7]", "[fd00::7]:8001", True),
        ("fd00::8", "[fd00::7]:8000", False),
        ("10.0.0.1", "10.0.0.11:80", False),
        ("10.0.0.1:80", "10.0.0.1:8", False),
        (" 10.0.0.1:80 ,", "10.0.0.1:80", True),
        (",,", "10.0.0.1:80", False),
        (":80", "10.0.0.1:80", False),
        ("[::g]:80", "10.0.0.1:80", False),
    ],
)
def test_addresses_are_compared_as_addresses(said: str, address: str, allowed: bool) -> None:
    subset = subset_of(request_headers(subset=said).metadata_context)
    assert subset is not None
    assert (address in subset) is allowed


def test_without_a_hint_there_is_none() -> None:
    assert subset_of(request_headers().metadata_context) is None
    message = request_headers(subset=["10.0.0.1:80"])
    fields = message.metadata_context.filter_metadata["envoy.lb.subset_hint"].fields
    del fields["x-gateway-destination-endpoint-subset"]
    assert subset_of(message.metadata_context) is None
