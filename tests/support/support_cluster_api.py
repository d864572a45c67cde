"""Requests to the test API server as its administrator, without a Kubernetes client, and what its audit log says."""

import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# One request each to /api and /apis answers with every resource there is.
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
_BACKGROUND = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "propagationPolicy": "Background"}
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class ApiProblem(Exception):
    """An answer of 400 and above.

    Attributes:
        status: HTTP code.
        body: the Status object, or {}.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        try:
            self.body: dict[str, Any] = json.loads(text)
        except ValueError:
            self.body = {}
        super().__init__(f"{status}: {self.body.get('message', text)}")


class ClusterApi:
    """A blocking client with one kept connection; any thread may use it."""

    def __init__(self, url: str, ca_file: Path, token: str) -> None:
        split = urlsplit(url)
        self._host, self._port = split.hostname or "", split.port or 443
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._token = token
        self._lock = threading.Lock()
        self._connection: http.client.HTTPSConnection | None = None

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Any:
        """The JSON answer.

        Raises:
            ApiProblem: the server says no.
            OSError: it cannot be reached.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self._token}", "accept": accept, "content-type": content_type}
        with self._lock:
            status, text = self._send(method, path, data, headers)
        if status >= 400:
            raise ApiProblem(status, text)
        return json.loads(text) if text.startswith(("{", "[")) else text

    def close(self) -> None:
        """Close the connection; a next request opens one again."""
        with self._lock:
            self._drop()

    def apply(self, path: str, manifest: dict[str, Any], *, manager: str = "tests", force: bool = True) -> Any:
        """Server-side apply of an object at its path."""
        options = f"?fieldManager={manager}&force={str(force).lower()}"
        return self.request("PATCH", path + options, manifest, content_type=APPLY)

    def exists(self, path: str) -> bool:
        """Whether there is an object at this path."""
        try:
            self.request("GET", path)
        except ApiProblem as problem:
            if problem.status == 404:
                return False
            raise
        return True

    def create_namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        """Create a namespace, with labels such as ``pod-security.kubernetes.io/enforce: restricted``."""
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels or {}}})

    def delete_namespace(self, name: str) -> None:
        """Remove a namespace and all that is in it at once, also where no controller manager would do it."""
        path = f"/api/v1/namespaces/{name}"
        try:
            self.request("DELETE", path, _BACKGROUND)
            for prefix, resource in self.namespaced("deletecollection"):
                try:
                    self.request("DELETE", f"{prefix}/namespaces/{name}/{resource}", _BACKGROUND)
                except ApiProblem as problem:
                    if problem.status not in (404, 405):
                        raise
            current = self.request("GET", path)
            current["spec"]["finalizers"] = []
            self.request("PUT", path + "/finalize", current)
        except ApiProblem as problem:
            if problem.status not in (404, 409):  # a controller manager was quicker
                raise

    def namespaced(self, verb: str) -> Iterator[tuple[str, str]]:
        """All namespaced resources with this verb: API prefix (``/apis/apps/v1``) and plural name, each once."""
        for root in ("/api", "/apis"):
            for group in self.request("GET", root, accept=_DISCOVERY)["items"]:
                name = group["metadata"].get("name", "")
                if name == "events.k8s.io":  # the core group's events again
                    continue
                version = group["versions"][0]
                prefix = f"/apis/{name}/{version['version']}" if name else f"/api/{version['version']}"
                for resource in version.get("resources", ()):
                    if resource["scope"] == "Namespaced" and verb in resource["verbs"]:
                        yield prefix, resource["resource"]

    def _send(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, str]:
        fresh = self._connection is None
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self._host, self._port, timeout=30, context=self._tls)
        try:
            self._connection.request(method, path, data, headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            self._drop()
            if fresh:
                raise
        # The kept connection was closed by the server, for one because it was restarted.
        return self._send(method, path, data, headers)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One finished request (or one begun watch): who did what to what, and the answer's code.

    Attributes:
        user: ``admin``, or ``system:serviceaccount:<namespace>:<name>``.
        verb: get, list, watch, create, update, patch, delete or deletecollection.
        resource: plural, with the subresource: ``modelpools/status``.
        version: resource version after it, for statuses of our kinds; a write that changes nothing leaves it as it was.
    """

    user: str
    agent: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    code: int
    version: str = ""

    @property
    def write(self) -> bool:
        """Whether it was meant to change something."""
        return self.verb in _WRITES


class AuditLog:
    """What the API server was asked: all writes, and the reads of everybody but the administrator.

    An entry is written when its answer is, so a reader that has the answer may be a moment ahead: wait for what is expected.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def mark(self) -> int:
        """The place up to which it is written, for ``entries(since)``."""
        return self.file.stat().st_size if self.file.exists() else 0

    def entries(self, since: int = 0) -> list[AuditEntry]:
        """Complete entries after a mark."""
        if not self.file.exists():
            return []
        with self.file.open("rb") as file:
            file.seek(since)
            lines = file.read().split(b"\n")[:-1]
        return [_entry(json.loads(line)) for line in lines]

    def writes(self, since: int = 0, *, user: str = "", resource: str = "") -> list[AuditEntry]:
        """Writes after a mark, of a user (all), of a resource such as ``modelpools/status`` (all)."""
        return [
            entry
            for entry in self.entries(since)
            if entry.write and user in ("", entry.user) and resource in ("", entry.resource)
        ]


def _entry(raw: dict[str, Any]) -> AuditEntry:
    target = raw.get("objectRef", {})
    subresource = target.get("subresource", "")
    return AuditEntry(
        user=raw["user"].get("username", ""),
        agent=raw.get("userAgent", ""),
        verb=raw["verb"],
        group=target.get("apiGroup", ""),
        resource=target.get("resource", "") + ("/" + subresource if subresource else ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=raw.get("responseStatus", {}).get("code", 0),
        version=raw.get("responseObject", {}).get("metadata", {}).get("resourceVersion", ""),
    )
