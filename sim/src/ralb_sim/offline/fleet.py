"""What happens to the pods of a run besides the requests: late starts, deaths, slowness, frozen metrics. Plain data."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import inf


class Kind(StrEnum):
    """What happens."""

    START = "start"  # an absent pod becomes ready, its cache empty and no fault left; one that was there starts again
    STOP = "stop"  # the pod dies with all it has
    SPEED = "speed"  # its steps take 1/value of their normal time, from the next one on
    FREEZE = "freeze"  # its metrics page stops changing (value 1) or follows again (value 0)
    ERRORS = "errors"  # so large a share of its requests fails at once


_RANGES = {Kind.SPEED: (0.001, 1000.0), Kind.ERRORS: (0.0, 1.0), Kind.FREEZE: (0.0, 1.0)}


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


def check(events: Iterable[Event], pods: int) -> None:
    """Refuse what cannot happen to a fleet of so many pods.

    Raises:
        ValueError: there is no such pod or time, or the value is out of range.
    """
    for event in events:
        least, most = _RANGES.get(event.kind, (-inf, inf))
        if not 0 <= event.pod < pods:
            raise ValueError(f"event {event.kind} of pod {event.pod}: there are pods 0 to {pods - 1}")
        if not 0 <= event.at < inf:
            raise ValueError(
                f"event {event.kind} of pod {event.pod}: its time must be 0 or more seconds, not {event.at:g}"
            )
        if not least <= event.value <= most:
            raise ValueError(
                f"event {event.kind} of pod {event.pod}: expected a value from {least:g} to {most:g}, not {event.value:g}"
            )
