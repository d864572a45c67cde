"""Providers outside the cluster: an inner proxy per pool that knows the key, and the secrets it gets it from.

A pool's clusters do not reach the provider themselves. They lead to an internal listener of the same Envoy, and what lies
behind it puts in the key, the provider's host name and its path prefix, and takes out what is none of the provider's
business. The reason is a trap: what an upstream filter does to the headers of one attempt stays in the request for the next.
Were the key put in there, a request that fails over from a provider to somebody else would take it along. Behind the
internal listener headers are a copy, so the key can not get anywhere else.

The provider's name is looked up as LOGICAL_DNS: large providers answer with ever different addresses, and STRICT_DNS would
take each answer for a new set of hosts and close connections to those that are not in it. TLS is verified against
the name, never the address.

Trap: secrets are not kept in any cache here, and their versions must not be made with a hash that can be turned back.
"""

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    KeepaliveSettings,
    TransportSocket,
)
from envoy_data_plane.envoy.config.listener.v3 import (
    Filter,
    FilterChain,
    Listener,
    ListenerInternalListenerConfig,
)
from envoy_data_plane.envoy.config.route.v3 import Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerServerHeaderTransformation,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    SdsSecretConfig,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions as UpstreamHttpProtocolOptions,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptionsAutoHttpConfig,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from ralb_api import headers
from ralb_operator.compile.envoy.clusters import HTTP_OPTIONS, ads, assignment_of, socket_address
from ralb_operator.compile.envoy.listener import CREDENTIAL_HEADERS, removal
from ralb_operator.compile.envoy.pack import extension, typed
from ralb_operator.compile.envoy.replies import provider_refusals, provider_replies
from ralb_operator.view import Gateway
from ralb_operator.xds.resources import CLUSTER, LISTENER, SECRET, Resource

PREFIX = "external/"
ANTHROPIC_VERSION = "2023-06-01"
# Not for the provider: who the client is and what it may see elsewhere, whose account it would like to be charged, and
# everything between the proxies. Answers must come uncompressed, or their usage could not be read.
_REMOVED = (
    *CREDENTIAL_HEADERS,
    "openai-organization",
    "openai-project",
    "forwarded",
    "x-real-ip",
    "via",
    "accept-encoding",
)
_REMOVED_PREFIXES = ("x-forwarded-", headers.OWN_PREFIX, *headers.RESERVED_PREFIXES)
# Envoy itself adds these again.
_REMOVED_LAST = ("x-forwarded-proto", "x-forwarded-for", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms")
# Not for the client: cookies and promises that would count for the gateway's own name, and whose account it is.
_REMOVED_ANSWERS = (
    "set-cookie",
    "alt-svc",
    "strict-transport-security",
    "openai-organization",
    "openai-project",
    "anthropic-organization-id",
    "x-envoy-upstream-service-time",
)
# A handshake across the internet, with some lost packets.
_CONNECT_TIMEOUT = timedelta(seconds=5)
_KEEP_IDLE = timedelta(seconds=30)
_NO_LIMIT = 4_000_000
_BUFFER_ROOM = 64 * 1024


@dataclass(frozen=True, slots=True)
class Provider:
    """What a provider's resources depend on, without its secrets.

    Attributes:
        pool: pool id.
        host, port: where the provider is.
        anthropic: it speaks Anthropic's API; otherwise OpenAI's.
        tls: whether to use TLS.
        verify: whether the provider must prove its name.
        server_name: that name; also sent as SNI.
        own_ca: its certificate is signed by CAs of the pool's own (secret ``ca``), not by one of the system's.
        credentials: it gets a key (secret ``key``).
        path_prefix: put before the API's path, without a slash at its end.
    """

    pool: str
    host: str
    port: int
    anthropic: bool
    tls: bool
    verify: bool
    server_name: str
    own_ca: bool
    credentials: bool
    path_prefix: str

    @property
    def name(self) -> str:
        """Name of the inner listener and its cluster."""
        return PREFIX + self.pool


@lru_cache(maxsize=4096)
def provider_resources(provider: Provider, gateway: Gateway) -> tuple[Resource, Resource]:
    """The inner listener, and the cluster behind it."""
    return _listener(provider, gateway), _cluster(provider, gateway)


def provider_secrets(provider: Provider, key: bytes, ca: bytes) -> list[Resource]:
    """What the provider's resources refer to.

    Args:
        provider: whose.
        key: the API key; used if the provider has ``credentials``.
        ca: PEM certificates; used if the provider has ``own_ca``.
    """
    secrets = []
    if provider.credentials:
        secret = secret_pb2.Secret(name=f"{provider.name}/key")
        secret.generic_secret.secret.inline_bytes = key
        secrets.append(_secret(secret))
    if provider.own_ca:
        secret = secret_pb2.Secret(name=f"{provider.name}/ca")
        secret.validation_context.trusted_ca.inline_bytes = ca
        secrets.append(_secret(secret))
    return secrets


def _secret(secret: secret_pb2.Secret) -> Resource:
    body = secret.SerializeToString(deterministic=True)
    # Versions show in logs and in Envoy's config dump.
    return Resource(SECRET, secret.name, body, hashlib.blake2b(body, digest_size=16, person=b"ralb secret").hexdigest())


def _listener(provider: Provider, gateway: Gateway) -> Resource:
    manager = HttpConnectionManager(
        stat_prefix="ralb_external",
        codec_type=HttpConnectionManagerCodecType.HTTP1,
        route_config=_routes(provider, gateway),
        http_filters=[
            provider_refusals(),
            *([_injector(provider)] if provider.credentials else []),
            HttpFilter(name="envoy.filters.http.router", typed_config=typed(Router(suppress_envoy_headers=True))),
        ],
        # Before the filters: what is removed later would take the key with it.
        early_header_mutation_extensions=[removal(_REMOVED, _REMOVED_PREFIXES)],
        local_reply_config=provider_replies(anthropic=provider.anthropic),
        common_http_protocol_options=HttpProtocolOptions(idle_timeout=timedelta(hours=1)),
        stream_idle_timeout=timedelta(seconds=gateway.idle_timeout_s),
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        skip_xff_append=True,
        generate_request_id=False,
        preserve_external_request_id=True,
        max_request_headers_kb=96,
    )
    message = Listener(
        name=provider.name,
        internal_listener=ListenerInternalListenerConfig(),
        per_connection_buffer_limit_bytes=gateway.max_body_bytes + _BUFFER_ROOM,
        filter_chains=[
            FilterChain(
                filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=typed(manager))]
            )
        ],
    )
    return Resource.of(LISTENER, provider.name, bytes(message))


