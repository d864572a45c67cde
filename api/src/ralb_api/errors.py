"""The errors a client can see: stable codes, one body per API family.

A code is API: clients match on it, so it never changes its meaning. The bodies follow the OpenAI error object
``{"error": {"message", "type", "param", "code"}}`` and Anthropic's ``{"type": "error", "error": {"type", "message"}}``
(which gets our ``code`` too).
"""

from dataclasses import dataclass, field
from enum import StrEnum

import orjson


class Code(StrEnum):
    """Stable error codes, by what the client should do about them."""

    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    BODY_REQUIRED = "body_required"
    REQUEST_TIMEOUT = "request_timeout"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    REQUEST_TOO_LARGE = "request_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    UNSUPPORTED_BY_MODEL = "unsupported_by_model"
    UNKNOWN_PATH = "unknown_path"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REJECTED_BY_POLICY = "rejected_by_policy"
    OVERLOADED = "overloaded"
    NO_ENDPOINT = "no_endpoint"
    NOT_READY = "not_ready"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    PROCESSOR_UNAVAILABLE = "processor_unavailable"
    INTERNAL_ERROR = "internal_error"


# status -> (OpenAI type, Anthropic type)
_TYPES: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"),
    503: ("service_unavailable_error", "overloaded_error"),
    529: ("service_unavailable_error", "overloaded_error"),
}


def error_types(status: int) -> tuple[str, str]:
    """The (OpenAI, Anthropic) ``type`` strings of an HTTP status."""
    if status in _TYPES:
        return _TYPES[status]
    return ("invalid_request_error", "invalid_request_error") if status < 500 else ("server_error", "api_error")


# Not frozen: Python itself sets __traceback__ on an exception as it passes through context managers.
@dataclass(slots=True, eq=False)
class ClientError(Exception):
    """A request that ends here: what the client is told, and how.

    Attributes:
        status: HTTP status.
        code: stable machine-readable code.
        message: for a person: what is wrong and what to do.
        param: the offending field of the body as a dotted path, if there is one.
        headers: extra response headers, such as ``retry-after``.
    """

    status: int
    code: Code | str
    message: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"

    def body(self, *, anthropic: bool = False) -> bytes:
        """The JSON body in the API family's own shape."""
        openai_type, anthropic_type = error_types(self.status)
        if anthropic:
            error = {"type": anthropic_type, "message": self.message, "code": str(self.code)}
            return orjson.dumps({"type": "error", "error": error})
        return orjson.dumps(
            {"error": {"message": self.message, "type": openai_type, "param": self.param, "code": str(self.code)}}
        )
