"""``grpc.health.v1``: what gateways and the kubelet ask.

``liveness`` is served as long as the process is; ``readiness``, the ext_proc service and the nameless whole once every pool
asked for is in the snapshot, until the process is told to stop. Readiness says nothing about pods: a pool without any is
answered with 503.

The messages are one string and one enum in field 1, and are read and written as the well-known wrappers, which are the same
bytes.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from ralb_extproc.wire import Call, Server, Status

LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
EXT_PROC: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
_AS_READY: Final = frozenset({"", READINESS, EXT_PROC})
_MAX_WATCHES: Final = 1000


class Serving(IntEnum):
    """``HealthCheckResponse.ServingStatus``."""

    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class Health:
    """The service.

    Args:
        ready: whether requests can be placed.

    Attributes:
        stopping: ``stop`` was called.
    """

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self._watches: set[_Watch] = set()
        self.stopping = False

    def add_to(self, server: Server) -> None:
        """Register with a server."""
        server.add("/grpc.health.v1.Health/Check", lambda call: _Check(self, call))
        server.add("/grpc.health.v1.Health/Watch", lambda call: _Watch(self, call))

    def status(self, service: str) -> Serving:
        """What is to be said of a service now."""
        if service == LIVENESS:
            return Serving.SERVING
        if service in _AS_READY:
            return Serving.SERVING if self._ready() and not self.stopping else Serving.NOT_SERVING
        return Serving.SERVICE_UNKNOWN

    def tell(self) -> None:
        """Tell those who watch, if anything changed."""
        for watch in tuple(self._watches):
            watch.tell()

    def stop(self) -> None:
        """No more ready; watches end."""
        self.stopping = True
        for watch in tuple(self._watches):
            watch.tell()
            watch.end()

    def enter(self, watch: "_Watch") -> bool:
        """Take a watch in; False if there are too many."""
        if len(self._watches) >= _MAX_WATCHES:
            return False
        self._watches.add(watch)
        return True

    def leave(self, watch: "_Watch") -> None:
        """Forget a watch."""
        self._watches.discard(watch)


class _Check:
    def __init__(self, health: Health, call: Call) -> None:
        self._health = health
        self._call = call

    def message(self, data: bytes) -> None:
        service = _service(self._call, data)
        if service is None:
            return
        status = self._health.status(service)
        if status is Serving.SERVICE_UNKNOWN:
            self._call.finish(Status.NOT_FOUND, "no such service here")
            return
        self._call.send(_response(status))
        self._call.finish()

    def end(self) -> None:
        self._call.finish(Status.INVALID_ARGUMENT, "a call without a message")

    def lost(self) -> None:
        """Nothing is held."""


class _Watch:
    def __init__(self, health: Health, call: Call) -> None:
        self._health = health
        self._call = call
        self._service: str | None = None
        self._said: Serving | None = None

    def message(self, data: bytes) -> None:
        service = _service(self._call, data)
        if service is None:
            return
        if self._service is not None or not self._health.enter(self):
            self._health.leave(self)
            self._call.finish(Status.RESOURCE_EXHAUSTED, "too many watches, or a second message on one")
            return
        self._service = service
        self.tell()
        if self._health.stopping:
            self.end()  # or a client that asks again and again would keep us from ending

    def tell(self) -> None:
        """Say the status, if it is not what was said last."""
        status = self._health.status(self._service or "")
        if status is not self._said:
            self._said = status
            self._call.send(_response(status))

    def end(self) -> None:
        # A client that has said which service half-closes: that is no reason to stop telling it. Ours is.
        if self._service is None or self._health.stopping:
            self._health.leave(self)
            self._call.finish()

    def lost(self) -> None:
        self._health.leave(self)


def _service(call: Call, data: bytes) -> str | None:
    """The name asked for, or None after ending the call because the message is none."""
    try:
        return str(StringValue.FromString(data).value)
    except DecodeError:
        call.finish(Status.INVALID_ARGUMENT, "not a HealthCheckRequest")
        return None


def _response(status: Serving) -> bytes:
    return Int32Value(value=status).SerializeToString()
