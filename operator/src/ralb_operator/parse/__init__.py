"""Plain data to objects, whether it came from a file or from a cluster: the value, or problems that say what to fix.

One function per kind, all of one shape: ``to_x(data, file="") -> Parsed[X]``. None of them raises, whatever the data.

May not enter: reading anything, and rules across objects (``compile`` has those).
"""

from ralb_operator.parse.common import INVALID, Parsed, key_of, problems_of
from ralb_operator.parse.gateway_api import to_grant, to_inference_pool
from ralb_operator.parse.objects import concerns_us, foreign_kind, ignored, to_object
from ralb_operator.parse.pods import PORT_ANNOTATION, to_pod
from ralb_operator.parse.secrets import to_secret
from ralb_operator.parse.services import to_service, to_slice

__all__ = [
    "INVALID",
    "PORT_ANNOTATION",
    "Parsed",
    "concerns_us",
    "foreign_kind",
    "ignored",
    "key_of",
    "problems_of",
    "to_grant",
    "to_inference_pool",
    "to_object",
    "to_pod",
    "to_secret",
    "to_service",
    "to_slice",
]
