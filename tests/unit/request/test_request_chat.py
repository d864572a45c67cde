"""Chat completions: what is read, and that everything else passes untouched."""

from typing import Any

import pytest
from support_routing import HEADERS, chat, parsed

from ralb_extproc.request import parse
from ralb_extproc.types import Api, Turn

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def test_a_plain_request() -> None:
    request = parsed(chat({"role": "system", "content": "Be kind."}, "Hello there"))
    assert request.api is Api.CHAT
    assert request.model == "auto"
    assert request.turns == (Turn("system", "Be kind."), Turn("user", "Hello there"))
    assert not request.stream
    assert request.tools == ()
    assert request.max_output == 0
    assert request.choices == 1
    assert 8 <= request.input_tokens <= 20
    assert request.path == "/v1/chat/completions"
    assert request.size > 50


def test_the_body_is_kept_whole_with_fields_nobody_here_knows() -> None:
    body = chat("hi", logit_bias={"50256": -100}, seed=7, unheard_of={"deep": [1, {"er": None}]})
    assert parsed(body).body == body


def test_of_duplicate_keys_the_last_wins() -> None:
    raw = b'{"model": "a", "messages": [{"role": "user", "content": "x"}], "model": "b"}'
    request = parse("/v1/chat/completions", HEADERS, raw)
    assert request.model == "b"
    assert request.body["model"] == "b"


def test_query_is_cut_off_the_path() -> None:
    request = parse("/v1/chat/completions?api-version=1", HEADERS, b'{"model":"m","messages":[{"role":"user"}]}')
    assert request.path == "/v1/chat/completions"


def test_typed_parts_are_joined_and_attachments_counted() -> None:
    parts = [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "text", "text": "two"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "not_yet_invented", "x": 1},
    ]
    request = parsed(chat({"role": "user", "content": parts}))
    assert request.turns[0].text == "one\ntwo"
    assert (request.images, request.audio, request.files) == (1, 1, 1)


def test_images_cost_by_detail_and_never_by_their_bytes() -> None:
    def tokens(detail: str, size: int) -> int:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size, "detail": detail}}
        return parsed(chat({"role": "user", "content": [image]})).input_tokens

    assert tokens("low", 10) < tokens("auto", 10) < tokens("high", 10)
    assert tokens("auto", 10) == tokens("auto", 200_000)


def test_tools_are_named_in_order_and_cost_tokens() -> None:
    plain = parsed(chat("hi"))
    request = parsed(chat("hi", tools=[WEATHER, {"type": "web_search"}, {"type": "custom", "custom": {"name": "sh"}}]))
    assert request.tools == ("get_weather", "web_search", "sh")
    assert request.input_tokens > plain.input_tokens + 20


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "get_weather"}}, "named"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}, "required"),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, "auto"),
        (None, ""),
    ],
)
def test_tool_choice(choice: Any, expected: str) -> None:
    assert parsed(chat("hi", tools=[WEATHER], tool_choice=choice)).tool_choice == expected


def test_functions_of_old_clients_are_tools() -> None:
    request = parsed(chat("hi", functions=[{"name": "f"}], function_call={"name": "f"}))
    assert request.tools == ("f",)
    assert request.tool_choice == "named"


def test_tool_calls_are_counted_and_their_arguments_cost_tokens() -> None:
    def conversation(arguments: str) -> Any:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        return chat(
            "do it",
            {"role": "assistant", "content": None, "tool_calls": [call, call]},
            {"role": "tool", "tool_call_id": "c", "content": "done"},
            {"role": "function", "name": "g", "content": "old style"},
        )

    request = parsed(conversation("{}"))
    assert request.turns[1] == Turn("assistant", "", 2)
    assert request.turns[2] == Turn("tool", "done")
    assert request.turns[3].role == "tool"
    assert parsed(conversation('{"text": "' + "word " * 500 + '"}')).input_tokens > request.input_tokens + 800


@pytest.mark.parametrize(
    ("fields", "structured"),
    [
        ({}, False),
        ({"response_format": None}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, True),
        ({"structured_outputs": {"json": {}}}, True),
    ],
)
def test_structured_answers(fields: dict[str, Any], structured: bool) -> None:
    assert parsed(chat("hi", **fields)).structured is structured


def test_limits_and_wishes() -> None:
    request = parsed(chat("hi", max_tokens=10, max_completion_tokens=20, n=3, stream=True, reasoning_effort="High"))
    assert request.max_output == 20
    assert request.choices == 3
    assert request.stream
    assert request.reasoning_effort == "high"
    assert parsed(chat("hi", max_tokens=10)).max_output == 10


def test_null_means_not_said() -> None:
    fields = ("max_tokens", "max_completion_tokens", "n", "stream", "tools", "tool_choice", "reasoning_effort")
    request = parsed(chat("hi", **dict.fromkeys(fields)))
    assert (request.max_output, request.choices, request.stream, request.reasoning_effort) == (0, 1, False, "")
