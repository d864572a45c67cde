"""The start configuration of Envoy: where the control plane is, and the limits no later config can forget.

Nothing about routing may enter: listeners, routes and clusters come from discovery. The result is plain data.

Trap: write it with ``json.dumps`` into a ``.json`` file. PyYAML leaves strings like ``n`` and ``y`` unquoted, and Envoy's YAML
reads them as booleans.
"""

import ipaddress
from typing import Any, Final

XDS_CLUSTER: Final = "ralb-xds"
_TYPE: Final = "type.googleapis.com/"
_HTTP: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def bootstrap(
    node_id: str,
    ads: str,
    *,
    admin_address: str = "127.0.0.1",
    admin_port: int = 0,
    cluster: str = "ralb",
    max_connections: int = 50_000,
    max_heap_bytes: int = 2 * 1024**3,
    reconnect_max_s: float = 5.0,
) -> dict[str, Any]:
    """Envoy's bootstrap.

    Args:
        node_id: unique per Envoy; it names this Envoy in statuses.
        ads: the control plane: ``unix:/path`` or ``host:port`` (``[address]:port`` for IPv6).
        admin_address: IP address of the admin interface. It can stop Envoy and show its config: keep it on loopback.
        admin_port: its port; 0 = any free one.
        cluster: name of the group of Envoys.
        max_connections: further client connections are closed at once.
        max_heap_bytes: near it, Envoy first gives memory back, then stops keeping connections alive, then refuses requests.
        reconnect_max_s: longest pause between two attempts to reach the control plane, in seconds.

    Raises:
        ValueError: an argument is out of range; the message says which and what is allowed.
    """
    if not node_id or not cluster:
        raise ValueError("node_id and cluster must not be empty")
    if not _is_ip(admin_address):
        raise ValueError(f"admin_address must be an IP address, not {admin_address!r}")
    if not 0 <= admin_port <= 65535:
        raise ValueError(f"admin_port must be 0 to 65535, not {admin_port}")
    if max_connections < 1 or max_heap_bytes < 64 * 1024**2:
        raise ValueError("max_connections must be at least 1 and max_heap_bytes at least 64 MiB")
    if reconnect_max_s < 0.25:
        raise ValueError(f"reconnect_max_s must be at least 0.25, not {reconnect_max_s}")
    by_ads = {"ads": {}, "resource_api_version": "V3"}
    retry = {"retry_back_off": {"base_interval": "0.25s", "max_interval": f"{reconnect_max_s:g}s"}}
    return {
        "node": {"id": node_id, "cluster": cluster},
        "admin": {"address": {"socket_address": {"address": admin_address, "port_value": admin_port}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": retry}}],
            },
            "cds_config": by_ads,
            "lds_config": by_ads,
        },
        "static_resources": {"clusters": [_xds_cluster(ads)]},
        # The admin layer comes last, so that what an operator sets at run time wins.
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {}}, {"name": "admin", "admin_layer": {}}],
        },
        "overload_manager": _overload(max_connections, max_heap_bytes),
    }


def _xds_cluster(ads: str) -> dict[str, Any]:
    kind, address = _address(ads)
    keepalive = {"interval": "10s", "timeout": "5s"}
    return {
        "name": XDS_CLUSTER,
        "type": kind,
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            _HTTP: {
                "@type": _TYPE + _HTTP,
                "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
            }
        },
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _address(ads: str) -> tuple[str, dict[str, Any]]:
    if ads.startswith("unix:"):
        path = ads.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"the socket path in {ads!r} must be absolute, like unix:/run/ralb/xds.sock")
        return "STATIC", {"pipe": {"path": path}}
    host, colon, port = ads.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
        raise ValueError(f"the control plane must be unix:/path or host:port, not {ads!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"write IPv6 addresses in brackets, like [::1]:{port}, not {ads!r}")
    return "STATIC" if _is_ip(host) else "STRICT_DNS", {"socket_address": {"address": host, "port_value": int(port)}}


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _overload(max_connections: int, max_heap_bytes: int) -> dict[str, Any]:
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    heap_type = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig"
    connections_type = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    actions = (
        ("envoy.overload_actions.shrink_heap", 0.90),
        ("envoy.overload_actions.disable_http_keepalive", 0.95),
        ("envoy.overload_actions.stop_accepting_requests", 0.98),
    )
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {"name": heap, "typed_config": {"@type": _TYPE + heap_type, "max_heap_size_bytes": max_heap_bytes}},
            {
                "name": connections,
                "typed_config": {
                    "@type": _TYPE + connections_type,
                    "max_active_downstream_connections": max_connections,
                },
            },
        ],
        "actions": [
            {"name": name, "triggers": [{"name": heap, "threshold": {"value": value}}]} for name, value in actions
        ],
    }
