"""References across namespaces, and which Secrets pools refer to.

A pool may refer to what is in its own namespace. Anything elsewhere must be opened to it by a ReferenceGrant in the target's
namespace; when the grant goes, so does the permission.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ralb_api import GROUP
from ralb_api.objects import ModelPool
from ralb_operator.view import Grant

SERVICE = ("", "Service")
SECRET = ("", "Secret")
INFERENCE_POOL = ("inference.networking.k8s.io", "InferencePool")

_SOURCE = (GROUP, "ModelPool")


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A pool's reference to one key of a Secret; ``path`` is the field that says so."""

    path: str
    namespace: str
    name: str
    key: str


class Grants:
    """Who may refer to what, by look-up."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        # (namespace of the pools, (group, kind), namespace of the target, its name or "" for all)
        self._allowed: set[tuple[str, tuple[str, str], str, str]] = set()
        for grant in grants:
            for source_group, source_kind, source_namespace in grant.sources:
                if (source_group, source_kind) == _SOURCE:
                    for group, kind, name in grant.targets:
                        self._allowed.add((source_namespace, (group, kind), grant.namespace, name))

    def allow(self, source: str, kind: tuple[str, str], namespace: str, name: str) -> bool:
        """Whether pools of namespace ``source`` may refer to an object.

        Args:
            source: the pool's namespace.
            kind: (API group, kind) of the target.
            namespace: the target's.
            name: the target's.
        """
        return (
            source == namespace
            or (source, kind, namespace, name) in self._allowed
            or (source, kind, namespace, "") in self._allowed
        )


def secret_refs(pool: ModelPool) -> Iterator[SecretRef]:
    """Every reference of a pool to a Secret."""
    external = pool.spec.backend.external
    if external is None:
        return
    own = pool.metadata.namespace
    if (credentials := external.credentials_ref) is not None:
        namespace = credentials.namespace or own
        yield SecretRef("spec.backend.external.credentialsRef", namespace, credentials.name, credentials.key)
    if (ca := external.tls.ca_certificate_ref) is not None:
        yield SecretRef("spec.backend.external.tls.caCertificateRef", own, ca.name, ca.key)


def needs(pools: Iterable[ModelPool], grants: Iterable[Grant]) -> frozenset[tuple[str, str]]:
    """(namespace, name) of the Secrets that pools refer to and may refer to: those to read, and no others."""
    allowed = Grants(grants)
    return frozenset(
        (ref.namespace, ref.name)
        for pool in pools
        for ref in secret_refs(pool)
        if allowed.allow(pool.metadata.namespace, SECRET, ref.namespace, ref.name)
    )
