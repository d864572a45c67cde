"""gRPC as Envoy speaks it to us: a server for few peers, many short streams, and handlers that answer at once.

Why not grpc.aio: its server needs about ten times the CPU per ext_proc stream (three threads hand each event on; see
``make bench-extproc``), which was more than everything else in the request path together. What is here is the part of HTTP/2 and
gRPC that such streams need, over plain asyncio: ``frames`` (bytes), ``calls`` (what handlers see), ``connection`` (the protocol
without I/O, with its parts ``reader``, ``blocks`` and ``output``), ``server`` (I/O).

May not enter: what the messages mean. Not meant for the open internet: the peers are our own Envoys on a Unix socket or a pod
network; all sizes and counts are bounded all the same.
"""

from ralb_extproc.wire.calls import Call, Handler, Limits, Status
from ralb_extproc.wire.server import Server

__all__ = ["Call", "Handler", "Limits", "Server", "Status"]
