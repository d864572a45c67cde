"""Everything ``compile`` may look at, frozen: one picture of the world, from files or from a cluster.

The same View gives the same Result whatever the order things arrived in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ralb_api.objects import ModelPool, ModelTier, Object, RoutingPolicy
from ralb_api.problems import ObjectKey, Problem


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as far as routing cares.

    Attributes:
        namespace, name, labels: as in Kubernetes.
        ip: pod address, IPv4 or IPv6 without brackets.
        ready: Ready condition true and not being deleted.
        port: overrides the pool's port (annotation ``ralb.dev/port``); 0 = the pool's.
        leaving: is being deleted; it may still be answering.
    """

    namespace: str
    name: str
    labels: Mapping[str, str]
    ip: str
    ready: bool = True
    port: int = 0
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A Service as far as routing cares.

    Attributes:
        namespace, name: as in Kubernetes.
        ports: (port name, "" if it has none; port number).
        external_name: the DNS name of a Service of type ExternalName; "" for others.
    """

    namespace: str
    name: str
    ports: tuple[tuple[str, int], ...]
    external_name: str = ""


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """One address of an EndpointSlice.

    Attributes:
        ip: IPv4 or IPv6 without brackets.
        ready: takes new work.
        pod: the pod's name, "" if the address is no pod's.
        leaving: is being deleted; it may still be answering.
    """

    ip: str
    ready: bool
    pod: str = ""
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Part of a Service's endpoints.

    Attributes:
        namespace, name: as in Kubernetes.
        service: the Service it belongs to (label ``kubernetes.io/service-name``).
        ports: (port name, number of the container's port).
        endpoints: the addresses, IPv4 or IPv6 without brackets.
    """

    namespace: str
    name: str
    service: str
    ports: tuple[tuple[str, int], ...]
    endpoints: tuple[SliceEndpoint, ...]


@dataclass(frozen=True, slots=True)
class InferencePool:
    """A Gateway API ``InferencePool`` (v1): the pods it selects, and the ports they serve on."""

    namespace: str
    name: str
    selector: Mapping[str, str]
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """A Gateway API ``ReferenceGrant``: who may refer into its namespace, and to what.

    Attributes:
        namespace, name: of the grant; its namespace is where the targets are.
        sources: (group, kind, namespace) of those who may refer.
        targets: (group, kind, name) of what they may refer to; name "" = any.
    """

    namespace: str
    name: str
    sources: tuple[tuple[str, str, str], ...]
    targets: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Secret:
    """A Secret that some object refers to. Its data is in no ``repr``, so that it is in no log either."""

    namespace: str
    name: str
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where Envoy listens and finds the processor: settings of the installation, not of any object.

    Attributes:
        address, port: the client-facing listener.
        processor: ``unix:/path`` or ``host:port`` of the processor's gRPC server (ext_proc and access log).
        max_body_bytes: larger requests get 413.
        max_attempts: tries per request, the first included.
        idle_timeout_s: a request is ended after so long without a byte either way.
        processor_timeout_s: how long one ext_proc answer may take.
        ca_file: where Envoy finds the CAs of its system (PEM), for providers whose certificates are public.
    """

    address: str = "127.0.0.1"
    port: int = 8080
    processor: str = "unix:/run/ralb/extproc.sock"
    max_body_bytes: int = 16 * 1024 * 1024
    max_attempts: int = 4
    idle_timeout_s: float = 600.0
    processor_timeout_s: float = 5.0
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class View:
    """One immutable picture.

    Attributes:
        pools, tiers, policies: valid objects by key.
        others: valid objects of kinds that this version does not act on yet.
        pods: all pods seen.
        services, slices, inference_pools, grants: what pools and references may point to.
        secrets: those of the referenced Secrets that are there, by (namespace, name).
        unreadable_secrets: (namespace, name) of referenced Secrets that may not be read -> why.
        problems: what was wrong with objects that could not be parsed (they are in none of the maps).
        sources: object -> ``file:line`` where it came from, for messages; empty for cluster objects.
        gateway: installation settings.
    """

    pools: Mapping[ObjectKey, ModelPool] = field(default_factory=dict)
    tiers: Mapping[ObjectKey, ModelTier] = field(default_factory=dict)
    policies: Mapping[ObjectKey, RoutingPolicy] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    services: tuple[Service, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    inference_pools: tuple[InferencePool, ...] = ()
    grants: tuple[Grant, ...] = ()
    secrets: Mapping[tuple[str, str], Secret] = field(default_factory=dict)
    unreadable_secrets: Mapping[tuple[str, str], str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    sources: Mapping[ObjectKey, str] = field(default_factory=dict)
    gateway: Gateway = field(default_factory=Gateway)
    others: Mapping[ObjectKey, Object] = field(default_factory=dict)
