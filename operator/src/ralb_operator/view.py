"""Everything ``compile`` may look at, frozen: one picture of the world, from files or from a cluster.

The same View gives the same Result whatever the order things arrived in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ralb_api.objects import ModelPool, ModelTier, RoutingPolicy
from ralb_api.problems import ObjectKey, Problem


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as far as routing cares.

    Attributes:
        namespace, name, labels: as in Kubernetes.
        ip: pod address, IPv4 or IPv6 without brackets.
        ready: Ready condition true and not being deleted.
        port: overrides the pool's port (annotation ``ralb.dev/port``); 0 = the pool's.
    """

    namespace: str
    name: str
    labels: Mapping[str, str]
    ip: str
    ready: bool = True
    port: int = 0


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
    """

    address: str = "127.0.0.1"
    port: int = 8080
    processor: str = "unix:/run/ralb/extproc.sock"
    max_body_bytes: int = 16 * 1024 * 1024
    max_attempts: int = 4
    idle_timeout_s: float = 600.0
    processor_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class View:
    """One immutable picture.

    Attributes:
        pools, tiers, policies: valid objects by key.
        pods: all pods seen.
        problems: what was wrong with objects that could not be parsed (they are in none of the maps).
        sources: object -> ``file:line`` where it came from, for messages; empty for cluster objects.
        gateway: installation settings.
    """

    pools: Mapping[ObjectKey, ModelPool] = field(default_factory=dict)
    tiers: Mapping[ObjectKey, ModelTier] = field(default_factory=dict)
    policies: Mapping[ObjectKey, RoutingPolicy] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    problems: tuple[Problem, ...] = ()
    sources: Mapping[ObjectKey, str] = field(default_factory=dict)
    gateway: Gateway = field(default_factory=Gateway)
