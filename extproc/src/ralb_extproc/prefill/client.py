"""One POST to a prefill pod. Pods are not trusted: the answer's size is bounded, redirects and compression are not followed.

No credentials go along: the processor is not shown any. ``x-request-id`` does, so that both legs can be found in the pods' logs.
"""

from typing import Final

import aiohttp

from ralb_api.headers import REQUEST_ID
from ralb_extproc.prefill.body import MAX_ANSWER
from ralb_extproc.types import HandoffReason

_CONNECT_S: Final = 1.0
_KEEP_S: Final = 30.0


class LegError(Exception):
    """A leg failed.

    Attributes:
        reason: how.
        blame: the pod is at fault, as opposed to the request.
    """

    def __init__(self, reason: HandoffReason, *, blame: bool = True) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.blame = blame


class PrefillClient:
    """Connections to prefill pods, kept alive and made as they are needed; how many at once is its user's matter."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def post(self, endpoint: str, path: str, body: bytes, request_id: str, limit: float) -> bytes:
        """Send a request and return the body of a 200 answer.

        Args:
            endpoint: ``ip:port``.
            path: of the API.
            body: JSON.
            request_id: "" for none.
            limit: seconds it may take in all.

        Raises:
            LegError: anything else.
        """
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_S, use_dns_cache=False)
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if request_id:
            headers[REQUEST_ID] = request_id
        timeout = aiohttp.ClientTimeout(total=limit, sock_connect=min(_CONNECT_S, limit))
        try:
            async with self._session.post(
                f"http://{endpoint}{path}", data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    # What the pod says is wrong with the request it would say of any; the decode pod will tell the client.
                    raise LegError(HandoffReason.STATUS, blame=answer.status >= 500)
                return await _read(answer)
        except aiohttp.ConnectionTimeoutError:
            raise LegError(HandoffReason.CONNECT) from None
        except TimeoutError:
            raise LegError(HandoffReason.TIMEOUT) from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise LegError(HandoffReason.CONNECT) from None

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for part in answer.content.iter_any():
        data += part
        if len(data) > MAX_ANSWER:
            raise LegError(HandoffReason.ANSWER)
    return bytes(data)
