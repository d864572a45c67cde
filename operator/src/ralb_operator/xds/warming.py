"""Which endpoints a cluster needs before Envoy takes it into use.

Envoy warms every new or changed cluster with endpoints that arrive after it. When it is already subscribed to them (the cluster
changed, or shares them with another), it does not ask again, and without a resend the cluster would wait until Envoy's
``initial_fetch_timeout`` (15 s) is over, all further cluster updates with it.
"""

from functools import lru_cache

from envoy.config.cluster.v3 import cluster_pb2
from google.protobuf.message import DecodeError

from ralb_operator.xds.resources import Resource


@lru_cache(maxsize=8192)
def endpoints_of(cluster: Resource) -> str | None:
    """Name of the ClusterLoadAssignment an EDS cluster subscribes to; None for other clusters and undecodable bodies."""
    try:
        message = cluster_pb2.Cluster.FromString(cluster.body)
    except DecodeError:
        return None
    if message.type != cluster_pb2.Cluster.EDS:
        return None
    return message.eds_cluster_config.service_name or message.name or None
