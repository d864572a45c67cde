"""Reading `/v1/chat/completions` bodies into a `Generation`."""

from typing import Any

from ralb_sim.prompts import Call, Media, Turn, media_piece, text_piece
from ralb_sim.server import fields, generation
from ralb_sim.server.errors import invalid_field
from ralb_sim.server.fields import Body
from ralb_sim.server.generation import Generation


def read_chat(body: Body, *, reasons: bool) -> Generation:
    """Read a chat completion request.

    Args:
        body: The parsed body.
        reasons: Whether this server's model reasons.

    Raises:
        ApiError: 400 with vLLM's wording for whatever is wrong first.
    """
    messages = fields.as_list(fields.required(body, "messages"), "messages")
    stream, include, continuous = generation.stream_options(body)
    generation.check_sampling(body)
    raw_tools = fields.items(body, "tools")
    tools = generation.function_tools(raw_tools, name="name", schema="parameters", wrapper="function")
    template = fields.mapping(body, "chat_template_kwargs")
    effort = generation.effort_of(fields.text(body, "reasoning_effort"))
    thinking = effort != "none" and fields.flag(template, "enable_thinking", fields.flag(template, "thinking", True))
    limit = fields.whole(body, "max_completion_tokens", least=1)
    top = fields.whole(body, "top_logprobs", 0, least=0, most=20)
    turns = [_turn(message, index) for index, message in enumerate(messages)]
    return Generation(
        model=fields.text(body, "model"),
        prompts=(generation.render_prompt(turns, raw_tools, thinking=reasons and thinking),),
        max_tokens=fields.whole(body, "max_tokens", least=1) if limit is None else limit,
        min_tokens=fields.whole(body, "min_tokens", least=0) or 0,
        n=fields.whole(body, "n", least=1, most=generation.MAX_CHOICES) or 1,
        stream=stream,
        include_usage=include,
        continuous_usage=continuous,
        stop=fields.strings(body, "stop"),
        ignore_eos=fields.flag(body, "ignore_eos"),
        top_logprobs=top if fields.flag(body, "logprobs") else None,
        tools=tools,
        tool_choice=generation.check_choice(_choice(body), tools),
        json_schema=generation.schema_of(fields.mapping(body, "response_format"), "response_format"),
        effort=effort,
        thinking=thinking,
        salt=fields.whole(body, "seed", 0, least=-(1 << 63), most=1 << 63) or 0,
    )


def _choice(body: Body) -> str:
    value = body.get("tool_choice")
    if value is None:
        return "auto" if body.get("tools") else "none"
    if isinstance(value, str):
        if value not in ("none", "auto", "required"):
            raise invalid_field("literal_error", "tool_choice", "Input should be 'none', 'auto' or 'required'", value)
        return value
    function = fields.mapping(fields.as_object(value, "tool_choice"), "function", "tool_choice")
    name = fields.required(function, "name", "tool_choice.function")
    return f"={name}"


def _turn(message: Any, index: int) -> Turn:
    path = fields.at("messages", index)
    entry = fields.as_object(message, path)
    role = fields.required(entry, "role", path)
    if not isinstance(role, str):
        raise invalid_field("string_type", fields.at(path, "role"), "Input should be a valid string", role)
    calls = tuple(
        _call(call, fields.at(fields.at(path, "tool_calls"), at))
        for at, call in enumerate(fields.items(entry, "tool_calls", path))
    )
    return Turn(role, read_content(entry.get("content"), fields.at(path, "content")), calls)


def read_content(value: Any, path: str) -> tuple[bytes | Media, ...]:
    """Read a message content: null, a string, or a list of typed parts (texts and attachments).

    Raises:
        ApiError: 400 for anything else.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (text_piece(value),)
    pieces: list[bytes | Media] = []
    for index, part in enumerate(fields.as_list(value, path)):
        where = fields.at(path, index)
        if isinstance(part, str):
            pieces.append(text_piece(part))
            continue
        entry = fields.as_object(part, where)
        if isinstance(entry.get("text"), str):
            pieces.append(text_piece(entry["text"]))
        elif isinstance(entry.get("refusal"), str):
            pieces.append(text_piece(entry["refusal"]))
        elif isinstance(fields.required(entry, "type", where), str):
            pieces.append(media_piece(entry))
    return tuple(pieces)


def _call(value: Any, path: str) -> Call:
    function = fields.mapping(fields.as_object(value, path), "function", path)
    where = fields.at(path, "function")
    return Call(fields.text(function, "name", "", where), fields.text(function, "arguments", "", where))
