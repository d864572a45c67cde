"""What a picker says: where to, the body back in pieces, and "go on" to everything about the answer.

Traps: in full duplex Envoy counts a body before the headers' reply as spurious, an empty reply to a body as an error, and
pieces of 64 KiB or more as too large for some gateways; hence ``PIECE``. A reply that only
sets metadata does not clear the route cache, so the header must go with it.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from envoy.service.ext_proc.v3.external_processor_pb2 import CommonResponse, ProcessingResponse

from ralb_api import headers

PIECE: Final = 62_000
"""Most bytes of one piece of a body."""
_OVERWRITE: Final = 2  # OVERWRITE_IF_EXISTS_OR_ADD


def headers_reply(picks: str, remove: Iterable[str], length: int | None) -> ProcessingResponse:
    """The reply to request headers: the pick.

    Args:
        picks: endpoints in order of preference, with commas.
        remove: request headers that must not reach the pod.
        length: bytes of the body that follows; None to leave the header as it is.
    """
    message = ProcessingResponse()
    _pick(message, message.request_headers.response, picks, remove, length)
    return message


def body_reply(picks: str, remove: Iterable[str]) -> ProcessingResponse:
    """The reply to a request body that was sent whole (``BUFFERED``): the pick, the body as it is."""
    message = ProcessingResponse()
    _pick(message, message.request_body.response, picks, remove, None)
    return message


def _pick(
    message: ProcessingResponse, common: CommonResponse, picks: str, remove: Iterable[str], length: int | None
) -> None:
    common.clear_route_cache = True
    _set(common, headers.DESTINATION, picks)
    if length is not None:
        _set(common, "content-length", str(length))
    common.header_mutation.remove_headers.extend(remove)
    message.dynamic_metadata.fields[headers.METADATA_LB].struct_value.fields[
        headers.METADATA_LB_KEY
    ].string_value = picks


def answer_headers(decision_id: str) -> ProcessingResponse:
    """The reply to response headers; "" for an answer to a request that was not placed."""
    message = ProcessingResponse()
    message.response_headers.SetInParent()
    if decision_id:
        _set(message.response_headers.response, headers.DECISION_ID, decision_id)
    return message


def pieces(body: bytes, *, answer: bool, last: bool) -> Iterator[ProcessingResponse]:
    """A body, or a part of one, as streamed replies; at least one if it is the last part, with ``end_of_stream`` on the last.

    Args:
        body: the bytes.
        answer: whether it is the answer's, else the request's.
        last: whether the body ends with it.
    """
    for start in range(0, len(body) or (1 if last else 0), PIECE):
        message = ProcessingResponse()
        part: Any = message.response_body if answer else message.request_body
        streamed = part.response.body_mutation.streamed_response
        streamed.body = body[start : start + PIECE]
        streamed.end_of_stream = last and start + PIECE >= len(body)
        yield message


def _set(common: CommonResponse, name: str, value: str) -> None:
    option = common.header_mutation.set_headers.add()
    option.header.key = name
    option.header.raw_value = value.encode()
    option.append_action = _OVERWRITE
