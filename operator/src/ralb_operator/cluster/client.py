"""A small client of the Kubernetes API: JSON requests and watch streams, on the event loop.

What objects mean may not enter. The trap: aiohttp's exceptions carry request headers, and with them the token, so none of
them leaves this module; callers see ``ApiError`` only, and ``CredentialsError`` when there is nothing to log in with.
"""

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Self
from weakref import WeakSet

import aiohttp
import orjson

from ralb_operator.cluster.answers import (
    INACTIVE,
    TIMEOUT,
    UNREACHABLE,
    UNREADABLE,
    ApiError,
    event_of,
    kind_of,
    parsed,
    payload,
    refusal,
)
from ralb_operator.cluster.credentials import Credentials, CredentialsError, CredentialsSource

__all__ = ["APPLY_PATCH", "INACTIVE", "MERGE_PATCH", "UNREADABLE", "ApiClient", "ApiError"]

_LOG = logging.getLogger(__name__)

MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

MAX_RESPONSE_BYTES: Final = 128 * 1024 * 1024
# etcd takes objects up to 1.5 MiB by default; JSON and managedFields may make more of it.
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
# Lists at the same time.
_CONCURRENT: Final = 32
_TRIES: Final = 4
_MAX_RETRY_AFTER_S: Final = 10.0
_REFRESH_S: Final = 60.0
# Answers of a broken login come in crowds; one new try in this time is enough.
_RELOAD_S: Final = 5.0
# How long connections may take to say goodbye.
_CLOSE_S: Final = 1.0


