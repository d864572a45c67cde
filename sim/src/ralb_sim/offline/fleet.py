"""What happens to the pods of a run besides the requests: late starts, deaths, slowness, frozen metrics. Plain data."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What happens."""

    START = "start"  # an absent pod becomes ready, its cache empty
    STOP = "stop"  # the pod dies with all it has
    SPEED = "speed"  # its steps take 1/value of their normal time
    FREEZE = "freeze"  # its metrics page stops changing (value 1) or follows again (value 0)
    ERRORS = "errors"  # so large a share of its requests fails at once


@dataclass(frozen=True, slots=True)
class Event:
    """Something happens to a pod.

    Attributes:
        at: seconds of simulated time.
        pod: which.
        kind: what.
        value: see ``Kind``.
    """

    at: float
    pod: int
    kind: Kind
    value: float = 1.0


def absent_at_start(events: Iterable[Event]) -> set[int]:
    """Pods whose first event is a start."""
    first: dict[int, Kind] = {}
    for event in sorted(events, key=lambda event: event.at):
        first.setdefault(event.pod, event.kind)
    return {pod for pod, kind in first.items() if kind is Kind.START}
