"""OpenAI chat completions, as vLLM extends them."""

from collections.abc import Mapping
from typing import Any

from ralb_extproc.request import fields
from ralb_extproc.request.draft import Draft
from ralb_extproc.request.tools import read_choice, read_tools
from ralb_extproc.types import Turn

_JSON = frozenset({"json_object", "json_schema"})
# vLLM's own ways to ask for constrained answers.
_CONSTRAINED = ("structured_outputs", "guided_json")
MAX_ROLE = 64


def read(body: Mapping[str, Any], draft: Draft) -> None:
    """Read a chat completion body."""
    read_messages(fields.objects(body, "messages", required=True), draft)
    read_tools(body, draft)
    read_choice(body, draft)
    if "functions" in body:  # the form before tools, still sent by old clients
        read_tools(body, draft, "functions")
        read_choice(body, draft, "function_call")
    wanted = fields.optional_object(body, "response_format")
    draft.structured = _is_json(wanted, "response_format") or any(body.get(name) for name in _CONSTRAINED)
    draft.max_output = fields.whole(body, "max_completion_tokens", 1) or 0
    older = fields.whole(body, "max_tokens", 1) or 0
    draft.max_output = draft.max_output or older
    draft.choices = fields.whole(body, "n", 1, 128) or 1
    draft.effort = fields.optional_text(body, "reasoning_effort").lower()


def read_messages(messages: list[dict[str, Any]], draft: Draft) -> None:
    """Read the conversation into turns."""
    turns, hidden, content = draft.turns, draft.hidden, draft.content
    for index, message in enumerate(messages):
        role = message.get("role")
        if type(role) is not str or not role or len(role) > MAX_ROLE:
            raise fields.invalid(
                f"messages[{index}].role", 'must be a role such as "user" or "assistant", and is required'
            )
        value = message.get("content")
        text = value if type(value) is str else content(value, f"messages[{index}].content")
        calls = 0
        if "tool_calls" in message:
            calls = _calls(message, f"messages[{index}].", hidden)
        if message.get("function_call") is not None:
            call = fields.optional_object(message, "function_call", f"messages[{index}].") or {}
            hidden.append(fields.optional_text(call, "arguments", f"messages[{index}].function_call."))
            calls += 1
        turns.append(Turn("tool" if role == "function" else role, text, calls))


def _calls(message: Mapping[str, Any], at: str, hidden: list[str]) -> int:
    calls = fields.objects(message, "tool_calls", at)
    for index, call in enumerate(calls):
        function = fields.optional_object(call, "function", f"{at}tool_calls[{index}].")
        if function is not None:
            arguments = function.get("arguments")
            if type(arguments) is str:  # servers also take an object here; its cost is small either way
                hidden.append(arguments)
    return len(calls)


def _is_json(wanted: Mapping[str, Any] | None, at: str) -> bool:
    if wanted is None:
        return False
    name = wanted.get("type")
    if type(name) is not str:
        raise fields.invalid(f"{at}.type", f"must be a string, not {fields.kind(name)}")
    return name in _JSON
