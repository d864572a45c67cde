"""ext_proc replies: route a request, refuse it, answer it here, rewrite a body for one attempt.

May not enter: deciding anything. Everything here turns a finished decision into protocol messages.
"""

from ralb_extproc.answer.body import upstream_body, upstream_fields
from ralb_extproc.answer.immediate import CONTINUE, models_body, models_reply, reply
from ralb_extproc.answer.rewrite import REWRITE_HEADERS, rewritten
from ralb_extproc.answer.route import more_time, routed

__all__ = [
    "CONTINUE",
    "REWRITE_HEADERS",
    "models_body",
    "models_reply",
    "more_time",
    "reply",
    "rewritten",
    "routed",
    "upstream_body",
    "upstream_fields",
]
