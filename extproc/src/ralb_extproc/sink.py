"""Where decision records go: stdout or a file, one JSON line each, without ever holding up a request.

Lines are gathered and written by a thread of their own. When that thread cannot keep up, the newest records are dropped and
counted, memory stays bounded.
"""

import logging
import queue
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import orjson

_LOG = logging.getLogger(__name__)
_LIMIT = 10_000
_BATCH = 1_000


class RecordSink:
    """Writes records to ``target``: "-" for stdout, "" for nowhere, else a file to append to.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, target: str) -> None:
        self.dropped = 0
        self.written = 0
        self.enabled = bool(target)
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_LIMIT)
        self._file: BinaryIO | None = None
        self._own = target not in ("", "-")
        if self._own:
            self._file = Path(target).open("ab", buffering=0)  # noqa: SIM115 - closed by close()
        elif target == "-":
            self._file = sys.stdout.buffer
        self._thread = threading.Thread(target=self._run, name="ralb-records", daemon=True)
        if self.enabled:
            self._thread.start()

    def put(self, record: dict[str, Any]) -> None:
        """Hand over a record; never blocks."""
        if not self.enabled:
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is waiting, for at most two seconds, and close."""
        if not self.enabled:
            return
        self.enabled = False
        try:
            self._queue.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(timeout=2)
        if self._own and self._file is not None:
            self._file.close()

    def _run(self) -> None:
        stop = False
        while not stop:
            batch = [self._queue.get()]
            while len(batch) < _BATCH:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            stop = None in batch
            lines = [orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in batch if record is not None]
            if lines:
                self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        assert self._file is not None
        try:
            self._file.write(b"".join(lines))
            self._file.flush()
            self.written += len(lines)
        except OSError:
            # A full disk or a closed pipe must not stop routing.
            if not self.dropped:
                _LOG.exception("decision records cannot be written; they are dropped from now on until it works again")
            self.dropped += len(lines)
