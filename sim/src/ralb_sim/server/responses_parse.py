"""Reading `/v1/responses` bodies into a `Generation`."""

from typing import Any

import orjson

from ralb_sim.prompts import Call, Turn, text_piece
from ralb_sim.server import fields, generation
from ralb_sim.server.chat_parse import read_content
from ralb_sim.server.errors import ApiError, invalid_field
from ralb_sim.server.fields import Body
from ralb_sim.server.generation import Generation


def read_response(body: Body, *, reasons: bool) -> Generation:
    """Read a responses request.

    Args:
        body: The parsed body.
        reasons: Whether this server's model reasons.

    Raises:
        ApiError: 400 for whatever is wrong first; 404 for a previous response, since none are stored.
    """
    given = fields.required(body, "input")
    previous = fields.text(body, "previous_response_id")
    if previous:
        raise ApiError(404, f"Response with id '{previous[:200]}' not found.", "invalid_request_error", "response_id")
    generation.check_sampling(body)
    raw_tools = fields.items(body, "tools")
    tools = generation.function_tools(raw_tools, name="name", schema="parameters")
    instructions = fields.text(body, "instructions")
    turns = [Turn("system", (text_piece(instructions),))] if instructions else []
    if isinstance(given, str):
        turns.append(Turn("user", (text_piece(given),)))
    else:
        for index, item in enumerate(fields.as_list(given, "input")):
            turn = _turn(item, fields.at("input", index))
            if turn is not None:
                turns.append(turn)
    effort = generation.effort_of(fields.text(fields.mapping(body, "reasoning"), "effort", "", "reasoning"))
    thinking = effort != "none"
    format_ = fields.mapping(fields.mapping(body, "text"), "format", "text")
    return Generation(
        model=fields.text(body, "model"),
        prompts=(generation.render_prompt(turns, raw_tools, thinking=reasons and thinking),),
        max_tokens=fields.whole(body, "max_output_tokens", least=1),
        stream=fields.flag(body, "stream"),
        ignore_eos=fields.flag(body, "ignore_eos"),
        tools=tools,
        tool_choice=generation.check_choice(_choice(body), tools),
        json_schema=generation.schema_of(format_, "text.format"),
        effort=effort,
        thinking=thinking,
    )


def _choice(body: Body) -> str:
    value = body.get("tool_choice")
    if value is None:
        return "auto" if body.get("tools") else "none"
    if isinstance(value, str):
        if value not in ("none", "auto", "required"):
            raise invalid_field("literal_error", "tool_choice", "Input should be 'none', 'auto' or 'required'", value)
        return value
    return f"={fields.required(fields.as_object(value, 'tool_choice'), 'name', 'tool_choice')}"


def _turn(item: Any, path: str) -> Turn | None:
    entry = fields.as_object(item, path)
    kind = fields.text(entry, "type", "message", path)
    match kind:
        case "message":
            role = fields.required(entry, "role", path)
            if not isinstance(role, str):
                raise invalid_field("string_type", fields.at(path, "role"), "Input should be a valid string", role)
            return Turn(role, read_content(entry.get("content"), fields.at(path, "content")))
        case "function_call":
            return Turn(
                "assistant",
                (),
                (Call(fields.text(entry, "name", "", path), fields.text(entry, "arguments", "", path)),),
            )
        case "function_call_output":
            output = entry.get("output")
            text = output if isinstance(output, str) else orjson.dumps(output).decode()
            return Turn("tool", (text_piece(text),))
        case "reasoning":
            return None
        case _:
            return Turn("user", (text_piece(orjson.dumps(entry).decode()),))
