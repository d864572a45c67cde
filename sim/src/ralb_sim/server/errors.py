"""Error answers in the very shapes vLLM gives them."""

import math
from typing import Any

_SHOWN = 500


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        message: What is wrong, for a person.
        kind: vLLM's error type, such as `NotFoundError`.
        param: The field that is wrong, or None.
        headers: Extra response headers.
    """

    def __init__(
        self, status: int, message: str, kind: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.headers = headers or {}

    def body(self, *, anthropic: bool = False) -> dict[str, Any]:
        """Return the JSON body, in OpenAI's shape as vLLM fills it or in Anthropic's."""
        if anthropic:
            return {"type": "error", "error": {"type": self.kind, "message": self.message}}
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}


def invalid_field(kind: str, where: str, message: str, value: Any) -> ApiError:
    """Return the error for a field of a wrong type or range, as vLLM words what its validator says.

    Args:
        kind: The validator's error type, such as `list_type`.
        where: Path of the field, such as `messages` or `messages.0.role`; empty for the body itself.
        message: The validator's sentence.
        value: The offending value; a long one is cut.
    """
    location = f"body.{where}" if where else "body"
    shown = repr(value)
    if len(shown) > _SHOWN:
        shown = shown[:_SHOWN] + "..."
    text = f"1 validation error:\n  {{'type': {kind!r}, 'loc': {location!r}, 'msg': {message!r}, 'input': {shown}}}"
    return ApiError(400, text, "Bad Request", location)


def unknown_model(name: str, served: tuple[str, ...]) -> ApiError:
    """Return the error for a model this server does not serve."""
    text = f"The model `{name[:_SHOWN]}` does not exist. Valid aliases: {', '.join(served)}."
    return ApiError(404, text, "NotFoundError", "model")


def context_overflow(limit: int, prompt: int, asked: int | None) -> ApiError:
    """Return the error for a prompt, or a prompt plus asked output, beyond the context window (tokens)."""
    if prompt >= limit:
        seen = min(prompt, limit + 1)
        text = (
            f"This model's maximum context length is {limit} tokens. However, your prompt contains at least {seen} input "
            "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
            f"(parameter=input_tokens, value={seen})"
        )
        return ApiError(400, text, "BadRequestError", "input_tokens")
    text = (
        f"This model's maximum context length is {limit} tokens. However, you requested {asked} output tokens and your "
        f"prompt contains at least {prompt} input tokens, for a total of at least {prompt + (asked or 0)} tokens. Please "
        "reduce the length of the input prompt or the number of requested output tokens. "
        f"(parameter=input_tokens, value={prompt})"
    )
    return ApiError(400, text, "BadRequestError", "input_tokens")


def refused_parameter(name: str, message: str, value: Any) -> ApiError:
    """Return the error for a sampling parameter of the right type but a wrong value."""
    shown = value if isinstance(value, int | float) and math.isfinite(value) else str(value)[:_SHOWN]
    return ApiError(400, f"{message} (parameter={name}, value={shown})", "BadRequestError", name)
