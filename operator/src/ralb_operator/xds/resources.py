"""What Envoy should have: serialized resources by type and name, each under the hash of its content.

The version being a content hash, a resource that did not change keeps its version across processes and restarts, and
Envoy is not sent it again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import xxhash

_PREFIX: Final = "type.googleapis.com/"
CLUSTER: Final = _PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER: Final = _PREFIX + "envoy.config.listener.v3.Listener"
ROUTES: Final = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET: Final = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"

# The order in which Envoy must learn of new things; removals go the other way round.
ORDER: Final = (SECRET, CLUSTER, ENDPOINTS, LISTENER, ROUTES)


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource: ``body`` is the serialized message of type ``type_url``. It may be a secret, so no ``repr`` has it."""

    type_url: str
    name: str
    body: bytes = field(repr=False)
    version: str

    @classmethod
    def of(cls, type_url: str, name: str, body: bytes) -> "Resource":
        """The resource under its content hash (xxh3, 128 bit, hex)."""
        return cls(type_url, name, body, xxhash.xxh3_128_hexdigest(body))


@dataclass(frozen=True, slots=True)
class Resources:
    """All resources, by type URL and name. Immutable; ``version`` is the hash over everything."""

    by_type: Mapping[str, Mapping[str, Resource]]
    version: str

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> "Resources":
        """Group by type. A name must be unique within its type."""
        by_type: dict[str, dict[str, Resource]] = {type_url: {} for type_url in ORDER}
        for resource in resources:
            named = by_type.setdefault(resource.type_url, {})
            if resource.name in named:
                raise ValueError(f"two resources of type {resource.type_url} are called {resource.name}")
            named[resource.name] = resource
        digest = xxhash.xxh3_128()
        for type_url in sorted(by_type):
            for name in sorted(by_type[type_url]):
                digest.update(f"{type_url}\n{name}\n{by_type[type_url][name].version}\n".encode())
        return cls(by_type, digest.hexdigest())

    def get(self, type_url: str) -> Mapping[str, Resource]:
        """Resources of one type by name; empty when there are none."""
        return self.by_type.get(type_url, {})
