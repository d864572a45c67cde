"""Where decision records go: stdout or a file, one JSON line each, without ever holding up a request.

Lines are gathered on the event loop and written in batches by a worker thread. When the writing cannot keep up, the newest
records are dropped and counted; memory stays bounded. Trap: waking a thread per record costs more than making the record.
"""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any, BinaryIO

import orjson

_LOG = logging.getLogger(__name__)
_LIMIT = 20_000
_EVERY_S = 0.1


class RecordSink:
    """Writes records to ``target``: "-" for stdout, "" for nowhere, else a file to append to.

    Raises:
        OSError: the file cannot be opened.

    Attributes:
        written: records on their way to the target's buffers.
        dropped: records lost because writing was too slow or failed.
    """

    def __init__(self, target: str, *, limit: int = _LIMIT) -> None:
        self.dropped = 0
        self.written = 0
        self.enabled = bool(target)
        self._limit = limit
        self._lines: list[bytes] = []
        self._failing = False
        self._own = target not in ("", "-")
        self._file: BinaryIO | None = None
        if self._own:
            self._file = Path(target).open("ab", buffering=0)  # noqa: SIM115 - closed by close()
        elif target == "-":
            self._file = sys.stdout.buffer

    def put(self, record: dict[str, Any]) -> None:
        """Hand over a record; never blocks."""
        if not self.enabled:
            return
        if len(self._lines) >= self._limit:
            self.dropped += 1
            return
        self._lines.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    async def run(self) -> None:
        """Write what has gathered, ten times a second, until cancelled."""
        while self.enabled:
            await asyncio.sleep(_EVERY_S)
            if self._lines:
                lines, self._lines = self._lines, []
                await asyncio.to_thread(self._write, lines)

    def close(self) -> None:
        """Write what is left and close. Blocks for as long as that takes."""
        if not self.enabled:
            return
        self.enabled = False
        if self._lines:
            self._write(self._lines)
            self._lines = []
        if self._own and self._file is not None:
            self._file.close()

    def _write(self, lines: list[bytes]) -> None:
        assert self._file is not None
        try:
            self._file.write(b"".join(lines))
            self._file.flush()
            self.written += len(lines)
            self._failing = False
        except (OSError, ValueError):
            # A full disk or a closed pipe must not stop routing.
            if not self._failing:
                _LOG.exception("decision records cannot be written; they are dropped until it works again")
            self._failing = True
            self.dropped += len(lines)
