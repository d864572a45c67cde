"""The tools a request offers: their names, what the client says about using them, and what they cost in tokens.

Three shapes mean the same: chat completions nest name and schema in ``function``, responses and Anthropic put the name at
the top, and built-in tools have only a type.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ralb_extproc.request import fields, tokens
from ralb_extproc.request.draft import Draft

MAX_NAME = 256
_CHOICES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}


def read_tools(body: Mapping[str, Any], draft: Draft, name: str = "tools") -> None:
    """Read the list of tools into the draft."""
    offered = fields.objects(body, name)
    if not offered:
        return
    draft.tools = (*draft.tools, *(_name(tool, f"{name}[{index}]") for index, tool in enumerate(offered)))
    draft.tool_tokens += tokens.estimate_json(orjson.dumps(offered))


def read_choice(body: Mapping[str, Any], draft: Draft, name: str = "tool_choice") -> None:
    """Read what the client says about using tools: ``auto``, ``none``, ``required`` or ``named``."""
    value = body.get(name)
    if value is None:
        return
    if type(value) is dict:
        said = value.get("type")
        if said == "allowed_tools":
            said = value.get("mode") or _mode_of(value.get("allowed_tools"))
        # A built-in tool is chosen by its type alone; function_call has a name and no type.
        draft.tool_choice = _CHOICES.get(said, "named") if type(said) is str else "named"
        if said is None and type(value.get("name")) is not str:
            raise fields.invalid(f"{name}.type", "is required and must be a string")
        if said is not None and type(said) is not str:
            raise fields.invalid(f"{name}.type", f"must be a string, not {fields.kind(said)}")
        return
    if type(value) is not str:
        raise fields.invalid(name, f"must be a string or an object, not {fields.kind(value)}")
    if value not in _CHOICES:
        raise fields.invalid(name, 'must be "auto", "none" or "required", or an object that names a tool')
    draft.tool_choice = _CHOICES[value]


def _mode_of(value: Any) -> Any:
    return value.get("mode", "auto") if type(value) is dict else "auto"


def _name(tool: Mapping[str, Any], at: str) -> str:
    holder, where = tool, at
    function = tool.get("function")
    if function is not None:
        if type(function) is not dict:
            raise fields.invalid(f"{at}.function", f"must be an object, not {fields.kind(function)}")
        holder, where = function, f"{at}.function"
    elif tool.get("type") == "custom" and type(tool.get("custom")) is dict:
        holder, where = tool["custom"], f"{at}.custom"
    if holder.get("name") is not None or function is not None:
        return fields.required_text(holder, "name", f"{where}.", MAX_NAME)
    return fields.required_text(tool, "type", f"{at}.", MAX_NAME)
