"""Completions, responses, embeddings and Anthropic messages come to the same Request."""

from typing import Any

import pytest
from support_routing import HEADERS, parsed

from ralb_api.errors import ClientError
from ralb_extproc.types import Api, Turn

COMPLETIONS, RESPONSES, EMBEDDINGS, MESSAGES = "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages"


def refused(body: dict[str, Any], path: str) -> ClientError:
    with pytest.raises(ClientError) as caught:
        parsed(body, path)
    assert caught.value.status == 400
    return caught.value


class TestCompletions:
    def test_one_prompt(self) -> None:
        request = parsed({"model": "m", "prompt": "Once upon a time", "max_tokens": 0}, COMPLETIONS)
        assert request.api is Api.COMPLETIONS
        assert request.turns == (Turn("user", "Once upon a time"),)
        assert 3 <= request.input_tokens <= 5
        assert request.longest_prompt == 0

    def test_a_batch_is_judged_by_its_longest_prompt(self) -> None:
        request = parsed({"model": "m", "prompt": ["short", "word " * 300]}, COMPLETIONS)
        assert len(request.turns) == 2
        assert 250 < request.longest_prompt < request.input_tokens

    def test_token_ids_count_exactly(self) -> None:
        assert parsed({"model": "m", "prompt": [1, 2, 3]}, COMPLETIONS).input_tokens == 3
        request = parsed({"model": "m", "prompt": [[1, 2, 3], [4] * 10]}, COMPLETIONS)
        assert (request.input_tokens, request.longest_prompt) == (13, 10)
        assert request.turns == (Turn("user", ""), Turn("user", ""))

    @pytest.mark.parametrize(
        ("prompt", "param"),
        [
            (None, "prompt"),
            (7, "prompt"),
            ([], "prompt"),
            (["a", 1], "prompt"),
            ([1, True], "prompt"),
            ([[]], "prompt[0]"),
            ([[1], ["x"]], "prompt[1]"),
            ([[1, -1]], "prompt[0]"),
            ([1, 2**40], "prompt"),
        ],
    )
    def test_wrong_prompts(self, prompt: Any, param: str) -> None:
        assert refused({"model": "m", "prompt": prompt}, COMPLETIONS).param == param


class TestEmbeddings:
    def test_input(self) -> None:
        request = parsed({"model": "m", "input": ["a cat", "a dog"]}, EMBEDDINGS)
        assert request.api is Api.EMBEDDINGS
        assert [turn.text for turn in request.turns] == ["a cat", "a dog"]
        assert 0 < request.longest_prompt < request.input_tokens

    def test_a_conversation_can_be_embedded(self) -> None:
        request = parsed({"model": "m", "messages": [{"role": "user", "content": "a cat"}]}, EMBEDDINGS)
        assert request.turns == (Turn("user", "a cat"),)

    def test_input_is_required(self) -> None:
        assert refused({"model": "m"}, EMBEDDINGS).param == "input"


class TestResponses:
    def test_text_input_with_instructions(self) -> None:
        body = {
            "model": "m",
            "instructions": "Be brief.",
            "input": "Why?",
            "max_output_tokens": 99,
            "reasoning": {"effort": "low", "summary": None},
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
            "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "web_search"}],
            "tool_choice": {"type": "function", "name": "f"},
        }
        request = parsed(body, RESPONSES)
        assert request.turns == (Turn("system", "Be brief."), Turn("user", "Why?"))
        assert (request.max_output, request.reasoning_effort, request.structured) == (99, "low", True)
        assert (request.tools, request.tool_choice) == (("f", "web_search"), "named")

    def test_items(self) -> None:
        items = [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": "u"}],
            },
            {"type": "reasoning", "id": "r", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "42"},
            {"type": "computer_call_output", "call_id": "d", "output": {"type": "computer_screenshot"}},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "seen"}]},
            {"type": "item_reference", "id": "i"},
        ]
        request = parsed({"model": "m", "input": items}, RESPONSES)
        assert request.turns == (
            Turn("user", "look"),
            Turn("assistant", "", 1),
            Turn("tool", "42"),
            Turn("tool", ""),
            Turn("assistant", "seen"),
        )
        assert request.images == 1

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({}, "input"),
            ({"input": {}}, "input"),
            ({"input": []}, "input"),
            ({"input": ["text"]}, "input[0]"),
            ({"input": [{"content": "x"}]}, "input[0].role"),
            ({"input": [{"type": 3}]}, "input[0].type"),
            ({"input": "x", "instructions": 1}, "instructions"),
            ({"input": "x", "text": "json"}, "text"),
            ({"input": "x", "reasoning": {"effort": 3}}, "reasoning.effort"),
            ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
            ({"input": "x", "tools": [{"type": "function"}]}, None),
        ],
    )
    def test_wrong_fields(self, fields: dict[str, Any], param: str | None) -> None:
        if param is None:  # a tool known only by its type is a built-in one, for the server to judge
            assert parsed({"model": "m", **fields}, RESPONSES).tools == ("function",)
        else:
            assert refused({"model": "m", **fields}, RESPONSES).param == param


