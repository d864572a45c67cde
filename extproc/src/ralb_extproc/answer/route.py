"""The reply that routes a request: new body, order of attempts as dynamic metadata, and one header.

Trap: ``clear_route_cache`` does nothing unless the same reply changes a header, so the decision id always goes out as one.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse
from google.protobuf.struct_pb2 import Value

from ralb_api import headers
from ralb_extproc.types import Placement

# Beyond our own time limit, so that it comes before Envoy's.
_MORE_S: Final = 5.0


def routed(
    body: bytes,
    placement: Placement,
    *,
    decision_id: str,
    tier: str,
    remove: Iterable[str],
    explanation: str = "",
    prefiller: str = "",
) -> ProcessingResponse:
    """Send a request on its way.

    Args:
        body: what the first attempt's server gets.
        placement: attempt N of the request goes to entry N.
        decision_id: joins the access log's record to the decision.
        tier: tier name for the answer's header; "" for none.
        remove: request headers that must not reach the pod.
        explanation: for the answer's header; "" for none.
        prefiller: prefill pod the decode pod's sidecar is told of, ``ip:port``; "" for none.
    """
    message = ProcessingResponse()
    common = message.request_body.response
    common.clear_route_cache = True
    common.body_mutation.body = body
    mutation = common.header_mutation
    values = [(headers.DECISION_ID, decision_id), ("content-length", str(len(body)))]
    if prefiller:
        values.append((headers.PREFILLER, prefiller))
    for name, value in values:
        option = mutation.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode()
        option.append_action = 2  # OVERWRITE_IF_EXISTS_OR_ADD
    mutation.remove_headers.extend(remove)

    metadata = message.dynamic_metadata.fields
    picks = ",".join(attempt.endpoint for attempt in placement.attempts if attempt.endpoint)
    if picks:
        metadata[headers.METADATA_LB].struct_value.fields[headers.METADATA_LB_KEY].string_value = picks
    metadata[headers.METADATA_ORDER].CopyFrom(_order(tuple(attempt.cluster for attempt in placement.attempts)))
    decision = metadata[headers.METADATA_DECISION].struct_value.fields
    decision["id"].string_value = decision_id
    if placement.hash_key:
        decision[headers.METADATA_HASH_KEY].string_value = placement.hash_key
    if tier:
        decision["tier"].string_value = tier
    if explanation:
        decision["explanation"].string_value = explanation
    return message


def more_time(seconds: float) -> ProcessingResponse:
    """Ask Envoy to wait longer for the reply to the message it sent last. It may be asked once per message."""
    message = ProcessingResponse()
    message.override_message_timeout.FromMilliseconds(round((seconds + _MORE_S) * 1000.0))
    return message


@lru_cache(maxsize=4096)
def _order(clusters: tuple[str, ...]) -> Value:
    """The priority_groups override: one group per attempt, with its cluster inline. Few orders occur, so they are kept."""
    value = Value()
    groups = value.struct_value.fields["priority_groups"].list_value.values
    for position, name in enumerate(clusters):
        group = groups.add().struct_value.fields
        group["name"].string_value = str(position)
        cluster = group["clusters"].list_value.values.add().struct_value.fields
        cluster["cluster_name"].string_value = name
        cluster["weight"].number_value = 1
    return value
