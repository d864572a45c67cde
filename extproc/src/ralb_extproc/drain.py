"""Draining Envoy before its container is stopped: new connections go elsewhere, running requests end by themselves.

The processor does this because Envoy cannot wait for itself, and its image holds no shell to do it with. The kubelet's preStop
hook asks and waits for the answer; the processor goes on serving all the while, for it is stopped after Envoy. Nothing of
routing enters.

Trap: endpoints of a Service change some time *after* a pod is told to end. An Envoy without requests in that time is not drained:
the next ones are on their way. So there is a least time, however quiet it is.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

import aiohttp
import orjson
from aiohttp import web

_LOG = logging.getLogger(__name__)
# Of the listener's HTTP connection manager (the operator's compiler gives it this prefix).
ACTIVE_STAT: Final = "http.ralb.downstream_rq_active"
# The first makes Envoy unready and has it say `connection: close` with every answer, the second refuses nobody until the drain
# time of Envoy's command line is over. `skip_exit`: ending it is the kubelet's business.
_STEPS: Final = ("/healthcheck/fail", "/drain_listeners?graceful&skip_exit")
_MAX_ANSWER: Final = 64 * 1024
_CALL_S: Final = 5.0


class Result(StrEnum):
    """How a drain ended."""

    DRAINED = "drained"  # nothing was running any more
    TIMEOUT = "timeout"  # something still was
    GONE = "gone"  # Envoy ended meanwhile
    UNREACHABLE = "unreachable"  # its admin interface could not be asked at all
    STOPPED = "stopped"  # the processor was told to end


@dataclass(frozen=True, slots=True)
class Drained:
    """What was seen: requests running at the end (None = unknown), and how many seconds it took."""

    result: Result
    active: int | None
    seconds: float


class Drain:
    """Drains one Envoy, once.

    Args:
        admin: ``host:port`` of Envoy's admin interface.
        least: seconds it takes even if nothing is running: until nobody sends here any more.
        most: seconds after which it is over even if something is.
        poll: seconds between two looks at what is running.

    Raises:
        ValueError: the times make no sense.
    """

    def __init__(
        self,
        admin: str,
        *,
        least: float = 5.0,
        most: float = 120.0,
        poll: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= least <= most:
            raise ValueError(f"the least time of a drain ({least:g} s) must be 0 to its most ({most:g} s)")
        self._base = f"http://{admin}"
        self._least = least
        self._most = most
        self._poll = poll
        self._clock = clock
        self._task: asyncio.Task[Drained] | None = None

    @property
    def begun(self) -> bool:
        """Whether anybody has asked for it."""
        return self._task is not None

    async def run(self) -> Drained:
        """Drain, or wait for the drain that runs, or say how it was. A caller that leaves does not end it."""
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        await asyncio.wait({self._task})
        return Drained(Result.STOPPED, None, 0.0) if self._task.cancelled() else self._task.result()

    async def stop(self) -> None:
        """Give up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _drain(self) -> Drained:
        started = self._clock()
        _LOG.info("draining Envoy: %g s at least, %g s at most", self._least, self._most)
        timeout = aiohttp.ClientTimeout(total=_CALL_S)
        # No connection is kept: Envoy's own end must not look like a broken one.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            result, active = await self._steps(session, started)
        drained = Drained(result, active, round(self._clock() - started, 3))
        level = logging.INFO if result is Result.DRAINED else logging.WARNING
        _LOG.log(level, "drain of Envoy: %s after %.1f s, %s requests running", result, drained.seconds, active)
        return drained

    async def _steps(self, session: aiohttp.ClientSession, started: float) -> tuple[Result, int | None]:
        for path in _STEPS:
            while not await self._post(session, path):
                # An Envoy that only just starts may not listen yet.
                if self._clock() - started >= self._least:
                    return Result.UNREACHABLE, None
                await asyncio.sleep(self._poll)
        active: int | None = None
        gone_since: float | None = None
        while True:
            try:
                active = await self._active(session)
                gone_since = None
            except aiohttp.ClientConnectorError:
                gone_since = self._clock() if gone_since is None else gone_since
                if self._clock() - gone_since >= 4 * self._poll:
                    return Result.GONE, None
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                # Busy, perhaps; the time limit holds.
                _LOG.warning("cannot see what runs in Envoy: %s", str(error) or type(error).__name__)
            spent = self._clock() - started
            if active == 0 and gone_since is None and spent >= self._least:
                return Result.DRAINED, 0
            if spent >= self._most:
                return Result.TIMEOUT, active
            await asyncio.sleep(self._poll)

    async def _post(self, session: aiohttp.ClientSession, path: str) -> bool:
        """Whether Envoy was reached."""
        try:
            async with session.post(self._base + path) as response:
                if response.status != 200:
                    _LOG.warning("Envoy answers POST %s with status %d", path, response.status)
                return True
        except (aiohttp.ClientError, TimeoutError) as error:
            _LOG.warning("Envoy's admin interface does not answer: %s", str(error) or type(error).__name__)
            return False

    async def _active(self, session: aiohttp.ClientSession) -> int:
        """Requests of clients that run now; 0 where there is no listener, for then nobody can send any."""
        query = {"format": "json", "filter": f"^{re.escape(ACTIVE_STAT)}$"}
        async with session.get(f"{self._base}/stats", params=query) as response:
            response.raise_for_status()
            page = bytearray()
            async for chunk in response.content.iter_any():
                page += chunk
                if len(page) > _MAX_ANSWER:
                    raise ValueError("an answer far too long")
        return _value(bytes(page))


def _value(page: bytes) -> int:
    """The one number on a page of Envoy's statistics.

    Raises:
        ValueError: it is not such a page.
    """
    try:
        found = [entry["value"] for entry in orjson.loads(page)["stats"] if entry.get("name") == ACTIVE_STAT]
        return int(found[0]) if found else 0
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not Envoy's statistics ({type(error).__name__})") from None


class DrainServer:
    """HTTP on ``host:port``: GET or POST ``/drain`` answers when the drain is over, with a ``Drained`` as JSON.

    Status 200, also after a time-out; 502 if Envoy could not be asked, 503 if the processor is stopped meanwhile. Reachable
    from outside the pod, for the kubelet calls it: a NetworkPolicy should let nobody else in.
    """

    def __init__(self, drain: Drain, host: str, port: int) -> None:
        self._drain = drain
        self._host = host
        self.port = port
        app = web.Application(client_max_size=1024)
        app.router.add_get("/drain", self._answer, allow_head=False)
        app.router.add_post("/drain", self._answer)
        # Callers wait for minutes here; at the end they are not waited for.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self) -> None:
        """Bind and serve; raises OSError when the address is taken. ``port`` is the real one afterwards."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop serving, and give up a drain that still runs."""
        await self._drain.stop()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        drained = await self._drain.run()
        status = {Result.UNREACHABLE: 502, Result.STOPPED: 503}.get(drained.result, 200)
        return web.json_response(asdict(drained), status=status)
