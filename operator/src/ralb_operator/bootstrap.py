"""The start configuration of Envoy: where the control plane is, and the limits no later config can forget.

Nothing about routing may enter: listeners, routes and clusters of traffic come from discovery. The result is plain data.

Traps: write it with ``json.dumps`` into a ``.json`` file. PyYAML leaves strings like ``n`` and ``y`` unquoted, and Envoy's YAML
reads them as booleans. Envoy reads certificates anew only where discovery of secrets names the files, so TLS needs two files more
(``sds_files``).
"""

import ipaddress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from ralb_api.tls import CA_FILE, CERT_FILE, KEY_FILE

XDS_CLUSTER: Final = "ralb-xds"
# Forwards what probes and Prometheus may ask of the admin interface, and nothing else.
PROBES: Final = "ralb-probes"
_TYPE: Final = "type.googleapis.com/"
_INTERNAL: Final = "envoy.bootstrap.internal_listener"
_INTERNAL_TYPE: Final = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
_HTTP: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ADMIN: Final = "ralb-admin"
_SHOWN: Final = ("/ready", "/stats/prometheus")
_SECRET: Final = _TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret"
_CERT_SDS: Final = "sds-certificate.json"
_CA_SDS: Final = "sds-authorities.json"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Envoy's end of mutual TLS with the control plane.

    Attributes:
        server_name: DNS name that the control plane's certificate must hold; it is sent as SNI too.
        folder: holds ``tls.crt``, ``tls.key`` and ``ca.crt``, like a mounted Secret; Envoy follows its changes.
        sds_folder: where the ``sds_files`` will be. Must not be ``folder``, which is read-only when mounted.
    """

    server_name: str
    folder: PurePath
    sds_folder: PurePath


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
    tls: ClientTls | None = None,
    probe_address: str = "0.0.0.0",
    probe_port: int = 0,
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
        tls: speak TLS with the control plane; None = in clear.
        probe_address: where ``GET /ready`` and ``GET /stats/prometheus`` of the admin interface, and nothing else of it, can be
            asked from outside.
        probe_port: its port; 0 = nowhere. Needs an ``admin_port`` other than 0.

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
    if tls is not None:
        _check(tls)
    static: dict[str, Any] = {"clusters": [_xds_cluster(ads, tls)]}
    if probe_port:
        if not _is_ip(probe_address) or not 0 < probe_port <= 65535:
            raise ValueError(
                f"probe_address must be an IP address and probe_port 0 to 65535, not {probe_address!r}, {probe_port}"
            )
        if not admin_port or admin_port == probe_port:
            raise ValueError("probe_port needs a fixed admin_port, and another one than itself")
        static["clusters"].append(_cluster(_ADMIN, "STATIC", _socket(admin_address, admin_port)))
        static["listeners"] = [_probes(probe_address, probe_port)]
    by_ads = {"ads": {}, "resource_api_version": "V3"}
    retry = {"retry_back_off": {"base_interval": "0.25s", "max_interval": f"{reconnect_max_s:g}s"}}
    return {
        "node": {"id": node_id, "cluster": cluster},
        "admin": {"address": _socket(admin_address, admin_port)},
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
        "static_resources": static,
        # The admin layer comes last, so that what an operator sets at run time wins.
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {}}, {"name": "admin", "admin_layer": {}}],
        },
        # Providers are reached through internal listeners.
        "bootstrap_extensions": [{"name": _INTERNAL, "typed_config": {"@type": _TYPE + _INTERNAL_TYPE}}],
        "overload_manager": _overload(max_connections, max_heap_bytes),
    }


def sds_files(tls: ClientTls) -> dict[str, dict[str, Any]]:
    """Name -> content, as JSON, of the files that must be in ``tls.sds_folder`` before Envoy starts.

    They hold names of files only; certificates and keys stay where they are.
    """

    def source(name: str) -> dict[str, str]:
        return {"filename": str(tls.folder / name)}

    # Kubernetes swaps a symlink in the folder, which changes no file in it: the folder itself is to be watched.
    watched = {"watched_directory": {"path": str(tls.folder)}}
    certificate = {"certificate_chain": source(CERT_FILE), "private_key": source(KEY_FILE), **watched}
    authorities = {
        "trusted_ca": source(CA_FILE),
        **watched,
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": tls.server_name}}],
    }
    return {
        _CERT_SDS: {"resources": [{"@type": _SECRET, "name": "certificate", "tls_certificate": certificate}]},
        _CA_SDS: {"resources": [{"@type": _SECRET, "name": "authorities", "validation_context": authorities}]},
    }


def _check(tls: ClientTls) -> None:
    if not tls.server_name or _is_ip(tls.server_name):
        raise ValueError(f"the name in the control plane's certificate must be a DNS name, not {tls.server_name!r}")
    for folder in (tls.folder, tls.sds_folder):
        if not folder.is_absolute():
            raise ValueError(f"the folder {str(folder)!r} must be an absolute path")
    if tls.folder == tls.sds_folder:
        raise ValueError(
            "the folder of the certificates cannot take Envoy's files about them; choose another for those"
        )


def _xds_cluster(ads: str, tls: ClientTls | None) -> dict[str, Any]:
    kind, address = _address(ads)
    keepalive = {"interval": "10s", "timeout": "5s"}
    http = {
        "@type": _TYPE + _HTTP,
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
    }
    cluster = {
        **_cluster(XDS_CLUSTER, kind, address),
        "typed_extension_protocol_options": {_HTTP: http},
    }
    if tls is not None:
        cluster["transport_socket"] = _tls_socket(tls)
    return cluster


def _tls_socket(tls: ClientTls) -> dict[str, Any]:
    def by_file(secret: str, name: str) -> dict[str, Any]:
        path = {"path": str(tls.sds_folder / name)}
        return {"name": secret, "sds_config": {"path_config_source": path, "resource_api_version": "V3"}}

    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": tls.server_name,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificate_sds_secret_configs": [by_file("certificate", _CERT_SDS)],
                "validation_context_sds_secret_config": by_file("authorities", _CA_SDS),
            },
        },
    }


def _cluster(name: str, kind: str, address: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _probes(address: str, port: int) -> dict[str, Any]:
    def exactly(name: str, value: str) -> dict[str, Any]:
        return {"name": name, "string_match": {"exact": value}}

    # The pseudo header has the query too, so that none can be added (``/stats`` takes regular expressions there).
    routes = [
        {
            "match": {"path": path, "headers": [exactly(":method", "GET"), exactly(":path", path)]},
            "route": {"cluster": _ADMIN, "timeout": "5s"},
        }
        for path in _SHOWN
    ]
    manager = {
        "@type": _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "probes",
        "route_config": {"name": PROBES, "virtual_hosts": [{"name": PROBES, "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _TYPE + "envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
        "common_http_protocol_options": {"idle_timeout": "60s"},
        "request_timeout": "5s",
        "request_headers_timeout": "5s",
        "use_remote_address": True,
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "name": PROBES,
        "address": _socket(address, port),
        "per_connection_buffer_limit_bytes": 64 * 1024,
        "filter_chains": [chain],
    }


def _socket(host: str, port: int) -> dict[str, Any]:
    # Without the last one, "::" would mean IPv6 alone.
    compat = {"ipv4_compat": True} if host == "::" else {}
    return {"socket_address": {"address": host, "port_value": port, **compat}}


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
    return "STATIC" if _is_ip(host) else "STRICT_DNS", _socket(host, int(port))


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
