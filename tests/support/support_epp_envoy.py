"""A plain Envoy as a gateway that asks an endpoint picker: what a conforming gateway would have made of an InferencePool."""

from collections.abc import Sequence
from typing import Any

_TYPE = "type.googleapis.com/"
PICKER = "picker"


def gateway_config(port: int, picker: str, endpoints: Sequence[str], *, attempts: int = 3) -> dict[str, Any]:
    """A bootstrap: one listener, one cluster of ``endpoints``, the picker over TLS that is not verified.

    ``attempts``: most tries per request. A request header ``x-test-subset`` becomes the subset hint.
    """
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "http",
                    "address": _address(f"127.0.0.1:{port}"),
                    "filter_chains": [
                        {"filters": [{"name": "envoy.http_connection_manager", "typed_config": _manager(attempts)}]}
                    ],
                }
            ],
            "clusters": [_pool(endpoints), _picker(picker)],
        }
    }


def _manager(attempts: int) -> dict[str, Any]:
    retry: dict[str, Any] = {
        "retry_on": "5xx,connect-failure,reset,refused-stream,retriable-status-codes",
        "num_retries": attempts - 1,
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": _TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
    }
    return {
        "@type": _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "http_protocol_options": {"enable_trailers": True},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "pool", "timeout": "0s"}
                            | ({"retry_policy": retry} if attempts > 1 else {}),
                        }
                    ],
                    "request_body_buffer_limit": 32 * 1024 * 1024,
                }
            ]
        },
        "http_filters": [_subset(), _ext_proc(), _router()],
    }


def _subset() -> dict[str, Any]:
    rule = {
        "header": "x-test-subset",
        "on_header_present": {
            "metadata_namespace": "envoy.lb.subset_hint",
            "key": "x-gateway-destination-endpoint-subset",
            "type": "STRING",
        },
    }
    config = {"@type": _TYPE + "envoy.extensions.filters.http.header_to_metadata.v3.Config", "request_rules": [rule]}
    return {"name": "subset", "typed_config": config}


def _ext_proc() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": PICKER}},
            "processing_mode": {
                "request_header_mode": "SEND",
                "response_header_mode": "SEND",
                "request_body_mode": "FULL_DUPLEX_STREAMED",
                "response_body_mode": "FULL_DUPLEX_STREAMED",
                "request_trailer_mode": "SEND",
                "response_trailer_mode": "SEND",
            },
            "message_timeout": "100s",
            "metadata_options": {
                "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
                "receiving_namespaces": {"untyped": ["envoy.lb"]},
            },
        },
    }


def _router() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": _TYPE + "envoy.extensions.filters.http.router.v3.Router"},
    }


def _pool(endpoints: Sequence[str]) -> dict[str, Any]:
    fallback = {
        "name": "envoy.load_balancing_policies.round_robin",
        "typed_config": {"@type": _TYPE + "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"},
    }
    override = {
        "@type": _TYPE + "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
        "override_host_sources": [
            {"metadata": {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint"}]}}
        ],
        "selected_host_key": {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint-served"}]},
        "fallback_policy": {"policies": [{"typed_extension_config": fallback}]},
    }
    policy = {"name": "envoy.load_balancing_policies.override_host", "typed_config": override}
    return {
        "name": "pool",
        "type": "STATIC",
        "connect_timeout": "1s",
        # By default no more than 3 retries of a cluster may be open at once.
        "circuit_breakers": {"thresholds": [{"max_retries": 1000}]},
        "load_balancing_policy": {"policies": [{"typed_extension_config": policy}]},
        "load_assignment": _assignment("pool", endpoints),
    }


def _picker(address: str) -> dict[str, Any]:
    return {
        "name": PICKER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _assignment(PICKER, [address]),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": _TYPE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {"alpn_protocols": ["h2"]},
            },
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "0.2s",
                "no_traffic_interval": "0.2s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": "envoy.service.ext_proc.v3.ExternalProcessor"},
            }
        ],
    }


def _assignment(name: str, addresses: Sequence[str]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(address)}} for address in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def _address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
