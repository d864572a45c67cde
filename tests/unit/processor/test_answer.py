import orjson
import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse
from google.protobuf.json_format import MessageToDict
from support_routing import CHAT, HEADERS, policy, pool, snapshot, tier, use

from ralb_api.errors import ClientError, Code
from ralb_extproc.answer import (
    CONTINUE,
    REWRITE_HEADERS,
    models_body,
    models_reply,
    reply,
    rewritten,
    routed,
    upstream_body,
)
from ralb_extproc.request import parse
from ralb_extproc.table import RoutingTable
from ralb_extproc.types import Attempt, Candidate, Placement, Plan

ATTEMPTS = (
    Attempt("ns/a", "pool/ns/a", "10.0.0.1:8000", "m"),
    Attempt("ns/a", "pool/ns/a", "10.0.0.2:8000", "m"),
    Attempt("ns/b", "pool/ns/b/rewrite", "10.0.1.1:8000", "n"),
)


def plan(**fields: object) -> Plan:
    return Plan("ns/p", "r", "ns/t", "t", (Candidate("ns/a", "m", "ns/t", 0, 1),), **fields)  # type: ignore[arg-type]


def body(path: str, content: dict[str, object], the_plan: Plan | None = None) -> dict[str, object]:
    request = parse(path, HEADERS, orjson.dumps(content))
    sent: dict[str, object] = orjson.loads(upstream_body(request, the_plan or plan(), "served"))
    assert request.body["model"] == content["model"], "the parsed request must stay as it was"
    return sent


def chat(**fields: object) -> dict[str, object]:
    return {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **fields}


def test_every_field_but_the_model_goes_through() -> None:
    content = chat(temperature=0.25, seed=7, vendor={"nested": [1, None, True]}, stop=["\n"])
    assert body(CHAT, content) == {**content, "model": "served"}


def test_a_duplicate_key_reaches_the_server_once_as_it_was_judged() -> None:
    raw = b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"max_tokens":9,"max_tokens":5}'
    sent = upstream_body(parse(CHAT, HEADERS, raw), plan(), "served")
    assert sent.count(b"max_tokens") == 1
    assert orjson.loads(sent)["max_tokens"] == 5


@pytest.mark.parametrize(
    ("path", "content", "field", "expected"),
    [
        (CHAT, chat(max_tokens=900), "max_tokens", 100),
        (CHAT, chat(max_completion_tokens=900), "max_completion_tokens", 100),
        (CHAT, chat(max_tokens=50), "max_tokens", 50),
        (CHAT, chat(), "max_completion_tokens", 100),
        ("/v1/completions", {"model": "auto", "prompt": "x"}, "max_tokens", 100),
        ("/v1/responses", {"model": "auto", "input": "x"}, "max_output_tokens", 100),
        ("/v1/messages", {**chat(), "max_tokens": 900}, "max_tokens", 100),
    ],
)
def test_output_cap(path: str, content: dict[str, object], field: str, expected: int) -> None:
    assert body(path, content, plan(output_cap=100))[field] == expected


def test_no_cap_on_embeddings() -> None:
    assert set(body("/v1/embeddings", {"model": "auto", "input": "x"}, plan(output_cap=100))) == {"model", "input"}


def test_reasoning_effort_is_set_only_where_the_client_did_not_say() -> None:
    assert body(CHAT, chat(), plan(reasoning_effort="high"))["reasoning_effort"] == "high"
    assert body(CHAT, chat(reasoning_effort="low"), plan(reasoning_effort="high"))["reasoning_effort"] == "low"
    responses = {"model": "auto", "input": "x", "reasoning": {"summary": "auto"}}
    assert body("/v1/responses", responses, plan(reasoning_effort="high"))["reasoning"] == {
        "summary": "auto",
        "effort": "high",
    }
    assert "reasoning_effort" not in body("/v1/messages", {**chat(), "max_tokens": 1}, plan(reasoning_effort="high"))


def test_usage_is_asked_for_only_in_streams_of_policies_that_want_it() -> None:
    wanted = plan(inject_usage=True)
    assert body(CHAT, chat(stream=True), wanted)["stream_options"] == {"include_usage": True}
    options = {"include_usage": False, "other": 1}
    assert body(CHAT, chat(stream=True, stream_options=options), wanted)["stream_options"] == {
        "include_usage": True,
        "other": 1,
    }
    assert "stream_options" not in body(CHAT, chat(), wanted)
    assert "stream_options" not in body(CHAT, chat(stream=True))


