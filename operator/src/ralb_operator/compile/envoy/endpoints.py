"""Endpoint assignments. These change with every pod, so they are built with xds-protos (0.01 ms each)."""

from functools import lru_cache

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from ralb_operator.xds.resources import ENDPOINTS, Resource

# The endpoint of a pool that has none. Envoy does not retry a request whose cluster is empty, but it does retry one whose
# connection is refused, as this one always is: a request decided just before the last pod went finds the next pool.
NOBODY = "/dev/null"


def split_address(address: str) -> tuple[str, int]:
    """``ip:port`` or ``[ipv6]:port`` apart."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(ip: str, port: int) -> str:
    """``ip:port``, with brackets around IPv6."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


@lru_cache(maxsize=16_384)
def assignment(pool: str, addresses: tuple[str, ...]) -> Resource:
    """The pool's endpoints (``ip:port``, sorted by the caller)."""
    message = ClusterLoadAssignment(cluster_name=pool)
    endpoints = message.endpoints.add().lb_endpoints
    for address in addresses:
        host, port = split_address(address)
        socket = endpoints.add().endpoint.address.socket_address
        socket.address = host
        socket.port_value = port
    if not addresses:
        endpoints.add().endpoint.address.pipe.path = NOBODY
    return Resource.of(ENDPOINTS, pool, message.SerializeToString(deterministic=True))
