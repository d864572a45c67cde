"""Endpoint assignments. These change with every pod, so they are built with xds-protos (0.01 ms each)."""

from collections.abc import Sequence

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment


def split_address(address: str) -> tuple[str, int]:
    """``ip:port`` or ``[ipv6]:port`` apart."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(ip: str, port: int) -> str:
    """``ip:port``, with brackets around IPv6."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def assignment(pool: str, addresses: Sequence[str]) -> bytes:
    """The pool's endpoints (``ip:port``, sorted by the caller), serialized."""
    message = ClusterLoadAssignment(cluster_name=pool)
    if addresses:
        endpoints = message.endpoints.add().lb_endpoints
        for address in addresses:
            host, port = split_address(address)
            socket = endpoints.add().endpoint.address.socket_address
            socket.address = host
            socket.port_value = port
    return bytes(message.SerializeToString(deterministic=True))
