"""Providers outside the cluster: an inner proxy per pool that knows the key, and the secrets it gets it from.

A pool's clusters do not reach the provider themselves. They lead to an internal listener of the same Envoy, and what lies
behind it puts in the key, the provider's host name and its path prefix, and takes out what is none of the provider's
business. The reason is a trap: what an upstream filter does to the headers of one attempt stays in the request for the next.
Were the key put in there, a request that fails over from a provider to somebody else would take it along. Behind the
internal listener headers are a copy, so the key can not get anywhere else.

The provider's name is one endpoint with all its addresses (what was called LOGICAL_DNS): large providers answer with ever
different addresses, and STRICT_DNS would take each answer for a new set of hosts and close connections to those that are
not in it. TLS is verified against the name, never the address.

As for clusters, what providers have in common is built once with typed messages and filled in with ``xds-protos``.

Trap: secrets are not kept in any cache here, and their versions must not be made with a hash that can be turned back.
"""

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCustomClusterType,
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
from envoy_data_plane.envoy.extensions.clusters.common.dns.v3 import DnsLookupFamily
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster
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
from google.protobuf.message import Message

from ralb_api import headers
from ralb_operator.compile.envoy.clusters import HTTP_OPTIONS, ads, assignment_of, socket_address
from ralb_operator.compile.envoy.listener import removal
from ralb_operator.compile.envoy.pack import extension, typed
from ralb_operator.compile.envoy.replies import provider_refusals, provider_replies
from ralb_operator.view import Gateway
from ralb_operator.xds.resources import CLUSTER, LISTENER, SECRET, Resource

PREFIX = "external/"
ANTHROPIC_VERSION = "2023-06-01"
# Not for the provider: who the client is and what it may see elsewhere, whose account it would like to be charged, and
# everything between the proxies. Answers must come uncompressed, or their usage could not be read.
_REMOVED = (
    *headers.CREDENTIALS,
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
_CREDENTIALS = "ralb.credentials"


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
    body = _bytes(secret)
    # Versions show in logs and in Envoy's config dump.
    return Resource(SECRET, secret.name, body, hashlib.blake2b(body, digest_size=16, person=b"ralb secret").hexdigest())


def _listener(provider: Provider, gateway: Gateway) -> Resource:
    message = listener_pb2.Listener()
    message.CopyFrom(_listener_template(gateway, anthropic=provider.anthropic, credentials=provider.credentials))
    message.name = provider.name
    packed = message.filter_chains[0].filters[0].typed_config
    manager = http_connection_manager_pb2.HttpConnectionManager.FromString(packed.value)
    action = manager.route_config.virtual_hosts[0].routes[0].route
    action.cluster = provider.name
    action.host_rewrite_literal = _authority(provider)
    if provider.path_prefix:
        action.prefix_rewrite = f"{provider.path_prefix}/"
    if provider.credentials:
        config = next(each for each in manager.http_filters if each.name == _CREDENTIALS).typed_config
        injector = credential_injector_pb2.CredentialInjector.FromString(config.value)
        generic = generic_pb2.Generic.FromString(injector.credential.typed_config.value)
        generic.credential.name = f"{provider.name}/key"
        injector.credential.typed_config.value = _bytes(generic)
        config.value = _bytes(injector)
    packed.value = _bytes(manager)
    return Resource.of(LISTENER, provider.name, _bytes(message))


@lru_cache(maxsize=64)
def _listener_template(gateway: Gateway, *, anthropic: bool, credentials: bool) -> listener_pb2.Listener:
    manager = HttpConnectionManager(
        stat_prefix="ralb_external",
        codec_type=HttpConnectionManagerCodecType.HTTP1,
        route_config=_routes(gateway, anthropic=anthropic),
        http_filters=[
            provider_refusals(),
            *([_injector(anthropic=anthropic)] if credentials else []),
            HttpFilter(name="envoy.filters.http.router", typed_config=typed(Router(suppress_envoy_headers=True))),
        ],
        # Before the filters: what is removed later would take the key with it.
        early_header_mutation_extensions=[removal(_REMOVED, _REMOVED_PREFIXES)],
        local_reply_config=provider_replies(anthropic=anthropic),
        common_http_protocol_options=HttpProtocolOptions(idle_timeout=timedelta(hours=1)),
        stream_idle_timeout=timedelta(seconds=gateway.idle_timeout_s),
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        skip_xff_append=True,
        generate_request_id=False,
        preserve_external_request_id=True,
        max_request_headers_kb=96,
    )
    listener = Listener(
        internal_listener=ListenerInternalListenerConfig(),
        per_connection_buffer_limit_bytes=gateway.max_body_bytes + _BUFFER_ROOM,
        filter_chains=[
            FilterChain(
                filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=typed(manager))]
            )
        ],
    )
    return listener_pb2.Listener.FromString(bytes(listener))


