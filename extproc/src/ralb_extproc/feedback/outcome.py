"""One access log entry -> one ``Outcome``: what became of a request, in plain bounded data.

Entries come from our Envoy, but what they quote (ids, paths, usage numbers) comes from clients and pods, so every value is
bounded here and an impossible one counts as not said. Pure; keeps nothing.
"""

import math
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from ralb_api import headers

MAX_ID: Final = 256
MAX_TOKENS: Final = 100_000_000
MAX_SECONDS: Final = 7 * 86_400.0
TTFT_TAG: Final = "ttft_us"
DECISION_KEY: Final = "id"
_RETRY_AFTER: Final = "retry-after"
_MAX_DATE: Final = 64


class Failure(StrEnum):
    """Why the last attempt failed; NONE if it did not."""

    NONE = ""
    CONNECT = "connect"
    RESET = "reset"
    TIMEOUT = "timeout"
    STATUS = "status"
    OVERFLOW = "overflow"
    NO_UPSTREAM = "no-upstream"


# In order of what explains most.
_FLAGS: Final = (
    ("no_healthy_upstream", Failure.NO_UPSTREAM),
    ("no_cluster_found", Failure.NO_UPSTREAM),
    ("no_route_found", Failure.NO_UPSTREAM),
    ("upstream_overflow", Failure.OVERFLOW),
    ("upstream_connection_failure", Failure.CONNECT),
    ("upstream_request_timeout", Failure.TIMEOUT),
    ("stream_idle_timeout", Failure.TIMEOUT),
    ("duration_timeout", Failure.TIMEOUT),
    ("upstream_max_stream_duration_reached", Failure.TIMEOUT),
    ("upstream_connection_termination", Failure.RESET),
    ("upstream_remote_reset", Failure.RESET),
    ("upstream_protocol_error", Failure.RESET),
)
# The pod itself is to blame, as opposed to our limits or our view of the fleet.
POD_FAILURES: Final = frozenset({Failure.CONNECT, Failure.RESET, Failure.TIMEOUT, Failure.STATUS})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended.

    Attributes:
        decision_id: what the processor called it; "" if it never answered for it.
        request_id: ``x-request-id``.
        path: without query.
        status: HTTP status sent to the client; 0 if none was.
        attempts: upstream tries made; 0 if none.
        upstream: ``ip:port`` of the last try; "" if there was none.
        cluster: Envoy cluster of the last try.
        failure: why the last try failed.
        aborted: whether the client went away before the end.
        ttft: seconds from the request's arrival to the first byte of the answer's body; None if there was none.
        duration: seconds from the first byte in to the last byte out.
        ended: Unix seconds of the end.
        input_tokens / output_tokens / cached_tokens / reasoning_tokens: as the server counted; None if it did not say.
        request_bytes / response_bytes: body sizes.
        retry_after: seconds for which the server asked to be left alone; None if it did not.
    """

    decision_id: str = ""
    request_id: str = ""
    path: str = ""
    status: int = 0
    attempts: int = 0
    upstream: str = ""
    cluster: str = ""
    failure: Failure = Failure.NONE
    aborted: bool = False
    ttft: float | None = None
    duration: float = 0.0
    ended: float = 0.0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    retry_after: float | None = None


def outcome_of(entry: Any) -> Outcome | None:
    """Convert an ``envoy.data.accesslog.v3.HTTPAccessLogEntry``; None for a mid-stream record."""
    common = entry.common_properties
    if common.intermediate_log_entry:
        return None
    status = entry.response.response_code.value
    flags = common.response_flags
    metadata = common.metadata.filter_metadata
    usage = metadata[headers.METADATA_USAGE].fields if headers.METADATA_USAGE in metadata else {}
    decision = metadata[headers.METADATA_DECISION].fields if headers.METADATA_DECISION in metadata else {}
    duration = _seconds(common.duration) or _seconds(common.time_to_last_downstream_tx_byte)
    attempts = min(common.upstream_request_attempt_count, 1000)
    ended = common.start_time.seconds + common.start_time.nanos * 1e-9 + duration
    return Outcome(
        decision_id=decision[DECISION_KEY].string_value[:MAX_ID] if DECISION_KEY in decision else "",
        request_id=entry.request.request_id[:MAX_ID],
        path=entry.request.path.partition("?")[0][:MAX_ID],
        status=status if 100 <= status <= 599 else 0,
        attempts=attempts,
        upstream=_address(common.upstream_remote_address),
        cluster=common.upstream_cluster[:MAX_ID],
        failure=_failure(flags, status, attempts),
        aborted=flags.downstream_connection_termination or flags.downstream_remote_reset,
        ttft=_ttft(common.custom_tags),
        duration=duration,
        ended=ended,
        input_tokens=_tokens(usage, "in"),
        output_tokens=_tokens(usage, "out"),
        cached_tokens=_tokens(usage, "cached"),
        reasoning_tokens=_tokens(usage, "reasoning"),
        request_bytes=min(entry.request.request_body_bytes, 1 << 40),
        response_bytes=min(entry.response.response_body_bytes, 1 << 40),
        retry_after=_retry_after(entry.response.response_headers, ended) if attempts else None,
    )


def _failure(flags: Any, status: int, attempts: int) -> Failure:
    for name, failure in _FLAGS:
        if getattr(flags, name):
            return failure
    return Failure.STATUS if status >= 500 and attempts else Failure.NONE


def _seconds(duration: Any) -> float:
    seconds = duration.seconds + duration.nanos * 1e-9
    return seconds if 0.0 <= seconds <= MAX_SECONDS else 0.0


def _ttft(tags: Any) -> float | None:
    text = tags.get(TTFT_TAG, "")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        return None
    seconds = int(text) * 1e-6
    return seconds if 0.0 < seconds <= MAX_SECONDS else None


def _retry_after(said: Any, ended: float) -> float | None:
    """Seconds of a ``Retry-After`` header (RFC 9110 10.2.3): a number, or a date, which counts from the answer's end."""
    text = said.get(_RETRY_AFTER, "")
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return min(float(text), MAX_SECONDS)
    if not text or len(text) > _MAX_DATE:
        return None
    try:
        seconds = parsedate_to_datetime(text).timestamp() - ended
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_SECONDS)


def _tokens(usage: Any, key: str) -> int | None:
    if key not in usage:
        return None
    value = usage[key]
    if value.WhichOneof("kind") != "number_value":
        return None
    number = value.number_value
    return int(number) if math.isfinite(number) and 0.0 <= number <= MAX_TOKENS else None


def _address(address: Any) -> str:
    socket = address.socket_address
    if not socket.address or len(socket.address) > MAX_ID:
        return ""
    return (
        f"[{socket.address}]:{socket.port_value}" if ":" in socket.address else f"{socket.address}:{socket.port_value}"
    )
