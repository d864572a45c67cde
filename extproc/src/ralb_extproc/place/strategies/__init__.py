"""The balancing strategies, one short file each; its docstring says the algorithm, the signals it reads and its limits.

May not enter: state of pods (``pods``), classes and tie-breaks (``strategy``), I/O.
"""

from ralb_extproc.place.strategies.reasoning_aware import ReasoningAware
from ralb_extproc.place.strategy import Strategy


def new_strategy() -> Strategy:
    """The strategy of a pool."""
    return ReasoningAware()


__all__ = ["ReasoningAware", "new_strategy"]
