"""Replies that need no model: errors, and the list of models."""

import orjson
from envoy.service.ext_proc.v3.external_processor_pb2 import HeadersResponse, ProcessingResponse

from ralb_api.errors import ClientError
from ralb_extproc.table import RoutingTable
from ralb_extproc.types import Api

# Envoy maps its own refusals to our error shapes; details with this prefix tell it that an answer is ours already.
_DETAILS_PREFIX = "ralb_"
_OWNER = "ralb"

# "Go on": the same bytes for every request, so they are made once.
CONTINUE: bytes = ProcessingResponse(request_headers=HeadersResponse()).SerializeToString()


def reply(error: ClientError, *, path: str = "") -> ProcessingResponse:
    """The error in the shape of the API family that ``path`` belongs to."""
    anthropic = path.startswith(Api.MESSAGES)
    message = _immediate(error.status, error.body(anthropic=anthropic), str(error.code))
    for name, value in error.headers:
        _set(message, name, value)
    return message


def models_reply(body: bytes) -> ProcessingResponse:
    """A JSON answer with status 200."""
    return _immediate(200, body, "models")


def models_body(table: RoutingTable, path: str) -> bytes | None:
    """``GET /v1/models`` or ``/v1/models/{id}``; None when there is no such model.

    The list has OpenAI's shape; ``max_model_len`` is added where known, as vLLM does.
    """
    wanted = path.removeprefix("/v1/models").strip("/")
    entries = [
        {
            "id": model.id,
            "object": "model",
            "created": 0,
            "owned_by": _OWNER,
            **({"max_model_len": model.context_window} if model.context_window else {}),
        }
        for model in table.models
        if not wanted or model.id == wanted
    ]
    if wanted:
        return orjson.dumps(entries[0]) if entries else None
    return orjson.dumps({"object": "list", "data": entries})


def _immediate(status: int, body: bytes, details: str) -> ProcessingResponse:
    message = ProcessingResponse()
    answer = message.immediate_response
    answer.status.code = status
    answer.body = body
    answer.details = _DETAILS_PREFIX + details
    _set(message, "content-type", "application/json")
    return message


def _set(message: ProcessingResponse, name: str, value: str) -> None:
    option = message.immediate_response.headers.set_headers.add()
    option.header.key = name
    option.header.raw_value = value.encode()