class ApiClient:
    """Requests to one API server. Create and use it on one event loop; ``async with`` or ``close`` it.

    Args:
        source: where the credentials come from.
        user_agent: how the API server's audit log names us.
    """

    def __init__(self, source: CredentialsSource, user_agent: str = "ralb-operator") -> None:
        self._source = source
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._credentials: Credentials | None = None
        self._read_at = 0.0
        self._reloaded_at = -_RELOAD_S
        self._reading = asyncio.Lock()
        self._lists = asyncio.Semaphore(_CONCURRENT)
        self._sockets: WeakSet[socket.socket] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections, those of cancelled requests too, for which the HTTP client does not wait."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        deadline = time.monotonic() + _CLOSE_S
        while any(each.fileno() >= 0 for each in self._sockets) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nothing tells of it

    async def credentials(self) -> Credentials:
        """The current credentials; read again once a minute.

        Raises:
            CredentialsError: there are none, and there never were any.
        """
        if (known := self._credentials) is not None and time.monotonic() - self._read_at < _REFRESH_S:
            return known
        async with self._reading:
            now = time.monotonic()
            if self._credentials is None:
                self._credentials = await asyncio.to_thread(self._source.load)
                self._read_at = now
            elif now - self._read_at >= _REFRESH_S:
                self._read_at = now
                try:
                    self._credentials = await asyncio.to_thread(self._source.refresh)
                except CredentialsError as error:
                    _LOG.warning("%s; going on with the ones from before", error)
            return self._credentials

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 30.0,  # noqa: ASYNC109  # of the whole call, retries included
    ) -> Any:
        """One call; GETs are tried again a few times when the server asks for patience.

        Args:
            method: such as GET.
            path: such as ``/api/v1/pods``.
            params: the query.
            body: JSON-able data, or None.
            content_type: of the body.
            accept: media type of the answer; it must be JSON of some kind.
            timeout: seconds.

        Returns:
            The parsed answer; None if it was empty.

        Raises:
            ApiError: it failed.
            CredentialsError: there is nothing to log in with.
        """
        data = None if body is None else orjson.dumps(body)
        headers = {"accept": accept} | ({} if data is None else {"content-type": content_type})
        try:
            # Lists of hundreds of watches that all begin must not bury the server, nor may they hold up a Lease's renewal.
            slot = self._lists if params is not None and "limit" in params else contextlib.nullcontext()
            async with asyncio.timeout(timeout), slot:
                return await self._patiently(method, path, params, data, headers)
        except TimeoutError:
            raise ApiError(0, TIMEOUT, f"{method} {path} had no answer within {timeout:g} s") from None

    async def _patiently(
        self, method: str, path: str, params: Mapping[str, str] | None, data: bytes | None, headers: dict[str, str]
    ) -> Any:
        for left in range(_TRIES - 1, -1, -1):
            try:
                async with self._send(method, path, params, data, headers) as response:
                    data_back = await payload(response, MAX_RESPONSE_BYTES)
                return parsed(data_back)
            except ApiError as error:
                if not left or method != "GET" or error.status not in (429, 503) or error.retry_after is None:
                    raise
                await asyncio.sleep(min(error.retry_after, _MAX_RETRY_AFTER_S) * random.uniform(1.0, 1.2))
        raise AssertionError("unreachable: the last try returns or raises")

    async def watch(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        accept: str = "application/json",
        inactivity: float = 90.0,
        opened: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The events of a watch, until the server ends it.

        A last line without its end is not an event: the same resourceVersion asked for again brings it.

        Args:
            path: of the collection.
            params: the query; ``watch=1`` is added.
            accept: media type of the objects.
            inactivity: seconds without a byte after which the connection counts as dead.
            opened: called when the server has accepted the watch.

        Yields:
            Dicts with ``type`` and ``object`` (a dict).

        Raises:
            ApiError: the watch was refused, broke or got stuck, or the server sent an ERROR event (its status and reason).
            CredentialsError: there is nothing to log in with.
        """
        async with self._send(
            "GET", path, {**params, "watch": "1"}, None, {"accept": accept}, read_timeout=inactivity
        ) as response:
            opened()
            buffer = bytearray()
            scanned = 0
            try:
                async for chunk in response.content.iter_any():
                    buffer += chunk
                    while (end := buffer.find(b"\n", scanned)) >= 0:
                        line = bytes(buffer[:end])
                        del buffer[: end + 1]
                        scanned = 0
                        if line.strip():
                            yield event_of(line)
                    scanned = len(buffer)
                    if scanned > MAX_LINE_BYTES:
                        raise ApiError(0, UNREADABLE, f"an event of {path} is larger than {MAX_LINE_BYTES} bytes")
            except TimeoutError:
                raise ApiError(0, INACTIVE, f"nothing came from the watch of {path} in {inactivity:g} s") from None
            except (aiohttp.ClientError, OSError) as error:
                raise ApiError(0, UNREACHABLE, f"the watch of {path} broke: {kind_of(error)}") from None

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        data: bytes | None,
        headers: dict[str, str],
        read_timeout: float | None = None,
    ) -> "_Call":
        return _Call(self, method, path, params, data, headers, read_timeout)

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        made = _socket(address)
        self._sockets.add(made)
        return made

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No limit here: lists are bounded (``_lists``), and watches and writes by those who start them.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, socket_factory=self._socket)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"user-agent": self._user_agent},
                # Watch lines arrive in chunks of any size; this is only the read-ahead.
                read_bufsize=256 * 1024,
            )
        return self._session

    async def _reload(self, refused: Credentials) -> bool:
        """Read the credentials anew; whether there are other ones than the refused."""
        async with self._reading:
            if self._credentials is not refused:
                return True
            now = time.monotonic()
            if now - self._reloaded_at < _RELOAD_S:
                return False
            self._reloaded_at = now
            try:
                fresh = await asyncio.to_thread(self._source.load)
            except CredentialsError as error:
                _LOG.warning("%s", error)
                return False
            self._credentials = fresh
            self._read_at = now
            return True


class _Call:
    """One request as a context manager: the response with a good status inside, ``ApiError`` for everything else."""

    def __init__(
        self,
        client: ApiClient,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        data: bytes | None,
        headers: dict[str, str],
        read_timeout: float | None,
    ) -> None:
        self._client = client
        self._method, self._path, self._params, self._data, self._headers = method, path, params, data, headers
        self._timeout = aiohttp.ClientTimeout(total=None, connect=10.0, sock_read=read_timeout)
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        credentials = await self._client.credentials()
        response = await self._once(credentials)
        if response is None or response.status == 401:
            # A token or a CA that was rotated under us; an API server refuses without having done anything.
            if response is not None:
                response.close()
            if await self._client._reload(credentials):
                response = await self._once(await self._client.credentials())
            elif response is not None:
                raise ApiError(401, "Unauthorized", "the API server does not accept our credentials")
        if response is None:
            raise ApiError(0, UNREACHABLE, f"the certificate of {credentials.server} is not to be trusted")
        if response.status >= 300:
            try:
                raise await refusal(response, self._method, self._path)
            finally:
                response.close()
        self._response = response
        return response

    async def __aexit__(self, *_: object) -> None:
        response = self._response
        if response is None:
            return
        if response.content.at_eof():
            response.release()
            return
        # The end of a watch. TLS would wait for the other side's goodbye, and that side may be gone.
        connection = response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        response.close()

    async def _once(self, credentials: Credentials) -> aiohttp.ClientResponse | None:
        """The response, whatever its status; None if the server's certificate is not trusted."""
        headers = dict(self._headers)
        if credentials.authorization:
            headers["authorization"] = credentials.authorization
        try:
            return await self._client._open().request(
                self._method,
                credentials.server + self._path,
                params=self._params,
                data=self._data,
                headers=headers,
                ssl=credentials.tls if credentials.tls is not None else True,
                server_hostname=credentials.server_name or None,
                proxy=credentials.proxy or None,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError):
            return None
        except TimeoutError:
            message = f"{credentials.server} does not answer"
            raise ApiError(0, TIMEOUT, message) from None
        except (aiohttp.ClientError, OSError) as error:
            message = f"{credentials.server} cannot be reached: {kind_of(error)}"
            raise ApiError(0, UNREACHABLE, message) from None


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A TCP socket that finds out in half a minute that the other end is gone, also where nothing is sent."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
