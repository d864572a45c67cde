"""What clients see when Envoy itself refuses or gives up: the same error shapes the processor uses.

Trap: the processor's own answers are local replies too. They carry details that start with ``ralb_`` and are left alone.
"""

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ExtensionFilter,
    HeaderFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import DataSource, RuntimeUInt32, SubstitutionFormatString
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from ralb_api.errors import ClientError, Code
from ralb_operator.compile.envoy.pack import typed

DETAILS_PREFIX = "ralb_"

_REPLIES: tuple[tuple[int, Code, str], ...] = (
    (400, Code.INVALID_REQUEST, "The request is not valid HTTP."),
    (408, Code.UPSTREAM_TIMEOUT, "The request took too long to arrive."),
    (413, Code.REQUEST_TOO_LARGE, "The request body is larger than this gateway accepts; send a smaller one."),
    (431, Code.HEADERS_TOO_LARGE, "The request headers are larger than this gateway accepts."),
    (500, Code.PROCESSOR_UNAVAILABLE, "The gateway could not decide where to send this request; try again."),
    (502, Code.UPSTREAM_ERROR, "The model server broke off its answer."),
    (503, Code.UPSTREAM_ERROR, "No model server could be reached; try again in a moment."),
    (504, Code.UPSTREAM_TIMEOUT, "The model server did not answer in time."),
)


def local_replies() -> LocalReplyConfig:
    """A mapper per status and API family, the first that fits counts; anything unmapped keeps Envoy's own text."""
    mappers = []
    for anthropic in (True, False):
        lost = ClientError(
            503, Code.PROCESSOR_UNAVAILABLE, "The gateway could not decide where to send this request; try again."
        )
        mappers.append(_mapper(lost, _when(503, anthropic=anthropic, details="ext_proc"), anthropic=anthropic))
        for status, code, message in _REPLIES:
            error = ClientError(status, code, message)
            mappers.append(_mapper(error, _when(status, anthropic=anthropic), anthropic=anthropic))
    return LocalReplyConfig(mappers=mappers)


def _mapper(error: ClientError, when: AccessLogFilter, *, anthropic: bool) -> ResponseMapper:
    return ResponseMapper(
        filter=when,
        body=DataSource(inline_bytes=error.body(anthropic=anthropic)),
        body_format_override=SubstitutionFormatString(
            text_format_source=DataSource(inline_string="%LOCAL_REPLY_BODY%"), content_type="application/json"
        ),
    )


def _when(status: int, *, anthropic: bool, details: str = "") -> AccessLogFilter:
    starts = f'response.code_details.startsWith("{details or DETAILS_PREFIX}")'
    cause = AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=typed(ExpressionFilter(expression=starts if details else f"!{starts}")),
        )
    )
    same_status = AccessLogFilter(
        status_code_filter=StatusCodeFilter(
            comparison=ComparisonFilter(
                op=ComparisonFilterOp.EQ,
                value=RuntimeUInt32(default_value=status, runtime_key=f"ralb.local_reply.{status}"),
            )
        )
    )
    filters = [same_status, cause]
    if anthropic:
        path = HeaderMatcher(name=":path", string_match=StringMatcher(prefix="/v1/messages"))
        filters.insert(0, AccessLogFilter(header_filter=HeaderFilter(header=path)))
    return AccessLogFilter(and_filter=AndFilter(filters=filters))
