"""The client-facing listener: headers nobody may set are taken off, the processor is asked, usage is read, all is logged.

Traps: filters see answers in reverse order; usage filters stand before ext_proc so that they see what clients see. One
buffer limit holds for requests (413 beyond it) and for answers that a filter wants whole; see ``usage`` about those.
"""

from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation,
    HeaderMutationRemoveOnMatch,
    HeaderMutationRules,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    SocketAddress,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    HeaderForwardingRules,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, StringMatcher
from envoy_data_plane.envoy.type.tracing.v3 import CustomTag
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode

from ralb_api import headers
from ralb_operator.compile.envoy import routes
from ralb_operator.compile.envoy.balancing import hash_filter
from ralb_operator.compile.envoy.clusters import PROCESSOR
from ralb_operator.compile.envoy.pack import extension, typed
from ralb_operator.compile.envoy.replies import local_replies
from ralb_operator.compile.envoy.usage import usage_filters
from ralb_operator.view import Gateway
from ralb_operator.xds.resources import LISTENER, Resource

NAME = "ralb"
# The longest disaggregation.timeout, and some more so that the processor's own limit comes first.
MAX_WAIT_S = 330.0


@lru_cache(maxsize=16)
def listener(gateway: Gateway) -> Resource:
    """The listener with its one HTTP connection manager."""
    manager = HttpConnectionManager(
        stat_prefix="ralb",
        rds=Rds(
            config_source=ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3),
            route_config_name=routes.NAME,
        ),
        http_filters=[
            *usage_filters(gateway.max_body_bytes),
            _processor(gateway),
            hash_filter(),
            HttpFilter(name="envoy.filters.http.router", typed_config=typed(Router())),
        ],
        access_log=[_access_log()],
        early_header_mutation_extensions=[_strip()],
        local_reply_config=local_replies(),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=timedelta(hours=1),
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.ALLOW,
        ),
        stream_idle_timeout=timedelta(seconds=gateway.idle_timeout_s),
        request_headers_timeout=timedelta(seconds=10),
        request_timeout=timedelta(seconds=120),
        delayed_close_timeout=timedelta(seconds=1),
        use_remote_address=True,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        normalize_path=True,
        merge_slashes=True,
        server_name="ralb",
        max_request_headers_kb=96,
    )
    message = Listener(
        name=NAME,
        address=Address(socket_address=SocketAddress(address=gateway.address, port_value=gateway.port)),
        per_connection_buffer_limit_bytes=gateway.max_body_bytes,
        filter_chains=[
            FilterChain(
                filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=typed(manager))]
            )
        ],
    )
    return Resource.of(LISTENER, NAME, bytes(message))


def _processor(gateway: Gateway) -> HttpFilter:
    send, skip = ProcessingModeHeaderSendMode.SEND, ProcessingModeHeaderSendMode.SKIP
    config = ExternalProcessor(
        grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=PROCESSOR), timeout=timedelta(0)),
        failure_mode_allow=False,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        message_timeout=timedelta(seconds=gateway.processor_timeout_s),
        # The processor asks for more time while another pod computes the prompt.
        max_message_timeout=timedelta(seconds=max(gateway.processor_timeout_s, MAX_WAIT_S)),
        # Answers do not pass through the processor: no response message at all, headers included.
        processing_mode=ProcessingMode(
            request_header_mode=send,
            request_body_mode=ProcessingModeBodySendMode.BUFFERED,
            request_trailer_mode=skip,
            response_header_mode=skip,
            response_body_mode=ProcessingModeBodySendMode.NONE,
            response_trailer_mode=skip,
        ),
        mutation_rules=HeaderMutationRules(allow_envoy=True),
        metadata_options=MetadataOptions(
            receiving_namespaces=MetadataOptionsMetadataNamespaces(
                untyped=[headers.METADATA_LB, headers.METADATA_ORDER, headers.METADATA_DECISION]
            )
        ),
        forward_rules=HeaderForwardingRules(
            disallowed_headers=ListStringMatcher(patterns=[StringMatcher(exact=name) for name in headers.CREDENTIALS])
        ),
    )
    return HttpFilter(name="ralb.processor", typed_config=typed(config))


def _strip() -> TypedExtensionConfig:
    # Envoy caps the size of regular expressions, so "ours, but none that clients may set" is spelt out name by name.
    ours = {
        value for value in vars(headers).values() if isinstance(value, str) and value.startswith(headers.OWN_PREFIX)
    }
    return removal(sorted((ours - headers.CLIENT_HEADERS) | {headers.PREFILLER}), headers.RESERVED_PREFIXES)


def removal(names: Iterable[str], prefixes: Iterable[str]) -> TypedExtensionConfig:
    """Removes request headers before anything else looks at them."""
    matchers = [StringMatcher(prefix=prefix) for prefix in prefixes]
    matchers += [StringMatcher(exact=name) for name in names]
    config = EarlyHeaderMutation(
        mutations=[
            HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=matcher)) for matcher in matchers
        ]
    )
    return extension("envoy.http.early_header_mutation.header_mutation", typed(config))


def _access_log() -> AccessLog:
    return AccessLog(
        name="envoy.access_loggers.http_grpc",
        typed_config=typed(
            HttpGrpcAccessLogConfig(
                common_config=CommonGrpcAccessLogConfig(
                    log_name="ralb",
                    transport_api_version=ApiVersion.V3,
                    grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=PROCESSOR)),
                    buffer_flush_interval=timedelta(milliseconds=50),
                    buffer_size_bytes=65536,
                    custom_tags=[
                        # The first body byte from the server is the first token; see the hold filter.
                        CustomTag(tag="ttft_us", value="%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%"),
                        CustomTag(tag="server_ttft_us", value="%COMMON_DURATION(US_TX_END:US_RX_BODY_BEG:us)%"),
                    ],
                ),
                # How long a pod wants to be left alone; nothing else tells of what servers answer.
                additional_response_headers_to_log=["retry-after"],
            )
        ),
    )