def _routes(provider: Provider, gateway: Gateway) -> RouteConfiguration:
    action = RouteAction(
        cluster=provider.name,
        timeout=timedelta(0),
        idle_timeout=timedelta(seconds=gateway.idle_timeout_s),
        host_rewrite_literal=_authority(provider),
    )
    if provider.path_prefix:
        action.prefix_rewrite = f"{provider.path_prefix}/"
    route = Route(
        match=RouteMatch(prefix="/"),
        route=action,
        request_headers_to_remove=list(_REMOVED_LAST),
        response_headers_to_remove=list(_REMOVED_ANSWERS),
    )
    if provider.anthropic:
        route.request_headers_to_add = [
            HeaderValueOption(
                header=HeaderValue(key="anthropic-version", value=ANTHROPIC_VERSION),
                append_action=HeaderValueOptionHeaderAppendAction.ADD_IF_ABSENT,
            )
        ]
    return RouteConfiguration(virtual_hosts=[VirtualHost(name="provider", domains=["*"], routes=[route])])


def _authority(provider: Provider) -> str:
    host = f"[{provider.host}]" if ":" in provider.host else provider.host
    return host if provider.port == (443 if provider.tls else 80) else f"{host}:{provider.port}"


def _injector(provider: Provider) -> HttpFilter:
    credential = Generic(
        credential=SdsSecretConfig(name=f"{provider.name}/key", sds_config=ads()),
        header="x-api-key" if provider.anthropic else "authorization",
        header_value_prefix="" if provider.anthropic else "Bearer ",
    )
    # Without the secret the request ends here with an error; it never goes on without a key.
    config = CredentialInjector(
        overwrite=True, credential=extension("envoy.http.injected_credentials.generic", typed(credential))
    )
    return HttpFilter(name="ralb.credentials", typed_config=typed(config))


def _cluster(provider: Provider, gateway: Gateway) -> Resource:
    http1 = Http1ProtocolOptions()
    options = UpstreamHttpProtocolOptions(common_http_protocol_options=HttpProtocolOptions(idle_timeout=_KEEP_IDLE))
    if provider.tls:
        options.auto_config = HttpProtocolOptionsAutoHttpConfig(
            http_protocol_options=http1,
            http2_protocol_options=Http2ProtocolOptions(
                connection_keepalive=KeepaliveSettings(interval=timedelta(seconds=20), timeout=timedelta(seconds=10))
            ),
        )
    else:
        options.explicit_http_config = HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=http1)
    cluster = Cluster(
        name=provider.name,
        alt_stat_name=provider.name,
        type=ClusterDiscoveryType.LOGICAL_DNS,
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED,
        respect_dns_ttl=True,
        connect_timeout=_CONNECT_TIMEOUT,
        per_connection_buffer_limit_bytes=gateway.max_body_bytes + _BUFFER_ROOM,
        # The pool's own limits hold at its clusters, before the inner listener.
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakersThresholds(
                    max_connections=_NO_LIMIT, max_pending_requests=_NO_LIMIT, max_requests=_NO_LIMIT
                )
            ]
        ),
        load_assignment=assignment_of(provider.name, socket_address(provider.host, provider.port)),
        typed_extension_protocol_options={HTTP_OPTIONS: typed(options)},
    )
    if provider.tls:
        cluster.transport_socket = TransportSocket(
            name="envoy.transport_sockets.tls", typed_config=typed(_tls(provider, gateway))
        )
    return Resource.of(CLUSTER, provider.name, bytes(cluster))


def _tls(provider: Provider, gateway: Gateway) -> UpstreamTlsContext:
    common = CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
        )
    )
    is_address = _is_address(provider.server_name)
    if provider.verify:
        kind = SubjectAltNameMatcherSanType.IP_ADDRESS if is_address else SubjectAltNameMatcherSanType.DNS
        validation = CertificateValidationContext(
            match_typed_subject_alt_names=[
                SubjectAltNameMatcher(san_type=kind, matcher=StringMatcher(exact=provider.server_name))
            ]
        )
        if provider.own_ca:
            common.combined_validation_context = CommonTlsContextCombinedCertificateValidationContext(
                default_validation_context=validation,
                validation_context_sds_secret_config=SdsSecretConfig(name=f"{provider.name}/ca", sds_config=ads()),
            )
        else:
            validation.trusted_ca = DataSource(filename=gateway.ca_file)
            common.validation_context = validation
    # An address is no server name.
    return UpstreamTlsContext(common_tls_context=common, sni="" if is_address else provider.server_name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