def _routes(gateway: Gateway, *, anthropic: bool) -> RouteConfiguration:
    action = RouteAction(cluster="-", timeout=timedelta(0), idle_timeout=timedelta(seconds=gateway.idle_timeout_s))
    route = Route(
        match=RouteMatch(prefix="/"),
        route=action,
        request_headers_to_remove=list(_REMOVED_LAST),
        response_headers_to_remove=list(_REMOVED_ANSWERS),
    )
    if anthropic:
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


def _injector(*, anthropic: bool) -> HttpFilter:
    credential = Generic(
        credential=SdsSecretConfig(sds_config=ads()),
        header="x-api-key" if anthropic else "authorization",
        header_value_prefix="" if anthropic else "Bearer ",
    )
    # Without the secret the request ends here with an error; it never goes on without a key.
    config = CredentialInjector(
        overwrite=True, credential=extension("envoy.http.injected_credentials.generic", typed(credential))
    )
    return HttpFilter(name=_CREDENTIALS, typed_config=typed(config))


def _cluster(provider: Provider, gateway: Gateway) -> Resource:
    is_address = _is_address(provider.server_name)
    message = cluster_pb2.Cluster()
    message.CopyFrom(
        _cluster_template(
            gateway, tls=provider.tls, verify=provider.verify, own_ca=provider.own_ca, is_address=is_address
        )
    )
    message.name = message.alt_stat_name = message.load_assignment.cluster_name = provider.name
    socket = message.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
    socket.address, socket.port_value = provider.host, provider.port
    if provider.tls:
        packed = message.transport_socket.typed_config
        context = tls_pb2.UpstreamTlsContext.FromString(packed.value)
        # An address is no server name.
        context.sni = "" if is_address else provider.server_name
        if provider.verify:
            validation = context.common_tls_context.validation_context
            if provider.own_ca:
                combined = context.common_tls_context.combined_validation_context
                combined.validation_context_sds_secret_config.name = f"{provider.name}/ca"
                validation = combined.default_validation_context
            validation.match_typed_subject_alt_names[0].matcher.exact = provider.server_name
        packed.value = _bytes(context)
    return Resource.of(CLUSTER, provider.name, _bytes(message))


@lru_cache(maxsize=64)
def _cluster_template(
    gateway: Gateway, *, tls: bool, verify: bool, own_ca: bool, is_address: bool
) -> cluster_pb2.Cluster:
    http1 = Http1ProtocolOptions()
    options = UpstreamHttpProtocolOptions(common_http_protocol_options=HttpProtocolOptions(idle_timeout=_KEEP_IDLE))
    if tls:
        options.auto_config = HttpProtocolOptionsAutoHttpConfig(
            http_protocol_options=http1,
            http2_protocol_options=Http2ProtocolOptions(
                connection_keepalive=KeepaliveSettings(interval=timedelta(seconds=20), timeout=timedelta(seconds=10))
            ),
        )
    else:
        options.explicit_http_config = HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=http1)
    dns = DnsCluster(
        dns_lookup_family=DnsLookupFamily.V4_PREFERRED, respect_dns_ttl=True, all_addresses_in_single_endpoint=True
    )
    cluster = Cluster(
        cluster_type=ClusterCustomClusterType(name="envoy.cluster.dns", typed_config=typed(dns)),
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
        load_assignment=assignment_of("", socket_address("", 0)),
        typed_extension_protocol_options={HTTP_OPTIONS: typed(options)},
    )
    if tls:
        context = _tls(gateway, verify=verify, own_ca=own_ca, is_address=is_address)
        cluster.transport_socket = TransportSocket(name="envoy.transport_sockets.tls", typed_config=typed(context))
    return cluster_pb2.Cluster.FromString(bytes(cluster))


def _tls(gateway: Gateway, *, verify: bool, own_ca: bool, is_address: bool) -> UpstreamTlsContext:
    common = CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
        )
    )
    if verify:
        kind = SubjectAltNameMatcherSanType.IP_ADDRESS if is_address else SubjectAltNameMatcherSanType.DNS
        # The name is filled in for each provider; Envoy refuses an empty one.
        matcher = SubjectAltNameMatcher(san_type=kind, matcher=StringMatcher(exact=""))
        validation = CertificateValidationContext(match_typed_subject_alt_names=[matcher])
        if own_ca:
            common.combined_validation_context = CommonTlsContextCombinedCertificateValidationContext(
                default_validation_context=validation,
                validation_context_sds_secret_config=SdsSecretConfig(sds_config=ads()),
            )
        else:
            validation.trusted_ca = DataSource(filename=gateway.ca_file)
            common.validation_context = validation
    return UpstreamTlsContext(common_tls_context=common)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