class TestMessages:
    def test_tool_results_become_turns_of_their_own(self) -> None:
        body = {
            "model": "m",
            "max_tokens": 1024,
            "system": [{"type": "text", "text": "You are", "cache_control": {"type": "ephemeral"}}],
            "tools": [{"name": "f", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}],
            "tool_choice": {"type": "any"},
            "messages": [
                {"role": "user", "content": "start"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "text", "text": "calling"},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": "b"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "out"}]},
                        {"type": "text", "text": "go on"},
                    ],
                },
            ],
        }
        request = parsed(body, MESSAGES)
        assert request.turns == (
            Turn("system", "You are"),
            Turn("user", "start"),
            Turn("assistant", "hm\ncalling", 1),
            Turn("tool", "out"),
            Turn("user", "go on"),
        )
        assert (request.tools, request.tool_choice, request.max_output) == (("f", "bash"), "required", 1024)

    def test_attachments(self) -> None:
        content = [
            {"type": "image", "source": {"type": "base64", "data": "AAAA"}},
            {"type": "document", "source": {"type": "base64", "data": "AAAA"}},
            {"type": "document", "source": {"type": "text", "data": "the contract"}},
        ]
        request = parsed({"model": "m", "messages": [{"role": "user", "content": content}]}, MESSAGES)
        assert (request.images, request.files) == (1, 2)
        assert "the contract" in request.turns[0].text

    @pytest.mark.parametrize(
        ("fields", "effort"),
        [
            ({}, ""),
            ({"thinking": {"type": "disabled"}}, "none"),
            ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
            ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, "medium"),
            ({"thinking": {"type": "enabled", "budget_tokens": 32_000}}, "high"),
            ({"thinking": {"type": "adaptive"}}, ""),
            ({"output_config": {"effort": "high"}}, "high"),
        ],
    )
    def test_thinking_is_effort(self, fields: dict[str, Any], effort: str) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
        assert parsed(body, MESSAGES).reasoning_effort == effort

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
            ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
            (
                {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}, {"type": "text"}]}]},
                "messages[0].content[1].text",
            ),
            ({"system": 7}, "system"),
            ({"thinking": "on"}, "thinking"),
            ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
            ({"max_tokens": -1}, "max_tokens"),
        ],
    )
    def test_wrong_fields(self, fields: dict[str, Any], param: str) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
        assert refused(body, MESSAGES).param == param


def test_host_comes_from_the_authority_without_port() -> None:
    body = {"model": "m", "prompt": "x"}
    assert parsed(body, COMPLETIONS, {":authority": "API.Example.com:8443"}).host == "api.example.com"
    assert parsed(body, COMPLETIONS, {"Host": "api.example.com."}).host == "api.example.com"
    assert parsed(body, COMPLETIONS, {":authority": "[::1]:8080"}).host == "[::1]"
    assert parsed(body, COMPLETIONS, {}).host == ""


def test_headers_are_lower_case_and_only_the_clients() -> None:
    headers = {
        **HEADERS,
        "X-Ralb-Intent": "code",
        "x-ralb-tier": "forged",
        "x-envoy-upstream-alt-stat-name": "forged",
        "x-gateway-destination-endpoint": "10.0.0.1:1",
        "User-Agent": "test",
    }
    seen = parsed({"model": "m", "prompt": "x"}, COMPLETIONS, headers).headers
    assert seen == {"content-type": "application/json", "x-ralb-intent": "code", "user-agent": "test"}


def test_session() -> None:
    def session(headers: dict[str, str], **fields: Any) -> str:
        return parsed({"model": "m", "prompt": "x", **fields}, COMPLETIONS, headers).session

    assert session({}) == ""
    assert session({"session-id": "b", "x-ralb-session": "a"}) == "a"
    assert session({"x-session-id": "b"}, prompt_cache_key="c") == "b"
    assert session({}, prompt_cache_key="c") == "c"
    assert session({}, prompt_cache_key=7) == ""
    assert session({}, user="someone", metadata={"user_id": "someone"}) == ""
    long = session({"x-ralb-session": "a" * 300})
    assert len(long) == 32
    assert long != session({"x-ralb-session": "a" * 301})
