"""OpenAI responses: input is a string or a list of items, of which messages are only one kind."""

from collections.abc import Mapping
from typing import Any

from ralb_extproc.request import fields
from ralb_extproc.request.chat import MAX_ROLE
from ralb_extproc.request.draft import Draft
from ralb_extproc.request.tools import read_choice, read_tools
from ralb_extproc.types import Turn

_JSON = frozenset({"json_object", "json_schema"})


def read(body: Mapping[str, Any], draft: Draft) -> None:
    """Read a responses body."""
    instructions = fields.optional_text(body, "instructions")
    if instructions:
        draft.turns.append(Turn("system", instructions))
    value = body.get("input")
    if type(value) is str:
        draft.turns.append(Turn("user", value))
    elif type(value) is list:
        for index, item in enumerate(fields.objects(body, "input", required=True)):
            _item(item, f"input[{index}]", draft)
    else:
        missing = "is required and " if value is None else ""
        raise fields.invalid("input", f"{missing}must be a string or a list of items")
    read_tools(body, draft)
    read_choice(body, draft)
    text = fields.optional_object(body, "text") or {}
    wanted = fields.optional_object(text, "format", "text.")
    draft.structured = wanted is not None and wanted.get("type") in _JSON
    draft.max_output = fields.whole(body, "max_output_tokens", 1) or 0
    reasoning = fields.optional_object(body, "reasoning") or {}
    draft.effort = fields.optional_text(reasoning, "effort", "reasoning.").lower()


def _item(item: Mapping[str, Any], at: str, draft: Draft) -> None:
    name = item.get("type")
    if name is None or name == "message":
        role = item.get("role")
        if type(role) is not str or not role or len(role) > MAX_ROLE:
            raise fields.invalid(f"{at}.role", 'must be a role such as "user" or "assistant", and is required')
        draft.turns.append(Turn(role, draft.content(item.get("content"), f"{at}.content")))
    elif type(name) is not str:
        raise fields.invalid(f"{at}.type", f"must be a string, not {fields.kind(name)}")
    elif name.endswith("_call_output"):
        output = item.get("output")
        # Built-in tools answer with objects of their own; only text and parts are ours to read.
        text = draft.content(output, f"{at}.output") if type(output) in (str, list) else ""
        draft.turns.append(Turn("tool", text))
    elif name.endswith("_call"):
        arguments = item.get("arguments")
        if type(arguments) is str:
            draft.hidden.append(arguments)
        draft.turns.append(Turn("assistant", "", 1))
    # Reasoning items, references and kinds yet to come cost nothing we could estimate and decide nothing.
