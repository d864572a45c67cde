"""Whatever is wrong, the client is told what, where and what to do; never anything but a ClientError."""

from typing import Any

import orjson
import pytest
from support_routing import CHAT, HEADERS, chat, parsed

from ralb_api.errors import ClientError
from ralb_extproc.request import PATHS, parse


def refused(raw: bytes, headers: dict[str, str] | None = None, path: str = CHAT, method: str = "POST") -> ClientError:
    with pytest.raises(ClientError) as caught:
        parse(path, headers if headers is not None else HEADERS, raw, method=method)
    return caught.value


def wrong(body: dict[str, Any]) -> ClientError:
    return refused(orjson.dumps(body))


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "body_required"),
        (b" \n", "body_required"),
        (b"model=auto", "invalid_json"),
        (b'{"model": "auto"', "invalid_json"),
        (b'{"model": NaN}', "invalid_json"),
        (b'{"model": 1e999}', "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b'{"model": "caf\xc3', "invalid_json"),
        (b'{"model": "\xff\xfe"}', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "invalid_json"),
        (b"[]", "invalid_request"),
        (b'"auto"', "invalid_request"),
        (b"null", "invalid_request"),
        (b"7", "invalid_request"),
    ],
)
def test_bodies_that_are_no_json_object(raw: bytes, code: str) -> None:
    error = refused(raw)
    assert (error.status, error.code) == (400, code)


def test_truncated_utf8_is_named_with_its_place() -> None:
    assert "UTF-8 at byte 14" in refused(b'{"model": "caf\xc3').message


def test_broken_json_is_named_with_its_place() -> None:
    assert "line 2" in refused(b'{"model": "auto",\n oops}').message


@pytest.mark.parametrize("depth", [127, 128, 300, 900])
def test_depth_is_bounded_where_orjson_could_not_write_it_back(depth: int) -> None:
    # The outer object is a level too.
    nested = b"[" * (depth - 1) + b"]" * (depth - 1)
    raw = b'{"model":"m","messages":[{"role":"user"}],"x":' + nested + b"}"
    if depth <= 128:
        assert orjson.dumps(parse(CHAT, HEADERS, raw).body)
    else:
        assert "128 levels" in refused(raw).message


def test_many_brackets_are_not_depth() -> None:
    body = chat("[" * 1000, x=[[] for _ in range(500)])
    assert parsed(body).model == "auto"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": "  "}, "model"),
        ({"model": 5}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "r" * 65, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": 3}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": ["x"]}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": 1}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{"role": "assistant", "function_call": "f"}]}, "messages[0].function_call"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": "f"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": 3}}]}, "tools[0].function.name"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"tool_choice": {}}, "tool_choice.type"),
        ({"tool_choice": {"type": []}}, "tool_choice.type"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens"),
        ({"max_completion_tokens": 1e30}, "max_completion_tokens"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"reasoning_effort": "x" * 33}, "reasoning_effort"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], param: str) -> None:
    error = wrong(chat("hi") | fields)
    assert (error.status, error.code, error.param) == (400, "invalid_request", param)
    assert error.message.startswith(param)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_other_media_types(content_type: str) -> None:
    error = refused(b"{}", {"content-type": content_type})
    assert (error.status, error.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json", ""]
)
def test_json_media_types(content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert parsed(chat("hi"), headers=headers).model == "auto"


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "identity, gzip"])
def test_compressed_bodies(encoding: str) -> None:
    error = refused(b"\x1f\x8b", {"content-type": "application/json", "content-encoding": encoding})
    assert error.status == 415
    assert "uncompressed" in error.message


def test_identity_is_no_encoding() -> None:
    assert parsed(chat("hi"), headers={"content-encoding": "Identity"}).model == "auto"


@pytest.mark.parametrize(
    "path", ["/", "/v1/chat", "/v1/chat/completions/", "/v2/chat/completions", "/v1/" + "x" * 5000]
)
def test_unknown_paths_list_the_known_ones(path: str) -> None:
    error = refused(b"{}", path=path)
    assert (error.status, error.code) == (404, "unknown_path")
    assert all(known in error.message for known in PATHS)
    assert len(error.message) < 600


def test_other_methods() -> None:
    error = refused(b"", path=CHAT, method="GET")
    assert (error.status, error.code, error.headers) == (405, "method_not_allowed", (("allow", "POST"),))
