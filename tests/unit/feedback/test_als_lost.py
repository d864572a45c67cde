import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ralb_extproc.feedback import AccessLogService


async def _stream(end: asyncio.Event) -> AsyncIterator[Any]:
    await end.wait()
    return
    yield


async def test_it_is_known_when_the_last_stream_ended() -> None:
    service = AccessLogService(lambda _: None)
    ends = [asyncio.Event(), asyncio.Event()]
    streams = [asyncio.create_task(service.StreamAccessLogs(_stream(end), None)) for end in ends]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert service.streams == 2
    ends[0].set()
    await streams[0]
    assert service.lost_at is None
    ends[1].set()
    await streams[1]
    first = service.lost_at
    assert first is not None
    # A new one does not bring back what the old ones might have said.
    again = asyncio.create_task(service.StreamAccessLogs(_stream(asyncio.Event()), None))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert (service.streams, service.lost_at) == (1, first)
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert service.lost_at is not None
    assert service.lost_at >= first
