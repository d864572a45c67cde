"""kopf itself, as small as it gets: events of our kinds, standalone, nothing written, in the calling thread's own loop."""

import asyncio
import datetime
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import kopf

from ralb_operator.cluster.credentials import CredentialsError, CredentialsSource
from ralb_operator.cluster.kinds import OURS

# Tokens of service accounts are replaced long before they expire; reading them this often is soon enough.
_LOGIN_S: Final = 300.0
_AGAIN_S: Final = 3.0
_GOODBYE_S: Final = 0.1


def run_kopf(
    source: CredentialsSource,
    namespaces: Sequence[str],
    take: Callable[[str, str, str | None, Mapping[str, Any]], None],
    stop: threading.Event,
) -> None:
    """Run until ``stop`` is set, or something is wrong that does not go away.

    Args:
        source: credentials.
        namespaces: where to watch; none = everywhere.
        take: called in this thread with kind, namespace, type and data of each event; the type is None for listed objects.
        stop: ends it.
    """
    # Each handled event is an INFO line of kopf's, and that it leaves signals alone a warning.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.networking.error_backoffs = _Endless()
    operator = kopf.operator(
        registry=_registry(source, take),
        settings=settings,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
    )
    asyncio.run(_until_closed(operator))


async def _until_closed(operator: Coroutine[Any, Any, None]) -> None:
    await operator
    # Connections it let go of say goodbye to the server; the loop that does this must not end at once.
    await asyncio.sleep(_GOODBYE_S)


class _Endless:
    """Back-off that never gives up: an API server that is away for long is no reason to end."""

    def __iter__(self) -> Any:
        yield from (0.2, 0.5, 1, 2, 3)
        while True:
            yield 5


def _registry(
    source: CredentialsSource, take: Callable[[str, str, str | None, Mapping[str, Any]], None]
) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    logged_in = -_AGAIN_S

    @kopf.on.login(registry=registry)  # type: ignore[untyped-decorator, unused-ignore]
    def login(**_: Any) -> kopf.ConnectionInfo:
        # An API server that refuses what was just read would otherwise be asked as fast as it answers.
        nonlocal logged_in
        if (wait := logged_in + _AGAIN_S - time.monotonic()) > 0:
            raise kopf.TemporaryError("the credentials were just refused", delay=wait)
        info = _login(source)
        logged_in = time.monotonic()
        return info

    for kind in OURS:

        async def tell(event: Mapping[str, Any], _name: str = kind.name, **_: Any) -> None:
            data = event["object"]
            namespace = data.get("metadata", {}).get("namespace") or ""
            take(_name, namespace, event["type"], data)

        kopf.on.event(kind.group, kind.versions[0], kind.plural, registry=registry)(tell)
    return registry


def _login(source: CredentialsSource) -> kopf.ConnectionInfo:
    try:
        credentials = source.load()
    except CredentialsError as error:
        raise kopf.TemporaryError(str(error), delay=5) from None
    if credentials.server_name:
        raise kopf.PermanentError("a kubeconfig with tls-server-name is not supported")
    scheme, _, token = credentials.authorization.partition(" ")
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_file or None,
        insecure=credentials.insecure,
        scheme=scheme or None,
        token=token or None,
        certificate_path=credentials.cert_file or None,
        private_key_path=credentials.key_file or None,
        proxy_url=credentials.proxy or None,
        expiration=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=_LOGIN_S),
    )
