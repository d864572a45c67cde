"""What comes back from an API server: parsed, or as an ``ApiError`` in the server's own words.

Connections may not enter. The trap: exceptions of aiohttp carry the request, and with it the token; ``kind_of`` says what
happened without it.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import orjson

UNREACHABLE: Final = "Unreachable"
TIMEOUT: Final = "Timeout"
UNREADABLE: Final = "Unreadable"
INACTIVE: Final = "Inactive"

_MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_MESSAGE: Final = 1000


class ApiError(Exception):
    """A request that did not work out.

    Attributes:
        status: HTTP status; 0 when no whole answer came.
        reason: the API server's word (``NotFound``, ``Conflict``, ``Forbidden``, ``Expired`` ...), or with status 0 one of
            ``Unreachable``, ``Timeout``, ``Unreadable``, ``Inactive``.
        message: what happened, for people.
        retry_after: seconds the server asks to wait, if it does.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def gone(self) -> bool:
        """The resourceVersion or continue token is too old: list anew."""
        return self.status == 410 or self.reason in ("Expired", "Gone")


def kind_of(error: Exception) -> str:
    """An error without anything of the request in it."""
    cause = getattr(error, "os_error", error)
    return (isinstance(cause, OSError) and cause.strerror) or type(error).__name__


async def payload(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body of a response; raises ApiError when it breaks off or is larger than ``limit`` bytes."""
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > limit:
                raise ApiError(0, UNREADABLE, f"the answer is larger than {limit} bytes")
            parts.append(chunk)
    except (aiohttp.ClientError, OSError) as error:
        raise ApiError(0, UNREACHABLE, f"the answer broke off: {kind_of(error)}") from None
    return b"".join(parts)


def parsed(payload: bytes) -> Any:
    """The JSON of a body, None if it is empty; raises ApiError for anything else."""
    if not payload:
        return None
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise ApiError(0, UNREADABLE, "the answer is not JSON; is this a Kubernetes API server?") from None


def event_of(line: bytes) -> dict[str, Any]:
    """One event of a watch; raises ApiError for an ERROR event and for what is none."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ApiError(0, UNREADABLE, "a line of the watch is not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise ApiError(0, UNREADABLE, "a line of the watch is not an event")
    if event.get("type") == "ERROR":
        status = event["object"]
        code = status.get("code")
        raise ApiError(
            code if isinstance(code, int) else 0, *_words(status, "Unknown", "the watch ended with an error")
        )
    return event


async def refusal(response: aiohttp.ClientResponse, method: str, path: str) -> ApiError:
    """The error that a response with a bad status means."""
    status: Any = None
    try:
        # Enough for any Status; what is longer is a proxy's page.
        async with asyncio.timeout(5):
            status = parsed(await payload(response, _MAX_ERROR_BYTES))
    except (TimeoutError, ApiError):
        pass
    default = response.reason or "Unknown"
    reason, message = _words(status if isinstance(status, dict) else {}, default, f"{method} {path} was refused")
    return ApiError(response.status, reason, message, _retry_after(response))


def _words(status: Mapping[str, Any], reason: str, message: str) -> tuple[str, str]:
    def text(name: str, default: str) -> str:
        value = status.get(name)
        return value[:_MAX_MESSAGE] if isinstance(value, str) and value else default

    return text("reason", reason), text("message", message)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 6 else None
