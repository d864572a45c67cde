"""What became of the requests: Envoy's access log in, corrections of the pod table out.

    learner = Learner(pods, settled=telemetry.settled)
    AccessLogService(learner.learn).add_to(server)

May not enter: answer bodies, prompts, anything the request path would have to wait for.
"""

from ralb_extproc.feedback.als import AccessLogService
from ralb_extproc.feedback.learn import Learner, Settled, Usage
from ralb_extproc.feedback.lengths import Lengths
from ralb_extproc.feedback.outcome import MAX_ID, POD_FAILURES, Failure, Outcome, outcome_of

__all__ = [
    "MAX_ID",
    "POD_FAILURES",
    "AccessLogService",
    "Failure",
    "Learner",
    "Lengths",
    "Outcome",
    "Settled",
    "Usage",
    "outcome_of",
]
