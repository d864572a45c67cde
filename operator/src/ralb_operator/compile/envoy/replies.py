"""What clients see when Envoy itself refuses or gives up: the same error shapes the processor uses.

Trap: the processor's own answers are local replies too. They carry details that start with ``ralb_`` and are left alone.
"""

from dataclasses import dataclass

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ExtensionFilter,
    HeaderFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    RuntimeUInt32,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from ralb_api import headers
from ralb_api.errors import ClientError, Code
from ralb_operator.compile.envoy.pack import typed

DETAILS_PREFIX = "ralb_"
# What is behind a 503 of Envoy mends itself within seconds.
_RETRY_AFTER = HeaderValueOption(header=HeaderValue(key=headers.RETRY_AFTER, value="1"))


@dataclass(frozen=True, slots=True)
class _Reply:
    """What to say instead of Envoy's own text.

    Attributes:
        status: of the reply as the client gets it.
        cause: Envoy's status, or the beginning of its response code details.
    """

    status: int
    cause: int | str
    code: Code
    message: str


_UNDECIDED = "The gateway could not decide where to send this request; try again."
# The first that fits counts: causes told by details come before those told by status.
_REPLIES: tuple[_Reply, ...] = (
    _Reply(503, "ext_proc", Code.PROCESSOR_UNAVAILABLE, _UNDECIDED),
    _Reply(503, "spurious_message", Code.PROCESSOR_UNAVAILABLE, _UNDECIDED),
    _Reply(
        502,
        "response_payload_too_large",
        Code.UPSTREAM_ERROR,
        "The model server's answer is larger than this gateway accepts; ask for less, or stream it.",
    ),
    _Reply(400, 400, Code.INVALID_REQUEST, "The request is not valid HTTP."),
    _Reply(403, "upgrade_failed", Code.INVALID_REQUEST, "This gateway does not switch protocols; send plain HTTP."),
    _Reply(408, 408, Code.REQUEST_TIMEOUT, "The request took too long to arrive."),
    _Reply(
        413,
        413,
        Code.REQUEST_TOO_LARGE,
        "The request body is larger than this gateway accepts; send a smaller one.",
    ),
    _Reply(426, 426, Code.INVALID_REQUEST, "This gateway speaks HTTP/1.1 and HTTP/2; upgrade the client."),
    _Reply(431, 431, Code.HEADERS_TOO_LARGE, "The request headers are larger than this gateway accepts."),
    _Reply(500, 500, Code.PROCESSOR_UNAVAILABLE, _UNDECIDED),
    _Reply(502, 502, Code.UPSTREAM_ERROR, "The model server broke off its answer."),
    _Reply(503, 503, Code.UPSTREAM_ERROR, "No model server could be reached; try again in a moment."),
    _Reply(504, 504, Code.UPSTREAM_TIMEOUT, "The model server did not answer in time."),
)


def local_replies() -> LocalReplyConfig:
    """A mapper per cause and API family; anything unmapped keeps Envoy's own text."""
    return LocalReplyConfig(
        mappers=[_mapper(reply, anthropic=anthropic) for anthropic in (True, False) for reply in _REPLIES]
    )


def _mapper(reply: _Reply, *, anthropic: bool) -> ResponseMapper:
    error = ClientError(reply.status, reply.code, reply.message)
    if isinstance(reply.cause, str):
        filters = [_details(f'response.code_details.startsWith("{reply.cause}")')]
    else:
        filters = [_status(reply.cause), _details(f'!response.code_details.startsWith("{DETAILS_PREFIX}")')]
    if anthropic:
        path = HeaderMatcher(name=":path", string_match=StringMatcher(prefix="/v1/messages"))
        filters.insert(0, AccessLogFilter(header_filter=HeaderFilter(header=path)))
    return ResponseMapper(
        filter=filters[0] if len(filters) == 1 else AccessLogFilter(and_filter=AndFilter(filters=filters)),
        status_code=reply.status,
        headers_to_add=[_RETRY_AFTER] if reply.status == 503 else [],
        body=DataSource(inline_bytes=error.body(anthropic=anthropic)),
        body_format_override=SubstitutionFormatString(
            text_format_source=DataSource(inline_string="%LOCAL_REPLY_BODY%"), content_type="application/json"
        ),
    )


def _details(expression: str) -> AccessLogFilter:
    config = typed(ExpressionFilter(expression=expression))
    return AccessLogFilter(
        extension_filter=ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=config)
    )


def _status(status: int) -> AccessLogFilter:
    value = RuntimeUInt32(default_value=status, runtime_key=f"ralb.local_reply.{status}")
    return AccessLogFilter(
        status_code_filter=StatusCodeFilter(comparison=ComparisonFilter(op=ComparisonFilterOp.EQ, value=value))
    )
