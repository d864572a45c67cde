"""Clusters: two per pool, and the processor's own.

A pool's plain cluster sends what the processor wrote. Its rewriting twin shares the endpoints and puts the pool's own model
name into the body of each attempt, so that one request can be tried on pools of different models; it is used only for
attempts whose model differs from the first one's.

Trap: an upstream ext_proc filter over ``envoy_grpc`` can crash Envoy; the twin uses ``google_grpc``. Header changes of
an upstream filter persist into later attempts: the rewriting service removes content-length rather than setting it.
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import cache, lru_cache

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    CircuitBreakersThresholdsRetryBudget,
    Cluster,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
    ClusterEdsClusterConfig,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    GrpcService,
    GrpcServiceGoogleGrpc,
    GrpcServiceGoogleGrpcChannelArgs,
    GrpcServiceGoogleGrpcChannelArgsValue,
    HeaderValue,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    Pipe,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions as UpstreamHttpProtocolOptions,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptionsExplicitHttpConfig

from ralb_operator.compile.envoy.balancing import Policy, policy_config
from ralb_operator.compile.envoy.endpoints import split_address
from ralb_operator.compile.envoy.hold import hold_filter
from ralb_operator.compile.envoy.pack import typed
from ralb_operator.view import Gateway
from ralb_operator.xds.resources import CLUSTER, Resource

PROCESSOR = "ralb-processor"
NOWHERE = "ralb-nowhere"
# Initial metadata that tells the processor which model name an attempt must carry.
REWRITE_MODEL_METADATA = "x-ralb-rewrite-model"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Shorter than the 5 s after which vLLM's server closes an idle connection, so that no request meets a closing one.
_KEEP_IDLE = timedelta(seconds=4)
_NAME_ROOM = 64 * 1024
# Cluster metadata namespace read by the route's response headers.
CLUSTER_METADATA = "ralb"


@dataclass(frozen=True, slots=True)
class PoolCluster:
    """What a pool's clusters depend on; two equal ones give the same bytes.

    Attributes:
        pool: pool id, also the EDS service name and the name under which statistics and ``x-ralb-pool`` know it.
        model: the model's name.
        service: (host, port) behind which something else balances; None = endpoints by EDS, or a listener.
        policy: how they choose among the endpoints.
        max_requests, retry_budget_percent, min_retries: circuit breaker.
        listener: internal listener that leads to a provider; "" = none.
    """

    pool: str
    model: str
    service: tuple[str, int] | None
    policy: Policy
    max_requests: int
    retry_budget_percent: int
    min_retries: int
    listener: str = ""

    @property
    def kind(self) -> ClusterDiscoveryType:
        """How its endpoints are found."""
        if self.listener:
            return ClusterDiscoveryType.STATIC
        return ClusterDiscoveryType.EDS if self.service is None else ClusterDiscoveryType.STRICT_DNS

    @property
    def name(self) -> str:
        """Name of the plain cluster."""
        return f"pool/{self.pool}"

    @property
    def rewrite_name(self) -> str:
        """Name of the rewriting twin."""
        return f"pool/{self.pool}/rewrite"


@lru_cache(maxsize=16_384)
def pool_cluster(spec: PoolCluster, gateway: Gateway, *, rewrite: bool) -> Resource:
    """One of the pool's two clusters."""
    cluster = cluster_pb2.Cluster()
    cluster.CopyFrom(_template(gateway, spec.policy, rewrite=rewrite, kind=spec.kind))
    cluster.name = spec.rewrite_name if rewrite else spec.name
    cluster.alt_stat_name = spec.pool
    known = cluster.metadata.filter_metadata[CLUSTER_METADATA].fields
    known["model"].string_value = spec.model
    known["pool"].string_value = spec.pool
    threshold = cluster.circuit_breakers.thresholds[0]
    for limit in (threshold.max_connections, threshold.max_pending_requests, threshold.max_requests):
        limit.value = spec.max_requests
    threshold.retry_budget.budget_percent.value = spec.retry_budget_percent
    threshold.retry_budget.min_retry_concurrency.value = spec.min_retries
    if spec.kind is ClusterDiscoveryType.EDS:
        cluster.eds_cluster_config.service_name = spec.pool
    else:
        cluster.load_assignment.cluster_name = cluster.name
        address = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address
        if spec.service is not None:
            address.socket_address.address, address.socket_address.port_value = spec.service
        else:
            address.envoy_internal_address.server_listener_name = spec.listener
    if rewrite:
        _set_rewrite_model(cluster, spec.model)
    return Resource.of(CLUSTER, cluster.name, cluster.SerializeToString(deterministic=True))


def _set_rewrite_model(cluster: cluster_pb2.Cluster, model: str) -> None:
    packed = cluster.typed_extension_protocol_options[HTTP_OPTIONS]
    options = http_protocol_options_pb2.HttpProtocolOptions.FromString(packed.value)
    config = options.http_filters[0].typed_config
    processor = ext_proc_pb2.ExternalProcessor.FromString(config.value)
    processor.grpc_service.initial_metadata[0].value = model
    config.value = processor.SerializeToString(deterministic=True)
    packed.value = options.SerializeToString(deterministic=True)


