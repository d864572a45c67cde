"""Rewriting the request for one attempt: the answer to the upstream filter of a pool's rewriting cluster.

The body gets the pool's model name, and every reference to KV blocks on another pod is taken out: they are handed over once, to
the first attempt.

Stateless: the target name comes with the stream's initial metadata, so any processor can answer for any request.
"""

import orjson
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse

from ralb_api.headers import PREFILLER
from ralb_extproc.prefill.body import TRANSFER


def _without_length() -> bytes:
    message = ProcessingResponse()
    # Changes by upstream filters persist into later attempts; a length set here would be wrong for the next one.
    message.request_headers.response.header_mutation.remove_headers.extend(("content-length", PREFILLER))
    return bytes(message.SerializeToString())


REWRITE_HEADERS: bytes = _without_length()


def rewritten(body: bytes, model: str) -> ProcessingResponse:
    """The body under another model name, without KV blocks to fetch. A body that is not a JSON object is passed as it is."""
    message = ProcessingResponse()
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        content = None
    if isinstance(content, dict):
        content["model"] = model
        content.pop(TRANSFER, None)
        message.request_body.response.body_mutation.body = orjson.dumps(content)
    else:
        message.request_body.SetInParent()
    return message
