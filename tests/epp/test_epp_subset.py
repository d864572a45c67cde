"""Subset hints, for any picker."""

import itertools

import pytest
from support_epp import CHAT, Caller, Target

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
