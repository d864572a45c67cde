"""A generation request in one form for all APIs, and the parts of reading it that they share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ralb_sim.answers import Tool
from ralb_sim.prompts import Turn, media_count, render
from ralb_sim.server import fields
from ralb_sim.server.errors import ApiError, invalid_field, refused_parameter
from ralb_sim.server.fields import Body

MAX_CHOICES = 64
"""Most choices (`n`) of one request."""

MAX_SEQUENCES = 256
"""Most sequences (prompts times choices) of one request."""

MAX_MEDIA = 256
"""Most attachments of one request."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class Generation:
    """What a client asked for, whatever the API.

    Attributes:
        model: Model name asked for; empty means the server's own.
        prompts: One token sequence per prompt.
        max_tokens: Output limit, or None for what the context leaves.
        min_tokens: Least output.
        n: Choices per prompt.
        stream: Answer as server-sent events.
        include_usage: End the stream with a usage chunk.
        continuous_usage: Put usage on every chunk.
        stop: Stop strings.
        ignore_eos: Generate exactly `max_tokens`.
        top_logprobs: Alternatives per token; None when no log-probabilities were asked for.
        tools: Tools offered.
        tool_choice: `none`, `auto`, `required`, or the name of a tool after `=`.
        json_schema: Schema of the answer, `{}` for any object, None for text.
        effort: Reasoning effort.
        thinking: Whether reasoning is wanted.
        salt: From `seed`.
    """

    model: str
    prompts: tuple[bytes, ...]
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    json_schema: Mapping[str, Any] | None = None
    effort: str = "medium"
    thinking: bool = True
    salt: int = 0


def check_sampling(body: Body) -> None:
    """Check the sampling parameters the simulator does not otherwise use.

    Raises:
        ApiError: 400 for a wrong type or range.
    """
    fields.real(body, "temperature", 0, math.inf)
    fields.real(body, "top_p", 0, 1)
    fields.real(body, "frequency_penalty", -2, 2)
    fields.real(body, "presence_penalty", -2, 2)
    fields.whole(body, "top_k", least=-1)


def stream_options(body: Body) -> tuple[bool, bool, bool]:
    """Read `stream` and `stream_options`: (stream, include_usage, continuous_usage)."""
    stream = fields.flag(body, "stream")
    options = fields.mapping(body, "stream_options")
    if options and not stream:
        raise invalid_field(
            "value_error", "", "Value error, Stream options can only be defined when `stream=True`.", dict(options)
        )
    include = fields.flag(options, "include_usage")
    return stream, include, include and fields.flag(options, "continuous_usage_stats")


def render_prompt(turns: Sequence[Turn], tools: Sequence[Any], *, thinking: bool) -> bytes:
    """Render a conversation whose size is bounded.

    Raises:
        ApiError: 400 for more than `MAX_MEDIA` attachments.
    """
    attached = media_count(turns)
    if attached > MAX_MEDIA:
        raise refused_parameter("messages", f"At most {MAX_MEDIA} attachments may be provided in one prompt.", attached)
    return render(turns, tools, thinking=thinking)


def effort_of(value: str) -> str:
    """Check a reasoning effort; empty means medium."""
    if value and value not in EFFORTS:
        known = ", ".join(f"'{one}'" for one in EFFORTS)
        raise invalid_field("literal_error", "reasoning_effort", f"Input should be {known}", value)
    return value or "medium"


def function_tools(found: Sequence[Any], *, name: str, schema: str, wrapper: str = "") -> tuple[Tool, ...]:
    """Read tool definitions.

    Args:
        found: The list from the body.
        name: Key of the tool's name.
        schema: Key of its argument schema.
        wrapper: Key under which both stand (`function` in chat completions), or empty.
    """
    tools = []
    for index, one in enumerate(found):
        path = fields.at("tools", index)
        entry = fields.as_object(one, path)
        if wrapper:
            path = fields.at(path, wrapper)
            entry = fields.as_object(fields.required(entry, wrapper, fields.at("tools", index)), path)
        elif name not in entry and isinstance(entry.get("type"), str):
            continue  # A built-in tool of the provider's own: it has a type and no schema.
        tool_name = fields.required(entry, name, path)
        if not isinstance(tool_name, str):
            raise invalid_field("string_type", fields.at(path, name), "Input should be a valid string", tool_name)
        tools.append(Tool(tool_name, fields.mapping(entry, schema, path)))
    return tuple(tools)


def check_choice(choice: str, tools: Sequence[Tool]) -> str:
    """Check a tool choice (see `Generation.tool_choice`) against the tools offered.

    Raises:
        ApiError: 400 when it needs tools that are not there.
    """
    if choice.startswith("=") and choice[1:] not in {tool.name for tool in tools}:
        message = "Value error, The tool specified in `tool_choice` does not match any of the specified `tools`"
        raise invalid_field("value_error", "", message, choice[1:])
    if choice == "required" and not tools:
        raise invalid_field("value_error", "", "Value error, When using `tool_choice`, `tools` must be set.", choice)
    return choice


def schema_of(format_: Body, where: str) -> Mapping[str, Any] | None:
    """Read a response format: `text`, `json_object` or `json_schema` (the schema nested or beside the type)."""
    kind = fields.text(format_, "type", "text", where)
    match kind:
        case "text":
            return None
        case "json_object":
            return {}
        case "json_schema":
            nested = fields.mapping(format_, "json_schema", where)
            schema = fields.mapping(nested or format_, "schema", where)
            if not schema:
                raise ApiError(400, f"{where}: a json_schema format needs a schema", "BadRequestError", where)
            return schema
        case _:
            raise invalid_field(
                "literal_error",
                fields.at(where, "type"),
                "Input should be 'text', 'json_object' or 'json_schema'",
                kind,
            )
