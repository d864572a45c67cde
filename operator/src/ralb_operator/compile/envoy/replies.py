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
from envoy_data_plane.envoy.extensions.filters.http.custom_response.v3 import CustomResponse
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpFilter,
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.extensions.http.custom_response.local_response_policy.v3 import LocalResponsePolicy
from envoy_data_plane.envoy.type.matcher.v3 import HttpResponseStatusCodeMatchInput, StringMatcher
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig as XdsExtension
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherList,
    MatcherMatcherListFieldMatcher,
    MatcherMatcherListPredicate,
    MatcherMatcherListPredicateSinglePredicate,
    MatcherOnMatch,
)
from envoy_data_plane.xds.type.matcher.v3 import StringMatcher as XdsStringMatcher

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


_PROVIDER_FAILED = (
    "The provider of this model could not be reached, broke off, or refused the gateway; try again in a moment."
)
_PROVIDER_REPLIES: tuple[_Reply, ...] = (
    *(_Reply(502, status, Code.UPSTREAM_ERROR, _PROVIDER_FAILED) for status in (500, 502)),
    # Also when the key is not there (yet): nothing went out without it.
    *(_Reply(503, status, Code.UPSTREAM_ERROR, _PROVIDER_FAILED) for status in (401, 503)),
    _Reply(504, 504, Code.UPSTREAM_TIMEOUT, "The provider of this model did not answer in time."),
)


def local_replies() -> LocalReplyConfig:
    """A mapper per cause and API family; anything unmapped keeps Envoy's own text."""
    return LocalReplyConfig(
        mappers=[
            _mapper(reply, anthropic=anthropic, by_path=anthropic) for anthropic in (True, False) for reply in _REPLIES
        ]
    )


def provider_replies(*, anthropic: bool) -> LocalReplyConfig:
    """The same for the proxy in front of a provider, which speaks one API family."""
    return LocalReplyConfig(mappers=[_mapper(reply, anthropic=anthropic, by_path=False) for reply in _PROVIDER_REPLIES])


def provider_refusals() -> HttpFilter:
    """A filter that makes a 502 of a provider's 401.

    It is the gateway's key that was refused, not the client's, so other pools are worth a try; and what a provider says about
    a key may quote it.
    """
    predicate = MatcherMatcherListPredicate(
        single_predicate=MatcherMatcherListPredicateSinglePredicate(
            input=XdsExtension(name="status", typed_config=typed(HttpResponseStatusCodeMatchInput())),
            value_match=XdsStringMatcher(exact="401"),
        )
    )
    action = XdsExtension(
        name="envoy.extensions.http.custom_response.local_response_policy",
        typed_config=typed(LocalResponsePolicy(status_code=502)),
    )
    config = CustomResponse(
        custom_response_matcher=Matcher(
            matcher_list=MatcherMatcherList(
                matchers=[MatcherMatcherListFieldMatcher(predicate=predicate, on_match=MatcherOnMatch(action=action))]
            )
        )
    )
    return HttpFilter(name="ralb.provider_refusals", typed_config=typed(config))


def _mapper(reply: _Reply, *, anthropic: bool, by_path: bool) -> ResponseMapper:
    error = ClientError(reply.status, reply.code, reply.message)
    if isinstance(reply.cause, str):
        filters = [_details(f'response.code_details.startsWith("{reply.cause}")')]
    else:
        filters = [_status(reply.cause), _details(f'!response.code_details.startsWith("{DETAILS_PREFIX}")')]
    if by_path:
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
