"""Reading Anthropic `/v1/messages` bodies into a `Generation`."""

from typing import Any

import orjson

from ralb_sim.prompts import Call, Media, Turn, media_piece, text_piece
from ralb_sim.server import fields, generation
from ralb_sim.server.errors import invalid_field
from ralb_sim.server.fields import Body
from ralb_sim.server.generation import Generation


def read_messages(body: Body, *, reasons: bool, counting: bool = False) -> Generation:
    """Read a messages request.

    Args:
        body: The parsed body.
        reasons: Whether this server's model reasons.
        counting: Read for counting tokens only: `max_tokens` may be absent.

    Raises:
        ApiError: 400 for whatever is wrong first.
    """
    messages = fields.as_list(fields.required(body, "messages"), "messages")
    if not counting:
        fields.required(body, "max_tokens")
    generation.check_sampling(body)
    raw_tools = fields.items(body, "tools")
    tools = generation.function_tools(raw_tools, name="name", schema="input_schema")
    turns = _system(body.get("system"))
    for index, message in enumerate(messages):
        turns += _turns(message, fields.at("messages", index))
    effort = generation.effort_of(fields.text(fields.mapping(body, "output_config"), "effort"))
    thinking = (
        fields.text(fields.mapping(body, "thinking"), "type", "enabled", "thinking") != "disabled" and effort != "none"
    )
    format_ = fields.mapping(fields.mapping(body, "output_config"), "format", "output_config")
    return Generation(
        model=fields.text(body, "model"),
        prompts=(generation.render_prompt(turns, raw_tools, thinking=reasons and thinking),),
        max_tokens=fields.whole(body, "max_tokens", least=1),
        stream=fields.flag(body, "stream"),
        stop=fields.strings(body, "stop_sequences"),
        tools=tools,
        tool_choice=generation.check_choice(_choice(body), tools),
        json_schema=generation.schema_of(format_, "output_config.format"),
        effort=effort,
        thinking=thinking,
    )


def _choice(body: Body) -> str:
    value = fields.mapping(body, "tool_choice")
    if not value:
        return "auto" if body.get("tools") else "none"
    kind = fields.text(value, "type", "", "tool_choice")
    match kind:
        case "auto" | "none":
            return kind
        case "any":
            return "required"
        case "tool":
            return f"={fields.required(value, 'name', 'tool_choice')}"
        case _:
            raise invalid_field(
                "literal_error", "tool_choice.type", "Input should be 'auto', 'any', 'tool' or 'none'", kind
            )


def _system(value: Any) -> list[Turn]:
    if not value:
        return []
    if isinstance(value, str):
        return [Turn("system", (text_piece(value),))]
    pieces: list[bytes | Media] = []
    for index, block in enumerate(fields.as_list(value, "system")):
        where = fields.at("system", index)
        pieces.append(text_piece(fields.text(fields.as_object(block, where), "text", "", where)))
    return [Turn("system", tuple(pieces))]


def _turns(message: Any, path: str) -> list[Turn]:
    """Read one message; tool results become turns of their own, before what else the message says."""
    entry = fields.as_object(message, path)
    role = fields.required(entry, "role", path)
    if role not in ("user", "assistant", "system"):
        raise invalid_field("literal_error", fields.at(path, "role"), "Input should be 'user' or 'assistant'", role)
    content = fields.required(entry, "content", path)
    if isinstance(content, str):
        return [Turn(role, (text_piece(content),))]
    pieces: list[bytes | Media] = []
    calls: list[Call] = []
    turns: list[Turn] = []
    for index, one in enumerate(fields.as_list(content, fields.at(path, "content"))):
        where = fields.at(fields.at(path, "content"), index)
        block = fields.as_object(one, where)
        match fields.text(block, "type", "", where):
            case "text":
                pieces.append(text_piece(fields.text(block, "text", "", where)))
            case "tool_use":
                arguments = orjson.dumps(block.get("input") or {}).decode()
                calls.append(Call(fields.text(block, "name", "", where), arguments))
            case "tool_result":
                turns.append(Turn("tool", _result(block.get("content"), fields.at(where, "content"))))
            case "thinking" | "redacted_thinking":
                continue
            case "":
                raise invalid_field("missing", fields.at(where, "type"), "Field required", dict(block))
            case _:
                pieces.append(media_piece(block))
    if pieces or calls or not turns:
        turns.append(Turn(role, tuple(pieces), tuple(calls)))
    return turns


def _result(value: Any, path: str) -> tuple[bytes | Media, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (text_piece(value),)
    pieces: list[bytes | Media] = []
    for index, one in enumerate(fields.as_list(value, path)):
        block = fields.as_object(one, fields.at(path, index))
        text = block.get("text")
        pieces.append(text_piece(text) if isinstance(text, str) else media_piece(block))
    return tuple(pieces)
