"""The outer part of parsing: path, headers, JSON; then the family's own module reads the body.

The order of checks is the order in which a client can mend things: wrong path, wrong method, wrong encoding, no JSON, then
the fields. Trap: orjson decodes deeper nesting than it encodes, so depth is bounded here, lest a body that was read can not
be written again.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import orjson

from ralb_api import headers as names
from ralb_api.errors import ClientError, Code
from ralb_extproc.request import chat, completions, embeddings, fields, messages, responses
from ralb_extproc.request.draft import Draft
from ralb_extproc.types import Api, Request

MAX_MODEL: Final = 256
MAX_DEPTH: Final = 128
MAX_CONTAINERS: Final = 50_000
MAX_SESSION: Final = 256
MAX_EFFORT: Final = 32

_READERS: Final[dict[str, tuple[Api, Callable[[Mapping[str, Any], Draft], None]]]] = {
    Api.CHAT.value: (Api.CHAT, chat.read),
    Api.COMPLETIONS.value: (Api.COMPLETIONS, completions.read),
    Api.RESPONSES.value: (Api.RESPONSES, responses.read),
    Api.EMBEDDINGS.value: (Api.EMBEDDINGS, embeddings.read),
    Api.MESSAGES.value: (Api.MESSAGES, messages.read),
}
PATHS: Final = tuple(_READERS)
"""The paths that take a body."""
_NOT_OURS: Final = (":", *names.RESERVED_PREFIXES)


def client_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Lower-case names, first value wins, without pseudo headers and what a client may not set (Envoy's, ours)."""
    found: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        if key.startswith(_NOT_OURS) or key in found:
            continue
        if key.startswith(names.OWN_PREFIX) and key not in names.CLIENT_HEADERS:
            continue
        found[key] = value
    return found


def parse(path: str, headers: Mapping[str, str], body: bytes, *, method: str = "POST") -> Request:
    """Read a request.

    Args:
        path: as received, with or without query.
        headers: as received; names in any case, pseudo headers allowed (``:authority`` gives the host).
        body: the whole body.
        method: HTTP method.

    Raises:
        ClientError: anything wrong with it; 4xx with a stable code and, where one field is at fault, its path.
    """
    route = path.partition("?")[0]
    reader = _READERS.get(route)
    if reader is None:
        known = ", ".join(PATHS)
        raise ClientError(404, Code.UNKNOWN_PATH, f"There is nothing at {route[:200]!r}. Known paths: {known}.")
    if method != "POST":
        raise ClientError(
            405, Code.METHOD_NOT_ALLOWED, f"{route} takes POST, not {method[:20]}.", headers=(("allow", "POST"),)
        )
    received = client_headers(headers.items())
    _check_encoding(received)
    decoded = _decode(body)
    api, read = reader
    model = fields.required_text(decoded, "model", "", MAX_MODEL)
    draft = Draft()
    read(decoded, draft)
    if len(draft.effort) > MAX_EFFORT:
        raise fields.invalid("reasoning_effort", f"must be at most {MAX_EFFORT} characters long")
    return Request(
        api=api,
        model=model,
        stream=fields.flag(decoded, "stream"),
        turns=tuple(draft.turns),
        tools=draft.tools,
        tool_choice=draft.tool_choice,
        structured=draft.structured,
        images=draft.images,
        audio=draft.audio,
        files=draft.files,
        max_output=draft.max_output,
        reasoning_effort=draft.effort,
        choices=draft.choices,
        input_tokens=draft.input_tokens(),
        longest_prompt=draft.longest_prompt,
        headers=received,
        host=_host(headers.get(":authority") or received.get("host", "")),
        path=route,
        session=session_of(received, decoded),
        body=decoded,
        size=len(body),
    )


def _check_encoding(headers: Mapping[str, str]) -> None:
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media and media != "application/json" and not media.endswith("+json"):
        raise ClientError(
            415,
            Code.UNSUPPORTED_MEDIA_TYPE,
            f"The body must be JSON, sent with content-type: application/json, not {media[:100]!r}.",
        )
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise ClientError(
            415,
            Code.UNSUPPORTED_MEDIA_TYPE,
            f"Bodies with content-encoding {encoding[:100]!r} are not read; send the body uncompressed.",
        )


def _decode(body: bytes) -> dict[str, Any]:
    if not body or body.isspace():
        raise ClientError(400, Code.BODY_REQUIRED, "The request has no body; send a JSON object.")
    brackets = body.count(b"[") + body.count(b"{")
    if brackets > MAX_CONTAINERS and _containers(body) > MAX_CONTAINERS:
        raise ClientError(
            400, Code.INVALID_JSON, f"The body holds more than {MAX_CONTAINERS} objects and lists; send fewer."
        )
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ClientError(400, Code.INVALID_JSON, _why(body, error)) from None
    if type(decoded) is not dict:
        raise ClientError(400, Code.INVALID_REQUEST, f"The body must be a JSON object, not {fields.kind(decoded)}.")
    # Brackets inside strings count too, so this only finds bodies that may be deep; the walk is exact.
    if brackets > MAX_DEPTH and _deeper_than(decoded, MAX_DEPTH):
        raise ClientError(400, Code.INVALID_JSON, f"The body is nested more than {MAX_DEPTH} levels deep.")
    return decoded


def _containers(body: bytes) -> int:
    """How many objects and lists a JSON text opens; brackets inside strings do not count.

    They cost a hundred times their size to build and walk, so some megabytes of them would hold up everybody for seconds.
    Counting takes milliseconds: without its escaped quotes, a byte is inside a string if an odd number of quotes is before it.
    """
    plain = np.frombuffer(body.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    outside = np.cumsum(plain == ord('"'), dtype=np.uint8) & 1 == 0
    return int(np.count_nonzero(outside & ((plain == ord("[")) | (plain == ord("{")))))


def _why(body: bytes, error: orjson.JSONDecodeError) -> str:
    if "depth" in error.msg or "ecursion" in error.msg:
        return f"The body is nested more than {MAX_DEPTH} levels deep."
    try:
        body.decode()
    except UnicodeDecodeError as fault:
        return f"The body is not valid UTF-8 at byte {fault.start}; JSON must be sent as UTF-8."
    return f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."


def _deeper_than(value: dict[str, Any], limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _host(authority: str) -> str:
    host = authority.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")


def session_of(headers: Mapping[str, str], body: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The first session header there is, else OpenAI's ``prompt_cache_key``: both say which requests share a prefix; "" = none.

    ``user`` and ``metadata.user_id`` do not count: they name people, whose requests may share nothing.
    """
    said: Any = next((headers[name] for name in names.SESSION_HEADERS if headers.get(name)), None)
    if said is None:
        said = body.get("prompt_cache_key")
    if type(said) is not str:
        return ""
    session = said.strip()
    if len(session) <= MAX_SESSION:
        return session
    return hashlib.blake2b(session.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
