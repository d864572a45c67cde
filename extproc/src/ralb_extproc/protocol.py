"""ext_proc messages as bytes and back: what every handler of such streams needs.

May not enter: decisions, and replies that say something (``answer``, ``epp.replies``).
"""

from typing import Any, TypeAlias

from envoy.service.ext_proc.v3.external_processor_pb2 import HttpHeaders, ProcessingRequest, ProcessingResponse
from google.protobuf.message import DecodeError

from ralb_extproc.wire import Call, Status

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
# A ProcessingResponse, or one serialized before (the generated classes carry no types).
Reply: TypeAlias = Any


def parsed(call: Call, data: bytes) -> Any:
    """The message, or None after ending the call because it is none."""
    try:
        return ProcessingRequest.FromString(data)
    except DecodeError:
        call.finish(Status.INVALID_ARGUMENT, "not a ProcessingRequest")
        return None


def headers_of(message: HttpHeaders) -> dict[str, str]:
    """Headers by name; of a repeated one the first counts. Bytes that are not UTF-8 are replaced."""
    out: dict[str, str] = {}
    for header in message.headers.headers:
        out.setdefault(header.key, (header.raw_value or header.value.encode()).decode("utf-8", "replace"))
    return out


def pass_on(kind: str | None) -> ProcessingResponse:
    """An empty reply of the same kind."""
    message = ProcessingResponse()
    if kind is not None:
        getattr(message, kind).SetInParent()
    return message


def serialized(message: Reply) -> bytes:
    """The reply as bytes."""
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())
