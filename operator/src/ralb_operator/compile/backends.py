"""What each pool's backend comes to: endpoints, a host, or a provider with the key to it.

A reference that does not resolve (what it names is missing, or may not be used from here) leaves the pool in the snapshot,
marked, and its clusters without endpoints. So the pool's own problem stays its own, and no request ever leaves for a provider
without the key that was meant to go with it.

Trap: ``Backing`` holds keys. They go into Envoy's secrets and nowhere else; not into messages, nor into anything cached.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ralb_api.objects import ExternalBackend, ModelPool, ProviderSchema, ServiceBackend, TLSMode
from ralb_api.objects.backend import InferencePoolBackend
from ralb_api.problems import ObjectKey, Problem
from ralb_operator.compile.envoy.providers import Provider
from ralb_operator.compile.grants import INFERENCE_POOL, SECRET, SERVICE, Grants, SecretRef, secret_refs
from ralb_operator.compile.pools import NO_ENDPOINTS, PoolEndpoints, Selection, of_service, select
from ralb_operator.compile.result import Reason
from ralb_operator.view import EndpointSlice, InferencePool, Service, View

_MAX_KEY_BYTES = 8192
_MAX_NAMED = 10
# What is named there is not RALB's, nor are the grants that permit it.
_FOREIGN = frozenset(
    {
        "spec.backend.inferencePool",
        "spec.backend.service",
        "spec.backend.external.credentialsRef",
        "spec.backend.external.tls.caCertificateRef",
    }
)


@dataclass(frozen=True, slots=True)
class Backing:
    """What a pool's backend comes to.

    Attributes:
        endpoints: replicas seen one by one; None where something else balances.
        host: (DNS name or address, port) behind which something else balances.
        provider: the provider, when all it needs is there.
        resolved: every reference of the pool resolves.
        key: the provider's API key.
        ca: PEM certificates of the CAs to trust.
    """

    endpoints: PoolEndpoints | None = None
    host: tuple[str, int] | None = None
    provider: Provider | None = None
    resolved: bool = True
    key: bytes = field(default=b"", repr=False)
    ca: bytes = field(default=b"", repr=False)


_NOTHING = Backing(endpoints=NO_ENDPOINTS, resolved=False)


@dataclass(frozen=True, slots=True)
class Backends:
    """The backing of every pool, and what was wrong with references."""

    by_pool: Mapping[ObjectKey, Backing]
    problems: tuple[Problem, ...]


def backends(view: View, pools: Mapping[ObjectKey, ModelPool]) -> Backends:
    """Follow every pool's reference to its replicas."""
    resolver = _Resolver(view)
    found: dict[ObjectKey, Backing] = {}
    selections: dict[ObjectKey, Selection] = {}
    for key, pool in pools.items():
        backend = pool.spec.backend
        if backend.pods is not None:
            labels = backend.pods.selector.match_labels
            selections[key] = Selection(key.namespace, labels, (backend.pods.port,), own_port=True)
        elif backend.inference_pool is not None:
            target = resolver.inference_pool(key, backend.inference_pool)
            if target is None:
                found[key] = _NOTHING
            else:
                selections[key] = Selection(target.namespace, target.selector, target.ports)
        elif backend.service is not None:
            found[key] = resolver.service(key, backend.service)
        elif backend.external is not None:
            found[key] = resolver.external(key, pool, backend.external)
    for key, endpoints in select(selections, view.pods).items():
        found[key] = Backing(endpoints=endpoints)
    return Backends({key: found[key] for key in pools}, tuple(resolver.problems))


def may_be_elsewhere(problem: Problem) -> bool:
    """Whether it is only that a Secret, Service, InferencePool or ReferenceGrant is not in view; files rarely hold all."""
    return problem.field in _FOREIGN and problem.reason in (Reason.REF_NOT_FOUND, Reason.REF_NOT_PERMITTED)


