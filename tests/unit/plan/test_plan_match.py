"""Who owns a request, and which conditions hold."""

from typing import Any

import pytest
from support_routing import CHAT, ask, policy, understood, use

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.match import Claim, Condition, HeaderTest, path_has_prefix, within


@pytest.mark.parametrize(
    ("path", "prefix", "holds"),
    [
        ("/v1/chat/completions", "/v1/chat/completions", True),
        ("/v1/chat/completions", "/v1/chat", True),
        ("/v1/chat/completions", "/v1/chat/", True),
        ("/v1/chat/completions", "/", True),
        ("/v1/chatty", "/v1/chat", False),
        ("/v1", "/v1/chat", False),
        ("/v2/chat", "/v1", False),
    ],
)
def test_path_prefixes_end_on_segment_borders(path: str, prefix: str, holds: bool) -> None:
    assert path_has_prefix(path, prefix) is holds


@pytest.mark.parametrize(
    ("hostnames", "host", "owned"),
    [
        ([], "anything.example", True),
        ([], "", True),
        (["api.example.com"], "api.example.com", True),
        (["API.Example.com"], "api.example.com", True),
        (["api.example.com"], "b.example.com", False),
        (["*.example.com"], "b.example.com", True),
        (["*.example.com"], "a.b.example.com", True),
        (["*.example.com"], "example.com", False),
        (["*.example.com"], ".example.com", False),
        (["*.example.com"], "badexample.com", False),
        (["other.com", "*.example.com"], "x.example.com", True),
    ],
)
def test_hostnames(hostnames: list[str], host: str, owned: bool) -> None:
    assert Claim.of(policy("p", use("t"), hostnames=hostnames)).owns(ask(host=host)) is owned


def test_every_part_of_a_claim_must_hold() -> None:
    team = pb.HeaderMatch(name="x-team", value="red")
    claim = Claim.of(
        policy("p", use("t"), hostnames=["a.com"], paths=["/v1/chat"], headers=[team], models=["auto", "b"])
    )
    good: dict[str, Any] = {"host": "a.com", "path": CHAT, "headers": {"x-team": "red"}}
    assert claim.owns(ask("b", **good))
    for spoiled in ({"host": "b.com"}, {"path": "/v1/messages"}, {"headers": {}}, {"headers": {"x-team": "blue"}}):
        assert not claim.owns(ask("b", **(good | spoiled)))
    assert not claim.owns(ask("c", **good))


@pytest.mark.parametrize(
    ("match", "headers", "holds"),
    [
        (pb.HeaderMatch(name="X-A", value="1"), {"x-a": "1"}, True),
        (pb.HeaderMatch(name="x-a", value="1"), {"x-a": "12"}, False),
        (pb.HeaderMatch(name="x-a", value="v"), {"x-a": "V"}, False),
        (pb.HeaderMatch(name="x-a", type=pb.HeaderMatch.PREFIX, value="1"), {"x-a": "12"}, True),
        (pb.HeaderMatch(name="x-a", type=pb.HeaderMatch.PREFIX, value="1"), {"x-a": "21"}, False),
        (pb.HeaderMatch(name="x-a", type=pb.HeaderMatch.PRESENT), {"x-a": ""}, True),
        (pb.HeaderMatch(name="x-a", type=pb.HeaderMatch.PRESENT), {}, False),
    ],
)
def test_headers(match: pb.HeaderMatch, headers: dict[str, str], holds: bool) -> None:
    assert HeaderTest.of(match).holds(headers) is holds


@pytest.mark.parametrize(
    ("value", "low", "high", "inside"),
    [
        (0.0, 0.0, 0.35, True),
        (0.35, 0.0, 0.35, False),
        (0.35, 0.35, 0.7, True),
        (1.0, 0.7, 1.0, True),
        (0.9999, 0.7, 1.0, True),
        (0.69, 0.7, 1.0, False),
    ],
)
def test_complexity_ranges_tile_without_gap(value: float, low: float, high: float, inside: bool) -> None:
    assert within(value, low, high) is inside


@pytest.mark.parametrize(
    ("when", "request_fields", "understanding_fields", "holds"),
    [
        ({}, {}, {}, True),
        ({"intents": ["Code", "maths"]}, {}, {"intent": "code"}, True),
        ({"intents": ["maths"]}, {}, {"intent": "code"}, False),
        ({"complexity_min": 0.5}, {}, {"complexity": 0.5}, True),
        ({"complexity_max": 0.5}, {}, {"complexity": 0.5}, False),
        ({"complexity_max": 0.5}, {}, {"complexity": 0.1}, True),
        ({"confidence_min": 0.6}, {}, {"confidence": 0.6}, True),
        ({"confidence_min": 0.6}, {}, {"confidence": 0.5}, False),
        ({"tools": True}, {"tools": ("f",)}, {}, True),
        ({"tools": True}, {}, {}, False),
        ({"tools": False}, {}, {}, True),
        ({"tools": False}, {"tools": ("f",)}, {}, False),
        ({"tool_names": ["g", "f"]}, {"tools": ("e", "f")}, {}, True),
        ({"tool_names": ["F"]}, {"tools": ("f",)}, {}, False),
        ({"input_tokens_min": 10}, {"input_tokens": 10}, {}, True),
        ({"input_tokens_min": 11}, {"input_tokens": 10}, {}, False),
        ({"input_tokens_max": 10}, {"input_tokens": 10}, {}, True),
        ({"input_tokens_max": 9}, {"input_tokens": 10}, {}, False),
        ({"workload_classes": ["Batch"]}, {}, {"workload_class": "batch"}, True),
        ({"workload_classes": ["batch"]}, {}, {}, False),
        ({"labels": ["Deep-Think"]}, {}, {"label": "deep-think"}, True),
        ({"labels": ["deep-think"]}, {}, {"label": ""}, False),
        ({"models": ["auto"]}, {}, {}, True),
        ({"models": ["other"]}, {}, {}, False),
        ({"headers": [pb.HeaderMatch(name="x-a", type=pb.HeaderMatch.PRESENT)]}, {"headers": {"x-a": "1"}}, {}, True),
        ({"headers": [pb.HeaderMatch(name="x-a", type=pb.HeaderMatch.PRESENT)]}, {}, {}, False),
        ({"intents": ["code"], "tools": True}, {"tools": ("f",)}, {"intent": "code"}, True),
        ({"intents": ["code"], "tools": True}, {"tools": ("f",)}, {"intent": "chat"}, False),
    ],
)
def test_conditions(
    when: dict[str, Any], request_fields: dict[str, Any], understanding_fields: dict[str, Any], holds: bool
) -> None:
    condition = Condition.of(pb.When(**when))
    assert condition.holds(ask(**request_fields), understood(**understanding_fields)) is holds
