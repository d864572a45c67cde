"""The certificates of an installation as Secrets: made and replaced as ``rotation`` plans it, by whichever replica comes first.

When to do what may not enter. Every write names the version it was planned from, so of replicas that write at once one is
refused, reads again, and finds the work done. Secrets that others made are not touched. Keys are in no message: what the API
server answers to a write is only told if it is an error of its own.

Trap: leaves are read before the authority. The other way round, a leaf that a newer authority signed would look foreign, and be
replaced by one of an authority that is no more.
"""

import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ralb_operator.certs import service_names
from ralb_operator.cluster.client import ApiClient, ApiError
from ralb_operator.rotation import LEAVES, Lifetimes, Names, Part, Stored, next_ends, plan

_LOG = logging.getLogger(__name__)

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
OWNER: Final = "ralb-operator"
TRUSTS_SINCE: Final = "ralb.dev/trusts-since"
_TYPE: Final = "kubernetes.io/tls"
_TRIES: Final = 12
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class CertificatesError(Exception):
    """The certificates cannot be brought in order; the message says what to do."""


def secret_name(release: str, part: Part) -> str:
    """Name of the Secret of a part, for the prefix of all names of an installation."""
    return f"{release}-{part}"


def names_of(release: str, namespace: str, cluster_domain: str = "cluster.local") -> Names:
    """The names in the certificates of an installation."""
    return Names(
        f"RALB {namespace}/{release}",
        service_names(f"{release}-operator", namespace, cluster_domain),
        service_names(f"{release}-gateway", namespace, cluster_domain),
    )


class Certificates:
    """The three Secrets.

    Args:
        client: how to reach the server.
        release: prefix of the names of all objects of the installation.
        namespace: the operator's own.
        names: what to make certificates for.
        lifetimes: how long they are valid.
        clock: now, aware.

    Attributes:
        ends: when each certificate ends, as last seen.
        written: Secrets written so far.
    """

    def __init__(
        self,
        client: ApiClient,
        release: str,
        namespace: str,
        names: Names,
        lifetimes: Lifetimes | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.ends: Mapping[Part, datetime] = {}
        self.written = 0
        self._client = client
        self._release = release
        self._namespace = namespace
        self._names = names
        self._lifetimes = lifetimes or Lifetimes()
        self._clock = clock

    async def ensure(self) -> None:
        """Bring all in order; any replica may do it, at any time.

        Raises:
            ApiError: the API server refused, or was not reached.
            CredentialsError: there is nothing to log in with.
            CertificatesError: a Secret is somebody else's, or others keep on changing them.
        """
        for _ in range(_TRIES):
            found = {part: await self._read(part) for part in (*LEAVES, Part.AUTHORITY)}
            stored = {part: _stored(secret) for part, secret in found.items() if secret is not None}
            self.ends = next_ends(stored)
            writes = plan(stored, self._names, self._lifetimes, self._clock())
            if not writes:
                return
            for part, each in writes.items():
                if not await self._write(part, found[part], each):
                    break
        raise CertificatesError(
            f"the Secrets {self._release}-* in namespace {self._namespace} keep changing while they are brought in order; "
            f"does somebody else write them?"
        )

    def _path(self, part: Part | None = None) -> str:
        collection = f"/api/v1/namespaces/{self._namespace}/secrets"
        return collection if part is None else f"{collection}/{secret_name(self._release, part)}"

    async def _read(self, part: Part) -> dict[str, Any] | None:
        try:
            secret = await self._client.request("GET", self._path(part))
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        if not isinstance(secret, dict):
            raise CertificatesError(f"{self._path(part)} is not a Secret")
        if _metadata(secret, "labels").get(MANAGED_BY) != OWNER:
            raise CertificatesError(
                f"Secret {secret_name(self._release, part)} in namespace {self._namespace} was not made by the operator "
                f"(its label {MANAGED_BY} is not {OWNER}); delete it, or say with --tls where certificates come from"
            )
        return secret

    async def _write(self, part: Part, old: Mapping[str, Any] | None, stored: Stored) -> bool:
        """Whether it was written; not if somebody else was faster."""
        secret = _secret(secret_name(self._release, part), self._namespace, old, stored)
        try:
            if old is None:
                await self._client.request("POST", self._path(), body=secret)
            else:
                await self._client.request("PUT", self._path(part), body=secret)
        except ApiError as error:
            if error.status == _CONFLICT or (error.status == _NOT_FOUND and old is not None):
                return False
            raise
        self.written += 1
        _LOG.info("wrote Secret %s in namespace %s", secret_name(self._release, part), self._namespace)
        return True


def _secret(name: str, namespace: str, old: Mapping[str, Any] | None, stored: Stored) -> dict[str, Any]:
    old_metadata = old.get("metadata") if old else None
    # With the version that was read: the server refuses the write if there is a newer one.
    metadata: dict[str, Any] = dict(old_metadata) if isinstance(old_metadata, Mapping) else {}
    metadata.pop("managedFields", None)
    metadata |= {"name": name, "namespace": namespace}
    labels = _metadata({"metadata": metadata}, "labels")
    metadata["labels"] = {**labels, MANAGED_BY: OWNER, "app.kubernetes.io/part-of": "ralb"}
    if stored.trusts_since is not None:
        annotations = _metadata({"metadata": metadata}, "annotations")
        metadata["annotations"] = {**annotations, TRUSTS_SINCE: stored.trusts_since.isoformat()}
    data = {key: base64.b64encode(value).decode() for key, value in stored.data.items()}
    # The type of a Secret cannot be changed.
    kind = str(old.get("type") or _TYPE) if old else _TYPE
    return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": data}


def _stored(secret: Mapping[str, Any]) -> Stored:
    """What a Secret holds; what is not as we write it is left out, and so written anew."""
    since: datetime | None
    try:
        since = datetime.fromisoformat(str(_metadata(secret, "annotations").get(TRUSTS_SINCE)))
        since = since if since.tzinfo is not None else None
    except ValueError:
        since = None
    return Stored(decoded(secret), since)


def decoded(secret: Mapping[str, Any]) -> dict[str, bytes]:
    """The data of a Secret from the API; entries that are not base64 are left out."""
    data = secret.get("data")
    found = {}
    for key, text in data.items() if isinstance(data, Mapping) else ():
        try:
            found[str(key)] = base64.b64decode(text, validate=True)
        except (TypeError, ValueError, binascii.Error):
            continue
    return found


def _metadata(secret: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    metadata = secret.get("metadata")
    value = metadata.get(key) if isinstance(metadata, Mapping) else None
    return value if isinstance(value, Mapping) else {}