def test_routed_names_clusters_and_endpoints_in_order() -> None:
    message = routed(b"{}", Placement(ATTEMPTS), decision_id="d1", tier="t", remove=["x-ralb-session"], explanation="e")
    metadata = MessageToDict(message.dynamic_metadata)
    assert metadata["envoy.lb"] == {"x-gateway-destination-endpoint": "10.0.0.1:8000,10.0.0.2:8000,10.0.1.1:8000"}
    groups = metadata["ralb.order"]["priority_groups"]
    assert [group["clusters"][0]["cluster_name"] for group in groups] == [a.cluster for a in ATTEMPTS]
    assert len({group["name"] for group in groups}) == len(ATTEMPTS)
    assert metadata["ralb.decision"] == {"id": "d1", "tier": "t", "explanation": "e"}
    common = message.request_body.response
    assert common.clear_route_cache
    headers = {h.header.key: h.header.raw_value for h in common.header_mutation.set_headers}
    assert headers == {"x-ralb-decision-id": b"d1", "content-length": b"2"}, (
        "a header must change, or the route cache stays"
    )
    assert list(common.header_mutation.remove_headers) == ["x-ralb-session"]


def test_routed_leaves_the_choice_of_endpoint_to_envoy_for_services() -> None:
    message = routed(b"{}", Placement((Attempt("ns/s", "pool/ns/s", "", "m"),)), decision_id="d", tier="", remove=())
    assert set(MessageToDict(message.dynamic_metadata)) == {"ralb.order", "ralb.decision"}


def test_orders_that_are_kept_are_not_shared() -> None:
    first = routed(b"{}", Placement(ATTEMPTS), decision_id="a", tier="", remove=())
    first.dynamic_metadata["ralb.order"]["priority_groups"] = []
    second = routed(b"{}", Placement(ATTEMPTS), decision_id="b", tier="", remove=())
    assert len(second.dynamic_metadata["ralb.order"]["priority_groups"]) == 3


@pytest.mark.parametrize(("path", "family"), [(CHAT, "openai"), ("/v1/messages", "anthropic")])
def test_errors_have_the_shape_of_their_api(path: str, family: str) -> None:
    error = ClientError(429, Code.NO_ENDPOINT, "Busy.", param="model", headers=(("retry-after", "3"),))
    answer = reply(error, path=path).immediate_response
    content = orjson.loads(answer.body)
    assert answer.status.code == 429
    assert answer.details == "ralb_no_endpoint"
    assert content["error"]["code"] == "no_endpoint"
    assert content["error"]["message"] == "Busy."
    assert content["error"]["type"] == "rate_limit_error"
    assert (content.get("type") == "error") == (family == "anthropic")
    headers = {h.header.key: h.header.raw_value for h in answer.headers.set_headers}
    assert headers == {"content-type": b"application/json", "retry-after": b"3"}


def test_models_lists_virtual_and_served_names() -> None:
    table = RoutingTable.of(
        snapshot(pool("a", "model-a", aliases=["short"], context_window=1000), tier("t", 1, "a"), policy("p", use("t")))
    )
    listed = orjson.loads(models_body(table, "/v1/models") or b"")
    assert listed["object"] == "list"
    assert {entry["id"]: entry.get("max_model_len") for entry in listed["data"]} == {
        "auto": None,
        "model-a": 1000,
        "short": 1000,
    }
    assert orjson.loads(models_body(table, "/v1/models/short") or b"")["id"] == "short"
    assert models_body(table, "/v1/models/other") is None
    assert models_reply(b"{}").immediate_response.status.code == 200


def test_rewriting_changes_the_model_and_nothing_else() -> None:
    message = rewritten(b'{"model":"m","messages":[],"x":1.5}', "n")
    assert orjson.loads(message.request_body.response.body_mutation.body) == {"model": "n", "messages": [], "x": 1.5}
    for unusable in (b"[1]", b"not json", b""):
        assert not rewritten(unusable, "n").request_body.response.HasField("body_mutation")


def test_prepared_replies_parse() -> None:
    assert ProcessingResponse.FromString(CONTINUE).WhichOneof("response") == "request_headers"
    removed = ProcessingResponse.FromString(REWRITE_HEADERS).request_headers.response.header_mutation.remove_headers
    # What is set for one attempt would be wrong for the next: a length, and a pod that has the KV blocks.
    assert list(removed) == ["content-length", "x-prefiller-host-port"]
