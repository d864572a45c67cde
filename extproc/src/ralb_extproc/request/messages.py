"""Anthropic messages. Tool results come inside user messages; here they become turns of their own, as everywhere else."""

from collections.abc import Mapping
from typing import Any

from ralb_extproc.request import fields
from ralb_extproc.request.draft import Draft
from ralb_extproc.request.tools import read_choice, read_tools
from ralb_extproc.types import Turn

# (thinking budget up to, effort it is worth): Anthropic gives tokens where others give a word.
_EFFORTS = ((2_048, "low"), (16_384, "medium"))


def read(body: Mapping[str, Any], draft: Draft) -> None:
    """Read a messages body."""
    system = draft.content(body.get("system"), "system")
    if system:
        draft.turns.append(Turn("system", system))
    for index, message in enumerate(fields.objects(body, "messages", required=True)):
        _message(message, f"messages[{index}]", draft)
    read_tools(body, draft)
    read_choice(body, draft)
    draft.max_output = fields.whole(body, "max_tokens", 0) or 0
    config = fields.optional_object(body, "output_config") or {}
    wanted = fields.optional_object(config, "format", "output_config.") or fields.optional_object(body, "output_format")
    draft.structured = wanted is not None and wanted.get("type") == "json_schema"
    draft.effort = fields.optional_text(config, "effort", "output_config.").lower() or _thinking(body)


def _message(message: Mapping[str, Any], at: str, draft: Draft) -> None:
    role = message.get("role")
    if role not in ("user", "assistant", "system"):
        raise fields.invalid(f"{at}.role", 'must be "user" or "assistant"')
    value = message.get("content")
    if value is None:
        raise fields.invalid(f"{at}.content", "is required and must be a string or a list of blocks")
    if type(value) is not list:
        draft.turns.append(Turn(role, draft.content(value, f"{at}.content")))
        return
    calls = 0
    rest: list[str] = []
    for index, block in enumerate(value):
        if type(block) is not dict:
            raise fields.invalid(f"{at}.content[{index}]", f"must be an object with a type, not {fields.kind(block)}")
        name = block.get("type")
        if type(name) is not str:
            raise fields.invalid(f"{at}.content[{index}].type", f"must be a string, not {fields.kind(name)}")
        if name.endswith("tool_result"):
            result = block.get("content")
            text = draft.content(result, f"{at}.content[{index}].content") if type(result) in (str, list) else ""
            draft.turns.append(Turn("tool", text))
        elif name.endswith("tool_use"):
            calls += 1
            if type(block.get("input")) is dict:
                draft.hidden.extend(text for text in block["input"].values() if type(text) is str)
        else:
            draft.part(block, f"{at}.content", index, rest)
    if rest or calls or not value:
        draft.turns.append(Turn(role, "\n".join(rest), calls))


def _thinking(body: Mapping[str, Any]) -> str:
    thinking = fields.optional_object(body, "thinking")
    if thinking is None:
        return ""
    if thinking.get("type") == "disabled":
        return "none"
    budget = fields.whole(thinking, "budget_tokens", 0, at="thinking.")
    if budget is None:
        return ""
    return next((effort for most, effort in _EFFORTS if budget <= most), "high")