@lru_cache(maxsize=64)
def _template(gateway: Gateway, policy: Policy, *, rewrite: bool, kind: ClusterDiscoveryType) -> cluster_pb2.Cluster:
    """What clusters of different pools have in common, with the places that differ present but empty.

    Building one with typed messages takes some milliseconds, which is too long for each of a thousand; filling one in with
    xds-protos does not.
    """
    filters = [hold_filter(), _codec()]
    if rewrite:
        filters.insert(0, _rewrite_filter(gateway))
    cluster = Cluster(
        connect_timeout=timedelta(seconds=1),
        # The twin puts another model name into the body, which may be longer.
        per_connection_buffer_limit_bytes=gateway.max_body_bytes + _NAME_ROOM,
        circuit_breakers=CircuitBreakers(
            thresholds=[CircuitBreakersThresholds(retry_budget=CircuitBreakersThresholdsRetryBudget())]
        ),
        # Only steers the fallback: picked pods are tried whatever their state.
        outlier_detection=OutlierDetection(
            consecutive_5xx=5,
            consecutive_local_origin_failure=3,
            split_external_local_origin_errors=True,
            interval=timedelta(seconds=2),
            base_ejection_time=timedelta(seconds=5),
            max_ejection_percent=50,
        ),
        typed_extension_protocol_options={
            HTTP_OPTIONS: typed(
                UpstreamHttpProtocolOptions(
                    common_http_protocol_options=HttpProtocolOptions(idle_timeout=_KEEP_IDLE),
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http_protocol_options=Http1ProtocolOptions()
                    ),
                    http_filters=filters,
                )
            )
        },
    )
    cluster.type = kind
    cluster.load_balancing_policy = policy_config(policy)
    if kind is ClusterDiscoveryType.EDS:
        cluster.eds_cluster_config = ClusterEdsClusterConfig(eds_config=ads())
    else:
        cluster.load_assignment = assignment_of("", Address())
    if kind is ClusterDiscoveryType.STRICT_DNS:
        # Every address found is a replica of its own: IPv6 ones that nobody listens on must not be among them.
        cluster.dns_lookup_family = ClusterDnsLookupFamily.V4_PREFERRED
    return cluster_pb2.Cluster.FromString(bytes(cluster))


@lru_cache(maxsize=16)
def processor_cluster(gateway: Gateway) -> Resource:
    """The processor, for ext_proc and access logs."""
    if gateway.processor.startswith("unix:"):
        kind, address = ClusterDiscoveryType.STATIC, Address(pipe=Pipe(path=gateway.processor.removeprefix("unix:")))
    else:
        kind, address = ClusterDiscoveryType.STRICT_DNS, socket_address(*split_address(gateway.processor))
    cluster = Cluster(
        name=PROCESSOR,
        type=kind,
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=timedelta(seconds=1),
        per_connection_buffer_limit_bytes=gateway.max_body_bytes * 2,
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakersThresholds(max_connections=100_000, max_pending_requests=100_000, max_requests=100_000)
            ]
        ),
        load_assignment=assignment_of(PROCESSOR, address),
        typed_extension_protocol_options={
            HTTP_OPTIONS: typed(
                UpstreamHttpProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=Http2ProtocolOptions(max_concurrent_streams=100_000)
                    )
                )
            )
        },
    )
    return Resource.of(CLUSTER, PROCESSOR, bytes(cluster))


@cache
def nowhere_cluster() -> Resource:
    """A cluster without endpoints: where a request goes that the processor gave no order. It gets 503."""
    assignment = ClusterLoadAssignment(cluster_name=NOWHERE)
    cluster = Cluster(name=NOWHERE, type=ClusterDiscoveryType.STATIC, load_assignment=assignment)
    return Resource.of(CLUSTER, NOWHERE, bytes(cluster))


def _rewrite_filter(gateway: Gateway) -> HttpFilter:
    target = gateway.processor
    service = GrpcService(
        google_grpc=GrpcServiceGoogleGrpc(
            target_uri=target,
            stat_prefix="ralb_rewrite",
            # Rewritten bodies come back whole; gRPC's own limit is 4 MiB.
            channel_args=GrpcServiceGoogleGrpcChannelArgs(
                args={"grpc.max_receive_message_length": GrpcServiceGoogleGrpcChannelArgsValue(int_value=-1)}
            ),
        ),
        initial_metadata=[HeaderValue(key=REWRITE_MODEL_METADATA)],
        timeout=timedelta(0),
    )
    return HttpFilter(
        name="ralb.rewrite_model",
        typed_config=typed(
            ExternalProcessor(
                grpc_service=service,
                failure_mode_allow=False,
                message_timeout=timedelta(seconds=gateway.processor_timeout_s),
                processing_mode=ProcessingMode(
                    request_header_mode=ProcessingModeHeaderSendMode.SEND,
                    request_body_mode=ProcessingModeBodySendMode.BUFFERED,
                    response_header_mode=ProcessingModeHeaderSendMode.SKIP,
                    response_body_mode=ProcessingModeBodySendMode.NONE,
                ),
            )
        ),
    )


@cache
def _codec() -> HttpFilter:
    return HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=typed(UpstreamCodec()))


def ads() -> ConfigSource:
    """From the control plane, over the one stream."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def socket_address(host: str, port: int) -> Address:
    """A TCP address."""
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def assignment_of(cluster: str, address: Address) -> ClusterLoadAssignment:
    """An assignment of one endpoint, as part of its cluster."""
    return ClusterLoadAssignment(
        cluster_name=cluster,
        endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])],
    )
