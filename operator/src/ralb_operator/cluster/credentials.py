"""Who we are to the API server: address, trust and token, loaded the way every Kubernetes client does it.

The ``kubernetes`` package's loaders read the service account or a kubeconfig; they block (files, helper programs) and are
slow to import, so they run in a thread and are imported when first needed. Nothing here may end up in a log: the fields
that hold secrets are in no ``repr``.
"""

import os
import ssl
import threading
from dataclasses import dataclass, field
from typing import Any, Final

_SERVICE_HOST: Final = "KUBERNETES_SERVICE_HOST"


class CredentialsError(Exception):
    """There are no usable credentials; the text says what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """One state of the credentials.

    Attributes:
        server: base URL, without a slash at the end.
        authorization: the header's value; "" without one (client certificates).
        tls: how to check the server; None for plain http.
        server_name: name to verify instead of the URL's host; "" for that host.
        proxy: URL of an HTTP proxy, or "".
        ca_file, cert_file, key_file: what ``tls`` was made from, for libraries that make their own; "" if there is none.
        insecure: the server's certificate is not checked.
    """

    server: str
    authorization: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    server_name: str = ""
    proxy: str = field(default="", repr=False)
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    insecure: bool = False


class CredentialsSource:
    """Where credentials come from. Thread-safe; all methods block.

    Args:
        kubeconfig: path of a kubeconfig; "" for the pod's service account, or outside of a pod for $KUBECONFIG or
            ~/.kube/config.
    """

    def __init__(self, kubeconfig: str = "") -> None:
        self._kubeconfig = kubeconfig
        self._lock = threading.Lock()
        self._configuration: Any = None

    def load(self) -> Credentials:
        """Read everything anew.

        Raises:
            CredentialsError: there is nothing usable.
        """
        with self._lock:
            self._configuration = self._read()
            return _credentials(self._configuration)

    def refresh(self) -> Credentials:
        """The credentials with a token that is not known to be expired; reads as little as possible.

        Raises:
            CredentialsError: they cannot be read any more.
        """
        with self._lock:
            if self._configuration is None:
                self._configuration = self._read()
            try:
                # The loaders' own hook: it reads the service account's token again once a minute, and runs credential
                # plugins when what they gave is about to expire.
                self._configuration.get_api_key_with_prefix("BearerToken")
            except Exception as error:
                raise CredentialsError(f"the credentials cannot be read again: {_reason(error)}") from None
            return _credentials(self._configuration)

    def _read(self) -> Any:
        from kubernetes import config
        from kubernetes.client import Configuration

        configuration = Configuration()
        try:
            if not self._kubeconfig and os.environ.get(_SERVICE_HOST):
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                file = self._kubeconfig or None
                config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=file, client_configuration=configuration, persist_config=False
                )
        except Exception as error:
            where = self._kubeconfig or "the pod's service account, $KUBECONFIG or ~/.kube/config"
            hint = "pass --kubeconfig, or run with a service account whose token is mounted"
            raise CredentialsError(f"no usable credentials from {where}: {_reason(error)} ({hint})") from None
        return configuration


def _reason(error: Exception) -> str:
    """What went wrong. Errors of YAML parsers quote the file, which may hold a token, so their text stays out."""
    text = "" if type(error).__module__.startswith("yaml") else str(error)
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _credentials(configuration: Any) -> Credentials:
    server = str(configuration.host).rstrip("/")
    authorization = str(configuration.api_key.get("BearerToken") or "").strip()
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        authorization = f"Bearer {rest.strip()}"
    if any(ord(ch) < 32 for ch in authorization):
        raise CredentialsError("the token has line breaks in it; it must be one line")
    return Credentials(
        server,
        authorization,
        _tls(configuration) if server.startswith("https") else None,
        str(configuration.tls_server_name or ""),
        str(configuration.proxy or ""),
        str(configuration.ssl_ca_cert or ""),
        str(configuration.cert_file or ""),
        str(configuration.key_file or ""),
        not configuration.verify_ssl,
    )


def _tls(configuration: Any) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file or None)
    except (OSError, ValueError) as error:
        raise CredentialsError(f"the CA or the client certificate cannot be used: {_reason(error)}") from None
    return context