class _Resolver:
    def __init__(self, view: View) -> None:
        self.problems: list[Problem] = []
        self._view = view
        self._grants = Grants(view.grants)
        self._services: dict[tuple[str, str], Service] = {(each.namespace, each.name): each for each in view.services}
        self._inference_pools = {(each.namespace, each.name): each for each in view.inference_pools}
        self._slices: dict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
        for part in view.slices:
            self._slices[part.namespace, part.service].append(part)

    def inference_pool(self, key: ObjectKey, backend: InferencePoolBackend) -> InferencePool | None:
        path = "spec.backend.inferencePool"
        namespace = backend.namespace or key.namespace
        if not self._permitted(key, path, INFERENCE_POOL, namespace, backend.name):
            return None
        target = self._inference_pools.get((namespace, backend.name))
        if target is None:
            message = f"there is no InferencePool {namespace}/{backend.name}"
            self._add(key, path, Reason.REF_NOT_FOUND, message, "create it, or name another")
        return target

    def service(self, key: ObjectKey, backend: ServiceBackend) -> Backing:
        if backend.name is None:
            return Backing(host=(backend.host or "", backend.port))
        path = "spec.backend.service"
        namespace = backend.namespace or key.namespace
        if not self._permitted(key, path, SERVICE, namespace, backend.name):
            return _NOTHING
        service = self._services.get((namespace, backend.name))
        if service is None:
            message = f"there is no Service {namespace}/{backend.name}"
            self._add(key, path, Reason.REF_NOT_FOUND, message, "create it, or name another")
            return _NOTHING
        if service.external_name:
            return Backing(host=(service.external_name, backend.port))
        name = next((name for name, number in service.ports if number == backend.port), None)
        if name is None:
            message = f"Service {namespace}/{backend.name} has no port {backend.port}"
            numbers = sorted({number for _, number in service.ports})[:_MAX_NAMED]
            hint = f"it has: {', '.join(map(str, numbers)) or 'none'}"
            self._add(key, f"{path}.port", Reason.REF_NOT_FOUND, message, hint)
            return _NOTHING
        return Backing(endpoints=of_service(self._slices.get((namespace, backend.name), ()), name))

    def external(self, key: ObjectKey, pool: ModelPool, backend: ExternalBackend) -> Backing:
        values = {ref.path: self._secret(key, ref) for ref in secret_refs(pool)}
        if None in values.values():
            return _NOTHING
        tls, credentials, ca = backend.tls, b"", b""
        for path, value in values.items():
            if path.endswith("credentialsRef"):
                credentials = value or b""
            else:
                ca = value or b""
        anthropic = backend.api is ProviderSchema.ANTHROPIC
        provider = Provider(
            pool=key.id,
            host=backend.host,
            port=backend.port,
            anthropic=anthropic,
            tls=tls.mode is not TLSMode.DISABLED,
            verify=tls.mode is TLSMode.VERIFY,
            server_name=tls.hostname or backend.host,
            own_ca=bool(ca),
            credentials=bool(credentials),
            path_prefix=(backend.path_prefix or "").rstrip("/"),
        )
        return Backing(provider=provider, key=credentials, ca=ca)

    def _secret(self, key: ObjectKey, ref: SecretRef) -> bytes | None:
        """What a reference to a Secret's key gives, fit for its use; None after noting why there is nothing."""
        if not self._permitted(key, ref.path, SECRET, ref.namespace, ref.name):
            return None
        what = f"Secret {ref.namespace}/{ref.name}"
        secret = self._view.secrets.get((ref.namespace, ref.name))
        if secret is None:
            why = self._view.unreadable_secrets.get((ref.namespace, ref.name))
            if why is None:
                hint = (
                    f"create it: kubectl -n {ref.namespace} create secret generic {ref.name} --from-file={ref.key}=FILE"
                )
                self._add(key, ref.path, Reason.REF_NOT_FOUND, f"there is no {what}", hint)
            else:
                hint = (
                    f"allow it with the chart's value credentials.secrets: [{{namespace: {ref.namespace}, "
                    f"names: [{ref.name}]}}], or a Role that lets the operator list and watch it"
                )
                self._add(key, ref.path, Reason.REF_NOT_PERMITTED, f"the operator may not read {what}: {why}", hint)
            return None
        value = secret.data.get(ref.key)
        if value is None:
            # Names of keys are no secret: they are what `kubectl describe` shows.
            names = ", ".join(sorted(secret.data)[:_MAX_NAMED]) or "none"
            message = f"{what} has no key {ref.key}"
            self._add(key, ref.path, Reason.SECRET_KEY_NOT_FOUND, message, f"add it, or name another; it has: {names}")
            return None
        fit, flaw = _api_key(value) if ref.path.endswith("credentialsRef") else _certificates(value)
        if flaw:
            self._add(
                key, ref.path, Reason.SECRET_KEY_INVALID, f"key {ref.key} of {what} {flaw}", "replace its content"
            )
            return None
        return fit

    def _permitted(self, key: ObjectKey, path: str, kind: tuple[str, str], namespace: str, name: str) -> bool:
        if self._grants.allow(key.namespace, kind, namespace, name):
            return True
        message = f"ModelPools of namespace {key.namespace} may not refer to {kind[1]} {namespace}/{name}"
        hint = f"allow it with a ReferenceGrant in namespace {namespace}, or use one of namespace {key.namespace}"
        self._add(key, path, Reason.REF_NOT_PERMITTED, message, hint)
        return False

    def _add(self, key: ObjectKey, path: str, reason: Reason, message: str, hint: str) -> None:
        self.problems.append(Problem(key, path, reason, message, hint, self._view.sources.get(key, "")))


def _api_key(value: bytes) -> tuple[bytes, str]:
    """(the key, ""), or what is wrong with it. Line ends around it are not part of it: many tools add one."""
    key = value.strip()
    if not key:
        return b"", "is empty"
    if len(key) > _MAX_KEY_BYTES:
        return b"", f"is longer than {_MAX_KEY_BYTES} bytes"
    if not all(0x20 < byte < 0x7F for byte in key):
        return b"", "has characters that no API key has, such as spaces or line ends"
    return key, ""


@lru_cache(maxsize=64)
def _certificates(value: bytes) -> tuple[bytes, str]:
    """(the certificates and nothing else, ""), or what is wrong. A key put beside them would show in Envoy's config dump."""
    try:
        found = x509.load_pem_x509_certificates(value)
        return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in dict.fromkeys(found)), ""
    except Exception:  # the parser has exceptions of its own beside ValueError, such as InvalidVersion
        return b"", "is not a list of PEM certificates"
