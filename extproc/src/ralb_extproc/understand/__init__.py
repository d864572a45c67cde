"""What a request is about and how hard it is: features, then a score, behind one interface.

``Understander`` is the interface; ``FeatureScore`` is the implementation that needs no training and shows its sums. A
trained model takes its place without anything else changing. May not enter: the snapshot, routing, I/O; an understander
sees one request and answers in well under a millisecond.
"""

from typing import Final, Protocol

from ralb_api.intents import INTENTS
from ralb_extproc.types import Request, Understanding
from ralb_extproc.understand.features import Features, observe
from ralb_extproc.understand.score import FeatureScore

__all__ = ["DEFAULT", "INTENTS", "FeatureScore", "Features", "Understander", "observe"]


class Understander(Protocol):
    """Estimates what a request is about; stateless from the caller's view, never raises, never blocks."""

    @property
    def version(self) -> str:
        """Name and version for records; changes whenever the same request may be judged differently."""
        ...

    def understand(self, request: Request) -> Understanding:
        """Judge one request."""
        ...


DEFAULT: Final[Understander] = FeatureScore()
